"""Two runs side by side on one page: verdicts, figures, settings, candidates, profiles and versions that differ."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits import __version__
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.html import text
from fewbits.reporting.html.chosen import MOST_NODES, default_precision, own_precisions
from fewbits.reporting.html.contest import Contest, compared_figure, contest_of, figure_json
from fewbits.reporting.html.lines import Line
from fewbits.reporting.html.page import fill, plotly
from fewbits.reporting.html.sources import Source
from fewbits.reporting.html.tables import ScoreTable, score_tables
from fewbits.reporting.html.verdict import Headline, headline
from fewbits.reporting.record import RunRecord

_OWN = ("output",)
"""Options that say nothing about what a run did."""

Rows = tuple[tuple[str, str, str], ...]
Say = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        label: folder, as the caller named it.
        source: its record.
        headline: what it concludes.
        tables: of its scores.
        contest: its candidates; None where it has no scores.
    """

    label: str
    source: Source
    headline: Headline
    tables: tuple[ScoreTable, ...]
    contest: Contest | None


@dataclass(frozen=True, slots=True)
class NodeDifferences:
    """Nodes whose precision differs between the two chosen models.

    Attributes:
        sentence: how many there are, or why they cannot be told.
        rows: (node, precision in the one, in the other), the first few hundred.
        more: how many are not among the rows.
    """

    sentence: str
    rows: Rows = ()
    more: int = 0


def render_comparison(first: Source, second: Source) -> str:
    """Return one self-contained page that sets two runs side by side, whatever verbs wrote them.

    Args:
        first: from `find_run`; `folder` is what the page calls it.
        second: the same.
    """
    sides = (_side(first), _side(second))
    contests = [side.contest for side in sides if side.contest is not None]
    is_drawn = len(contests) == len(sides) and len({_metric(contest) for contest in contests}) == 1
    facts: dict[str, Any] = {
        "sides": sides,
        "figures_of": tuple(_figures(*sides)),
        "warnings": tuple(_warnings(sides)),
        "settings": differing(*(_settings(side.source) for side in sides)),
        "nodes": node_differences(first.made, second.made),
        "versions": differing(*(_place(side.source) for side in sides)),
        "is_drawn": is_drawn,
        "version": __version__,
        "plotly": plotly() if is_drawn else "",
        "figures": figure_json([compared_figure(contests, _names(sides))]) if is_drawn else "",
    }
    return fill("compare.html.j2", facts)


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> Rows:
    """Return (name, value in the one, in the other) of what differs; a dash stands for what one lacks."""
    names = list(dict.fromkeys([*first, *second]))
    rows = ((name, first.get(name, text.NONE), second.get(name, text.NONE)) for name in names)
    return tuple(row for row in rows if row[1] != row[2])


def node_differences(first: RunRecord | None, second: RunRecord | None) -> NodeDifferences:
    """Return which nodes of two models have another precision, by what their records say."""
    if first is None or second is None:
        return NodeDifferences("One of the runs left no model in its folder, so that there are no profiles to compare.")
    if first.model.get("sha256") != second.model.get("sha256"):
        return NodeDifferences("The runs are of different models, so that their nodes cannot be set side by side.")
    own = own_precisions(first), own_precisions(second)
    rest = default_precision(first), default_precision(second)
    names = list(dict.fromkeys([*own[0], *own[1]]))
    rows = [(name, own[0].get(name, rest[0]), own[1].get(name, rest[1])) for name in names]
    rows = [row for row in rows if row[1] != row[2]]
    count, total = len(rows), sum(first.precision.values())
    if rest[0] != rest[1]:
        others = max(total - len(names), 0)
        count += others
        rows.insert(0, (f"all {others} other nodes", *rest))
    if not count:
        return NodeDifferences(f"All {total} nodes have the same precision in both.")
    said = f"{count} of {total} nodes have another precision."
    return NodeDifferences(said, tuple(rows[:MOST_NODES]), max(len(rows) - MOST_NODES, 0))


def _side(source: Source) -> Side:
    tables = tuple(score_tables([source]))
    return Side(source.label, source, headline([source], tables), tables, contest_of(source.record))


def _names(sides: Sequence[Side]) -> list[str]:
    """Return what the chart calls the runs, told apart where both have one name."""
    labels = [side.label for side in sides]
    return labels if len(set(labels)) > 1 else [f"{label} ({number})" for number, label in enumerate(labels, start=1)]


def _metric(contest: Contest) -> tuple[str, str, bool]:
    return contest.metric, contest.unit, contest.higher_is_better


def _chosen(side: Side) -> Line | None:
    lines = () if side.contest is None else side.contest.lines
    return next((line for line in lines if line.is_chosen), None)


def _figures(first: Side, second: Side) -> Iterator[tuple[str, str, str, str]]:
    """Yield (what, in the one, in the other, difference) of the chosen models and of the runs."""
    sides = (first, second)
    lines, units = [_chosen(side) for side in sides], [side.contest.unit if side.contest else "" for side in sides]
    unit = units[0] if units[0] == units[1] else ""
    if any(lines):
        one, other = (text.NONE if line is None else line.name for line in lines)
        yield "chosen", one, other, ""

    def row(name: str, value: Callable[[Row], float | None], say: Say, *, is_share: bool) -> tuple[str, str, str, str]:
        return _figure(name, [None if line is None else value(line.figures) for line in lines], say, is_share=is_share)

    models = [len(side.contest.lines) if side.contest else None for side in sides]
    seconds = [sum(side.source.record.timings.values()) for side in sides]
    found = [
        row("score", lambda r: r.score, lambda v: text.number(v, unit), is_share=False),
        row("drop", lambda r: r.drop, lambda v: text.number(v, unit), is_share=False),
        row("bit operations", lambda r: r.bit_operations, lambda v: text.count(int(v)), is_share=True),
        row("weights", lambda r: r.weight_bytes or None, lambda v: text.size(int(v)), is_share=True),
        row("latency", lambda r: r.latency_s, text.seconds, is_share=True),
        _figure("models scored", models, text.figure, is_share=False),
        _figure("time", seconds, text.seconds, is_share=True),
    ]
    yield from (item for item in found if item[1] != text.NONE or item[2] != text.NONE)


def _figure(name: str, values: Sequence[float | None], say: Say, *, is_share: bool) -> tuple[str, str, str, str]:
    first, second = (None if value is None or not math.isfinite(value) else value for value in values)
    one, other = (text.NONE if value is None else say(value) for value in (first, second))
    return name, one, other, _difference(first, second, say, is_share=is_share)


def _difference(first: float | None, second: float | None, say: Say, *, is_share: bool) -> str:
    """Return how far the other run is from the one, relative to the one where that says more."""
    if first is None or second is None:
        return ""
    if first == second:
        return "equal"
    sign = "+" if second > first else "−"
    if is_share:
        return f"{sign}{100 * abs(second - first) / first:.1f}{text.SPACE}%" if first > 0 else ""
    return f"{sign}{say(abs(second - first))}"


def _warnings(sides: Sequence[Side]) -> Iterator[str]:
    records = [side.source.record for side in sides]
    if len({record.model.get("sha256") for record in records}) > 1:
        yield "These runs are of different models."
    if len({(_data(record.data) or {}).get("fingerprint") for record in records}) > 1:
        yield "These runs were scored on different data: their scores are not of one scale."
    contests = [side.contest for side in sides]
    if any(contest is None for contest in contests):
        yield "One of the runs has no scores, so that candidates cannot be drawn together."
    elif len({_metric(contest) for contest in contests if contest is not None}) > 1:
        yield "These runs were scored by different metrics, so that candidates cannot be drawn together."


def _data(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the data that scores come from."""
    return data.get("evaluation") or data.get("calibration")


def _settings(source: Source) -> dict[str, str]:
    """Return what was asked for and what it was asked of, by name."""
    record = source.record
    found = {"verb": record.verb, "model": str(record.model.get("source", text.NONE))}
    found["model sha256"] = str(record.model.get("sha256", text.NONE))
    for role, facts in record.data.items():
        found |= {f"{role} {name}": text.setting(value) for name, value in facts.items()}
    found["target"] = record.target
    found["goal"] = str(getattr(record, "goal", {}).get("text", text.NONE))
    options = ((name, value) for name, value in record.options.items() if name not in _OWN)
    return found | {f"option {name.replace('_', ' ')}": text.setting(value) for name, value in options}


def _place(source: Source) -> dict[str, str]:
    record = source.record
    found = {name: str(value) for name, value in record.versions.items()}
    return found | {str(name): text.setting(value) for name, value in record.machine.items()}
