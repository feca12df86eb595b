"""What follows from a run of lite mixed precision: which candidate to take, why, and what to do next."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.analysis.evaluate import Evaluation
from fewbits.spec.precision import Precision
from fewbits.workflow.brute_force import SAMPLES
from fewbits.workflow.candidates import Candidate, figures
from fewbits.workflow.goal import Goal
from fewbits.workflow.next_step import Steps, command_line
from fewbits.workflow.verdict import Status

_ONLY = (
    "data", "eval_data", "metric", "base", "high", "ranking", "target", "samples", "eval_samples", "batch_size",
    "ranges", "weight_ranges", "max_drop", "min_sqnr", "most_macs", "output",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Lifted:
    """One percentage, scored.

    Attributes:
        percent: of the groups.
        groups: names of those that are lifted, in the order in which they were.
        share_macs: of the multiply-accumulates in them, 0 to 1; None where shapes are not known.
        candidate: its score and cost.
    """

    percent: float
    groups: tuple[str, ...]
    share_macs: float | None
    candidate: Candidate


@dataclass(frozen=True, slots=True, eq=False)
class Contestants:
    """Everything that was scored.

    Attributes:
        before: score of the float model.
        goal: what is acceptable.
        base: all of the network in the base precision.
        high: all of it in the higher precision.
        steps: by rising percentage.
        is_cut: the time was up before all of them were scored.
    """

    before: Evaluation
    goal: Goal
    base: Candidate
    high: Candidate
    steps: tuple[Lifted, ...]
    is_cut: bool = False

    @property
    def accepted(self) -> int | None:
        """Index of the first percentage that is within the goal, or None."""
        return next((i for i, step in enumerate(self.steps) if step.candidate.status is Status.OK), None)

    @property
    def best(self) -> Candidate:
        """The cheapest that is within the goal: base, then percentages, then high; the least drop where none is."""
        everything = [self.base, *(step.candidate for step in self.steps), self.high]
        found = next((c for c in everything if c.status is Status.OK), None)
        return found or min(everything, key=lambda c: self.goal.drop(c.drop, c.score))

    def said(self, candidate: Candidate) -> str:
        """Return name, score and drop of a candidate as a person reads them."""
        return f"{candidate.precision} {figures(candidate, self.before)}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first whose `holds` is true says why the result is what it is."""

    holds: Callable[[Contestants], bool]
    says: Callable[[Contestants], str]


RULES: tuple[Rule, ...] = (
    Rule(
        lambda c: c.base.status is Status.OK,
        lambda c: f"{c.base.precision} itself is within the goal, nothing needs lifting ({c.said(c.base)}).",
    ),
    Rule(
        lambda c: c.accepted is not None,
        lambda c: (
            f"{c.steps[c.accepted or 0].percent:g} % of the groups in {c.high.precision} are enough "
            f"({c.said(c.base)}; {c.said(c.best)})."
        ),
    ),
    Rule(
        lambda c: c.high.status is Status.POOR,
        lambda c: (
            f"even all of the network in {c.high.precision} is not within the goal, so that lifting groups to it is "
            f"not expected to be ({c.said(c.base)}; {c.said(c.high)})."
        ),
    ),
    Rule(
        lambda c: c.is_cut,
        lambda c: (
            f"the time was up before every percentage was scored, and none so far is within the goal "
            f"({c.said(c.base)}; {c.said(c.high)})."
        ),
    ),
    Rule(
        lambda c: c.high.status is Status.OK and bool(c.steps),
        lambda c: (
            f"{c.steps[-1].percent:g} % of the groups in {c.high.precision} are not enough, all of them are "
            f"({c.said(c.steps[-1].candidate)}; {c.said(c.high)})."
        ),
    ),
    Rule(
        lambda c: True,
        lambda c: (
            f"the drops are larger than allowed, but these samples cannot tell that of {c.high.precision} from noise "
            f"({c.said(c.base)}; {c.said(c.high)})."
        ),
    ),
)
"""Why, with the figures it rests on: read from the top."""


def reason_of(found: Contestants) -> str:
    """Return why the result is what it is, in one sentence."""
    return next(rule.says(found) for rule in RULES if rule.holds(found))


def steps_after(found: Contestants, options: Mapping[str, Any], output: Path | None) -> Steps:
    """Return (why, command) pairs: first how to check what was made, then how to find something better.

    Args:
        found: what was scored.
        options: of the run, by option name.
        output: folder of the run; None where nothing was kept.
    """
    return (*_kept(output), *_further(found, options), *_mixed(found, options))


def _kept(output: Path | None) -> Iterator[tuple[str, str]]:
    if output is not None:
        yield "check what is handed over", shlex.join(["fewbits", "verify", str(output)])


def _further(found: Contestants, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    accepted = found.accepted
    if found.base.status is Status.OK:
        return
    if accepted is not None:
        at, before = found.steps[accepted], found.steps[accepted - 1] if accepted else None
        below, fewer = (before.percent, len(before.groups)) if before else (0.0, 0)
        if len(at.groups) - fewer > 1:
            why = f"lift fewer groups, between {below:g} % and {at.percent:g} %"
            yield why, _again(options, percents=((below + at.percent) / 2,))
        return
    if found.high.status is Status.POOR:
        for precision in ("w8a16", "w16a16", "fp16"):
            if _is_wider(precision, found.high.precision):
                yield f"lift to {precision}", _again(options, high=precision)
                return
        only = (*(name for name in _ONLY if name not in ("base", "high", "ranking", "most_macs", "output")), "output")
        given = {**options, "output": "OUT"}
        yield "see what the model is sensitive to", command_line("baseline", given, only=only)
    elif found.high.status is Status.OK and found.steps and found.steps[-1].percent < 100:
        last = found.steps[-1].percent
        more = (round((2 * last + 100) / 3), round((last + 200) / 3))
        yield f"lift more than {last:g} % of the groups", _again(options, percents=more)
    if any(c.status is Status.NOISE for c in (found.high, *(step.candidate for step in found.steps))):
        yield "score on more samples", _again(options, eval_data="MORE_DATA", eval_samples=None)


def _mixed(found: Contestants, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Step 3 of the workflow, where there may be something cheaper than what suffices."""
    if found.base.status is Status.OK or found.best.status is not Status.OK:
        return
    only = tuple(name for name in _ONLY if name not in ("base", "high", "ranking", "most_macs", "output"))
    candidates = ",".join(dict.fromkeys((found.base.precision, found.high.precision, "fp16")))
    given = {**options, "output": "OUT"}
    yield (
        "find the cheapest mix of precisions",
        command_line("amp", given, only=(*only, "output"), candidates=candidates),
    )


def _again(options: Mapping[str, Any], **changes: Any) -> str:
    given = {**options, "output": options.get("output") or "OUT", **changes}
    percent = ",".join(f"{percent:g}" for percent in given["percents"])
    samples = None if options["rank_samples"] == SAMPLES else options["rank_samples"]
    return command_line("litemp", given, only=_ONLY, percent=percent, rank_samples=samples)


def _is_wider(precision: str, than: str) -> bool:
    wide, narrow = Precision.parse(precision), Precision.parse(than)
    if narrow.is_float:
        return False
    at_least = (w >= n for w, n in zip(wide.widths, narrow.widths, strict=True))
    return wide.is_float or (all(at_least) and wide != narrow)
