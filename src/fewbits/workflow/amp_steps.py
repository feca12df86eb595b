"""What follows from a run of automatic mixed precision: why its result is what it is, and what to do next."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.workflow.next_step import Steps, command_line

_ONLY = (
    "data", "eval_data", "metric", "candidates", "cost", "target", "samples", "eval_samples", "batch_size", "ranges",
    "weight_ranges", "max_drop", "min_sqnr", "budget",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first whose `holds` is true says why the result is what it is."""

    holds: Callable[[AmpRecord], bool]
    says: Callable[[AmpRecord], str]


RULES: tuple[Rule, ...] = (
    Rule(
        lambda r: r.is_accepted and r.budget is not None and r.goal["is_default"],
        lambda r: f"{_said(r, _chosen(r))} loses the least of all that were scored within the budget.",
    ),
    Rule(
        lambda r: r.is_accepted and _chosen(r).origin == "uniform" and _chosen(r) is r.points[0],
        lambda r: f"the cheapest profile of all is within the goal ({_said(r, _chosen(r))}).",
    ),
    Rule(
        lambda r: r.is_accepted and _next_cheaper(r) is not None,
        lambda r: (
            f"{_said(r, _chosen(r))} is the cheapest that is within the goal; the next cheaper one that was scored is "
            f"not ({_said(r, _next_cheaper(r) or _chosen(r))})."
        ),
    ),
    Rule(
        lambda r: r.is_accepted,
        lambda r: f"{_said(r, _chosen(r))} is within the goal, and nothing cheaper was scored.",
    ),
    Rule(
        lambda r: True,
        lambda r: f"no profile that was scored is within the goal; {_said(r, _chosen(r))} comes closest.",
    ),
)
"""Why, with the figures it rests on: read from the top."""


def reason_of(record: AmpRecord) -> str:
    """Return why the result is what it is, in one sentence."""
    return next(rule.says(record) for rule in RULES if rule.holds(record))


def steps_after(record: AmpRecord, options: Mapping[str, Any], output: Path | None) -> Steps:
    """Return (why, command) pairs: first how to check what was made, then how to find something better.

    Args:
        record: of the run, without its steps.
        options: of the run, by option name.
        output: folder of the run; None where nothing was kept.
    """
    return (*_kept(record, output), *_further(record, options))


def _kept(record: AmpRecord, output: Path | None) -> Iterator[tuple[str, str]]:
    if output is None:
        return
    yield "check what is handed over", shlex.join(["fewbits", "verify", str(output)])
    others = [p for p in record.points if p.score is not None and p.number != record.chosen]
    if others:
        number, folder = str(others[-1].number), str(output / "deploy")
        words = ["fewbits", "export", str(output), "--point", number, "-o", folder]
        yield f"take another point of the curve, such as {number}", shlex.join(words)


def _further(record: AmpRecord, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if record.is_accepted:
        return
    again = {**options, "output": options.get("output") or "OUT", "candidates": ",".join(record.candidates)}
    only = (*_ONLY, "output")
    if record.budget is not None and record.is_finished:
        yield "look for a profile without a budget", command_line("amp", {**again, "budget": None}, only=only)
    elif "w16a16" not in record.candidates:
        wider = {**again, "candidates": ",".join((*record.candidates, "w16a16"))}
        yield "offer a wider precision", command_line("amp", wider, only=only)
    analyzed = {**options, "higher_is_better": None}
    kept = ("data", "target", "samples", "batch_size", "ranges", "weight_ranges")
    yield "see what the model is sensitive to", command_line("analyze", analyzed, only=kept, output="OUT")


def _chosen(record: AmpRecord) -> Point:
    found = None if record.chosen is None else record.point(record.chosen)
    assert found is not None
    return found


def _next_cheaper(record: AmpRecord) -> Point | None:
    """Return the costliest scored point that is cheaper than the chosen one."""
    chosen = _chosen(record)
    return max(
        (p for p in record.points if p.score is not None and p.cost < chosen.cost), key=lambda p: p.cost, default=None
    )


def _said(record: AmpRecord, point: Point) -> str:
    """Return number, shares, score and drop of a point as a person reads them."""
    parts = ", ".join(f"{100 * share:.0f} % {name}" for name, share in point.shares.items())
    unit, metric = record.metric["unit"], record.metric["name"]
    behind = f" {unit}".rstrip()
    text = f"point {point.number}: {parts}; {point.score:.2f}{behind}"
    if not metric.startswith("sqnr") and point.drop is not None:
        text += f", drop {point.drop:.2f}{behind}"
        if point.interval is not None:
            text += f" [{point.interval[0]:.2f} to {point.interval[1]:.2f}]"
    return text
