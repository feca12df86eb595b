"""The score tables: every precision of a baseline, every point of mixed precision, every single run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewbits.artifact import names
from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.reporting.baseline_record import BaselineRecord, Row
from fewbits.reporting.html import amp_facts, text
from fewbits.reporting.html.sources import Source, amps, baselines, litemps, runs
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


@dataclass(frozen=True, slots=True)
class _Line:
    """A row before it is printed: its name, its figures, whether it was accepted, what marks it, and its cost."""

    name: str
    figures: Row
    detail: str = ""
    is_accepted: bool = False
    tag: str = ""
    cost: str = ""
    cost_amount: str = ""


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
    """Return one table per baseline and per run of mixed precision, and one of all single runs of a metric."""
    made = [_baseline(source, record) for source, record in baselines(sources)]
    made += [_litemp(source, record) for source, record in litemps(sources)]
    made += [_amp(source, record) for source, record in amps(sources)]
    scores = [(source.label, record) for source, record in runs(sources) if record.scores]
    by_metric: dict[tuple[Any, ...], list[tuple[str, RunRecord]]] = {}
    for label, record in scores:
        key = (record.scores["metric"], record.scores["float"], record.scores["samples"])
        by_metric.setdefault(key, []).append((label, record))
    return [_runs(some) for some in by_metric.values()] + made


def accepted_row(table: ScoreTable) -> ScoreRow | None:
    """Return the row that the verdict takes, or None."""
    return next((row for row in table.rows if row.is_accepted), None)


def _baseline(source: Source, record: BaselineRecord) -> ScoreTable:
    accepted = record.verdict["accepted"]
    lines = [_Line("float", record.float_row)]
    lines += [_Line(row.precision, row, is_accepted=row.precision == accepted) for row in record.rows]
    return _table(f"Baseline{_place(source)}", record.metric, record.goal, lines, record.refused)


def _litemp(source: Source, record: LitempRecord) -> ScoreTable:
    lines = [_Line("float", record.float_row), _Line(f"all {record.base}", record.base_row, "0 % lifted")]
    for index, step in enumerate(record.steps):
        row = Row(
            record.base, step.score, step.drop, step.interval, step.status, step.bit_operations, step.weight_bytes
        )
        macs = "" if step.share_macs is None else f", {100 * step.share_macs:.0f} % of the MACs"
        detail = f"{step.groups} groups{macs} in {record.high}"
        lines.append(_Line(f"{step.percent:g} % lifted", row, detail, is_accepted=index == record.accepted))
    if record.high_row is not None:
        lines.append(_Line(f"all {record.high}", record.high_row, "100 % lifted"))
    title = f"Lite mixed precision, {record.base} with {record.high}{_place(source)}"
    return _table(title, record.metric, record.goal, lines, record.refused)


def _amp(source: Source, record: AmpRecord) -> ScoreTable:
    against, counts_operations = amp_facts.reference(record), record.cost["unit"] == "bit operations"
    lines = [_Line("float", record.float_row)]
    lines += [_point(record, point, against) for point in record.points if point.score is not None]
    made = _table(f"Automatic mixed precision{_place(source)}", record.metric, record.goal, lines, {})
    of = "" if against is None else against.name
    return replace(made, first="point", has_own_cost=True, cost_of=of, has_cost=made.has_cost and not counts_operations)


def _point(record: AmpRecord, point: Point, against: amp_facts.Reference | None) -> _Line:
    is_chosen, amount = point.number == record.chosen, amp_facts.amount(point.cost, record.cost["unit"])
    row = Row(
        amp_facts.point_name(point), _known(point.score), point.drop, point.interval, point.status,
        point.bit_operations, point.weight_bytes or 0,
    )  # fmt: skip
    origin = "" if len(point.shares) == 1 and point.origin == "uniform" else f"; {amp_facts.ORIGINS[point.origin]}"
    tag = "best so far" if not record.is_finished else "accepted" if record.is_accepted else "best"
    return _Line(
        f"point {point.number}", row, amp_facts.shares(point) + origin,
        is_accepted=is_chosen and record.is_accepted, tag=tag if is_chosen else "",
        cost=amount if against is None else text.share(point.cost, against.cost), cost_amount=amount,
    )  # fmt: skip


def _runs(some: Sequence[tuple[str, RunRecord]]) -> ScoreTable:
    scores = some[0][1].scores
    lines = [_Line("float", Row("float", _known(scores["float"])))]
    for label, record in some:
        ends = record.scores["drop_interval"]
        row = Row(
            str(record.options.get("precision", record.verb)), _known(record.scores["quantized"]),
            record.scores["drop"], None if ends is None else (ends[0], ends[1]),
            weight_bytes=int(record.files.get(names.ARTIFACT, {}).get("bytes", 0)),
        )  # fmt: skip
        lines.append(_Line(row.precision, row, "" if label == record.verb else label))
    return _table("Quantized models", scores, {}, lines, {})


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _place(source: Source) -> str:
    return f" ({source.folder})" if source.folder and source.folder != source.record.verb else ""


def _table(
    title: str, metric: Mapping[str, Any], goal: Mapping[str, Any], lines: Sequence[_Line], refused: Mapping[str, str]
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


def _row(line: _Line, scale: _Scale) -> ScoreRow:
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
