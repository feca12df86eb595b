"""What the page's script draws of candidates: score against what they cost, of one run or of two."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.html.lines import Line, lines_of
from fewbits.reporting.html.series import short
from fewbits.reporting.read import Record
from fewbits.reporting.record import RunRecord

_SCORE = 8
"""Digits that a score keeps."""


@dataclass(frozen=True, slots=True)
class Contest:
    """What the candidates of a record have in common.

    Attributes:
        metric: its name.
        unit: of the score.
        higher_is_better: its direction.
        float_score: of the float model; NaN where it has none, as with SQNR, which is taken against it.
        threshold: score that the goal asks for; None where there is no goal, or the float model has none to lose.
        max_latency_ms: that is acceptable; None sets no limit.
        lines: the candidates, the float model left out.
    """

    metric: str
    unit: str
    higher_is_better: bool
    float_score: float
    threshold: float | None
    max_latency_ms: float | None
    lines: tuple[Line, ...]


def contest_of(record: Record) -> Contest | None:
    """Return the candidates of a record; None where it has no scores."""
    lines = lines_of(record)
    if not lines or isinstance(record, AnalysisRecord):
        return None
    goal: Mapping[str, Any] = {} if isinstance(record, RunRecord) else record.goal
    metric, key = (record.scores, "metric") if isinstance(record, RunRecord) else (record.metric, "name")
    name = str(metric[key])
    is_higher, score = bool(metric["higher_is_better"]), lines[0].figures.score
    floor, limit = goal.get("floor"), goal.get("max_drop")
    if floor is not None or name.startswith("sqnr"):
        score = math.nan
    threshold = None if floor is None else float(floor)
    if floor is None and limit is not None and math.isfinite(score):
        threshold = score - (1.0 if is_higher else -1.0) * limit
    return Contest(
        name, str(metric["unit"]), is_higher, score, threshold,
        record.max_latency_ms if isinstance(record, AutoRecord) else None, tuple(lines[1:]),
    )  # fmt: skip


def auto_figure(record: AutoRecord, anchor: str) -> dict[str, Any]:
    """Return what `script/contest.js` reads of a whole workflow.

    Args:
        record: of the workflow.
        anchor: that the rows of its table have, before their number.
    """
    contest = contest_of(record)
    assert contest is not None
    steps = list(dict.fromkeys(line.step for line in contest.lines))
    points = [
        _point(line, contest, steps.index(line.step), f"{anchor}{number}")
        for number, line in enumerate(contest.lines, start=1)
    ]
    return _figure([contest], steps, points, [""])


def compared_figure(contests: Sequence[Contest], labels: Sequence[str]) -> dict[str, Any]:
    """Return the same of several runs with one metric; a run is told from the others by its label."""
    points = [_point(line, contest, kind, None) for kind, contest in enumerate(contests) for line in contest.lines]
    return _figure(contests, list(labels), points, labels)


def figure_json(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return charts of candidates as the only data of a page, safe inside a script element."""
    return dumped({"analyses": [], "litemps": [], "amps": [], "contests": list(figures)})


def dumped(document: Any) -> str:
    """Return JSON that cannot end a script element."""
    made = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return made.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _figure(
    contests: Sequence[Contest], kinds: list[str], points: list[dict[str, Any]], labels: Sequence[str]
) -> dict[str, Any]:
    points = [point for point in points if point["score"] is not None]
    latencies = sorted({name for point in points for name in point["costs"] if name.startswith("latency")})
    axes = [["operations", "Bit operations", "bit operations per sample"], ["bytes", "Weights", "weights (MB)"]]
    axes += [[name, ", ".join(["Latency", *name.split(":")[1:]]), "latency (ms)"] for name in latencies]
    limits = [contest.max_latency_ms for contest in contests if contest.max_latency_ms is not None]
    return {
        "metric": contests[0].metric,
        "unit": contests[0].unit,
        "higher": contests[0].higher_is_better,
        "kinds": kinds,
        "axes": [axis for axis in axes if any(axis[0] in point["costs"] for point in points)],
        "levels": [
            *_levels("float", [short(contest.float_score, _SCORE) for contest in contests], labels),
            *_levels("goal", [short(contest.threshold, _SCORE) for contest in contests], labels),
        ],
        "maxLatency": short(min(limits)) if limits else None,
        "points": points,
    }


def _levels(name: str, values: Sequence[float | None], labels: Sequence[str]) -> list[tuple[str, float, bool]]:
    """Return (name, score, whether it is the goal), once where all runs have the same."""
    if len(set(values)) == 1:
        labels, values = [""], values[:1]
    known = [(label, value) for label, value in zip(labels, values, strict=True) if value is not None]
    return [(f"{name} {label}".rstrip(), value, name == "goal") for label, value in known]


def _point(line: Line, contest: Contest, kind: int, row: str | None) -> dict[str, Any]:
    figures, sign = line.figures, 1.0 if contest.higher_is_better else -1.0
    ends = None
    if figures.interval is not None and math.isfinite(contest.float_score):
        found = [short(contest.float_score - sign * end, _SCORE) for end in figures.interval]
        ends = None if None in found else sorted(end for end in found if end is not None)
    costs: dict[str, float | None] = {"operations": figures.bit_operations, "bytes": figures.weight_bytes or None}
    if figures.latency_s is not None:
        costs[f"latency:{line.latency_by}".rstrip(":")] = short(1e3 * figures.latency_s)
    return {
        "name": line.name,
        "detail": line.detail,
        "kind": kind,
        "folder": line.folder,
        "score": short(figures.score, _SCORE),
        "ends": ends,
        "status": figures.status,
        "costs": {name: value for name, value in costs.items() if value is not None},
        "isChosen": line.is_chosen,
        "isPareto": line.is_pareto,
        "row": row,
    }
