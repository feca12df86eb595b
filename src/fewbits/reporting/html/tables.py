"""The score tables: every precision of a baseline, every point of mixed precision, every single run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.baseline_record import BaselineRecord, Row
from fewbits.reporting.html import amp_facts, text
from fewbits.reporting.html.lines import Line, lines_of, run_line
from fewbits.reporting.html.sources import Source, amps, autos, baselines, litemps, runs
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.record import RunRecord

WORDS = {"ok": "meets the goal", "noise": "undecided", "poor": "too much"}
"""Status -> what the page says of a drop."""
FLOOR_WORDS = {**WORDS, "poor": "too low"}
"""Status -> what the page says of an SQNR."""
_MARGIN = 0.04
"""Share of a whisker's width that stays free at both ends."""


@dataclass(frozen=True, slots=True)
class Whisker:
    """A drop and its interval on an axis that all rows of a table share; positions are shares of its width, 0 to 1.

    Attributes:
        zero: no drop.
        goal: the drop that is acceptable; None where there is no goal.
        drop: of this row.
        low: lower end of the interval; None where there is none.
        high: upper end.
        is_beyond: the drop lies beyond the end of the axis.
    """

    zero: float
    goal: float | None
    drop: float
    low: float | None
    high: float | None
    is_beyond: bool


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row as it is printed.

    Attributes:
        name: precision, share that is lifted, or point.
        detail: what a second line says of it; "" for none.
        score: with its unit.
        drop: against float.
        interval: of the drop.
        whisker: the same, drawn; None where there is no drop.
        status: ok, noise, poor or "".
        word: what the status means.
        operations: bit operations as a share of float's.
        operations_count: the same as a count.
        weights: size of the weights.
        latency: per sample.
        is_accepted: this is what the verdict takes.
        tag: what marks the row; "" for nothing.
        cost: by the cost model, compared with `cost_of` of the table where that is known.
        cost_amount: the same in its unit.
        step: of a whole workflow, that made it.
        folder: of its files; "" where nothing is kept.
        latency_by: what measured or estimated the latency.
        is_pareto: the record counts it to the Pareto set.
    """

    name: str
    detail: str
    score: str
    drop: str
    interval: str
    whisker: Whisker | None
    status: str
    word: str
    operations: str
    operations_count: str
    weights: str
    latency: str
    is_accepted: bool
    tag: str
    cost: str
    cost_amount: str
    step: str
    folder: str
    latency_by: str
    is_pareto: bool


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One table of scores.

    Attributes:
        title: what was run, and where it lies.
        caption: metric, samples and goal.
        rows: float first.
        size: what the sizes are of: weights, or the model file where the record has no more.
        has_drop: some row has a drop.
        has_verdict: rows were judged by a goal.
        has_latency: some row has a latency.
        has_cost: the record has costs.
        refused: precision -> why it was left out.
        first: heading of the names.
        has_own_cost: rows have costs of a cost model.
        cost_of: what these are compared with; "" where they are not.
        has_step: rows are of the steps of a whole workflow.
        latency_by: what measured or estimated all latencies; "" where rows differ, or nothing is known.
    """

    title: str
    caption: str
    rows: tuple[ScoreRow, ...]
    size: str
    has_drop: bool
    has_verdict: bool
    has_latency: bool
    has_cost: bool
    refused: Mapping[str, str]
    first: str = "precision"
    has_own_cost: bool = False
    cost_of: str = ""
    has_step: bool = False
    latency_by: str = ""


@dataclass(frozen=True, slots=True)
class _Scale:
    """What the rows of one table share.

    Attributes:
        unit: of the score.
        operations: bit operations of float.
        axis: ends of the axis of drops; None where nothing has a drop.
        limit: the drop that is acceptable.
        is_floor: the score is an SQNR, which has no drop.
    """

    unit: str
    operations: int | None
    axis: tuple[float, float] | None
    limit: float | None
    is_floor: bool


def score_tables(sources: Sequence[Source]) -> list[ScoreTable]:
    """Return one table per run that made several models, and one of all single runs of a metric.

    Steps of a whole workflow have none: its own table holds their models.
    """
    told = [source for source in sources if not source.is_part]
    made = [_of(*found) for kind in (baselines, litemps, amps, autos) for found in kind(told)]
    scores = [(source.label, record) for source, record in runs(told) if record.scores]
    by_metric: dict[tuple[Any, ...], list[tuple[str, RunRecord]]] = {}
    for label, record in scores:
        key = (record.scores["metric"], record.scores["float"], record.scores["samples"])
        by_metric.setdefault(key, []).append((label, record))
    return [_runs(some) for some in by_metric.values()] + made


def accepted_row(table: ScoreTable) -> ScoreRow | None:
    """Return the row that the verdict takes, or None."""
    return next((row for row in table.rows if row.is_accepted), None)


def _of(source: Source, record: BaselineRecord | LitempRecord | AmpRecord | AutoRecord) -> ScoreTable:
    """Return the table of a run that made several models."""
    refused = record.refused if isinstance(record, BaselineRecord | LitempRecord) else {}
    made = _table(_title(source), record.metric, record.goal, lines_of(record), refused)
    if isinstance(record, AutoRecord):
        by = {row.latency_by for row in made.rows if row.latency}
        return replace(made, first="candidate", has_step=True, latency_by=by.pop() if len(by) == 1 else "")
    if not isinstance(record, AmpRecord):
        return made
    against, counts_operations = amp_facts.reference(record), record.cost["unit"] == "bit operations"
    of = "" if against is None else against.name
    return replace(made, first="point", has_own_cost=True, cost_of=of, has_cost=made.has_cost and not counts_operations)


def _title(source: Source) -> str:
    where = f" ({source.folder})" if source.folder and source.folder != source.record.verb else ""
    match source.record:
        case LitempRecord(base=base, high=high):
            return f"Lite mixed precision, {base} with {high}{where}"
        case AmpRecord():
            return f"Automatic mixed precision{where}"
        case AutoRecord():
            return f"Candidates{where}"
    return f"Baseline{where}"


def _runs(some: Sequence[tuple[str, RunRecord]]) -> ScoreTable:
    lines = lines_of(some[0][1])[:1]
    lines += [replace(run_line(record), detail="" if label == record.verb else label) for label, record in some]
    return _table("Quantized models", some[0][1].scores, {}, lines, {})


def _table(
    title: str, metric: Mapping[str, Any], goal: Mapping[str, Any], lines: Sequence[Line], refused: Mapping[str, str]
) -> ScoreTable:
    is_floor = goal.get("floor") is not None or str(metric.get("metric", "")).startswith("sqnr")
    limit = None if is_floor else goal.get("max_drop")
    axis = None if is_floor else _axis([line.figures for line in lines[1:]], limit)
    scale = _Scale(str(metric["unit"]), lines[0].figures.bit_operations, axis, limit, is_floor)
    rows = tuple(_row(line, scale) for line in lines)
    where = ", the calibration data" if metric.get("is_on_calibration_data") else ""
    caption = f"{metric.get('name', metric.get('metric'))} on {metric['samples']} samples{where}"
    if goal:
        caption += f"; goal: {goal['text']}{' (the default)' if goal['is_default'] else ''}"
    return ScoreTable(
        title=title,
        caption=caption,
        rows=rows,
        size="weights" if goal else "model file",
        has_drop=axis is not None,
        has_verdict=bool(goal),
        has_latency=any(row.latency for row in rows),
        has_cost=any(line.figures.bit_operations is not None for line in lines),
        refused=refused,
    )


def _row(line: Line, scale: _Scale) -> ScoreRow:
    row, is_float, words = line.figures, line.name == "float", FLOOR_WORDS if scale.is_floor else WORDS
    has_drop = scale.axis is not None and row.drop is not None
    return ScoreRow(
        name=line.name,
        detail=line.detail,
        # the SQNR of the float model against itself is no score
        score="reference" if is_float and scale.is_floor else text.number(row.score, scale.unit),
        drop=text.number(row.drop) if has_drop else "",
        interval=text.interval(row.interval) if has_drop else "",
        whisker=_whisker(row, scale.axis, scale.limit) if scale.axis is not None and not is_float else None,
        status=row.status or "",
        word=words.get(row.status or "", ""),
        operations=text.share(row.bit_operations, scale.operations),
        operations_count=text.count(row.bit_operations),
        weights=text.size(row.weight_bytes) if row.weight_bytes else "",
        latency="" if row.latency_s is None else text.seconds(row.latency_s),
        is_accepted=line.is_accepted,
        tag=line.tag or ("accepted" if line.is_accepted else ""),
        cost=line.cost,
        cost_amount=line.cost_amount,
        step=line.step,
        folder=line.folder,
        latency_by=line.latency_by,
        is_pareto=line.is_pareto,
    )


def _axis(rows: Sequence[Row], limit: float | None) -> tuple[float, float] | None:
    """Return the ends of the axis of drops: all of them, but no more than a few times the goal."""
    ends = [end for row in rows for end in _ends(row)]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    if limit:
        low, high = max(low, -2 * limit), max(1.5 * limit, min(high, 5 * limit))
    if high == low:
        high = low + 1.0
    margin = _MARGIN * (high - low)
    return low - margin, high + margin


def _ends(row: Row) -> Iterator[float]:
    for end in (row.drop, *(row.interval or ())):
        if end is not None and math.isfinite(end):
            yield end


def _whisker(row: Row, axis: tuple[float, float], limit: float | None) -> Whisker | None:
    if row.drop is None or not math.isfinite(row.drop):
        return None

    def place(value: float) -> float:
        return min(max((value - axis[0]) / (axis[1] - axis[0]), 0.0), 1.0)

    low, high = (None, None) if row.interval is None else map(place, row.interval)
    goal = None if limit is None else place(limit)
    return Whisker(place(0.0), goal, place(row.drop), low, high, not axis[0] <= row.drop <= axis[1])
