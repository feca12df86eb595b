"""The models of a record as lines, whichever verb scored them: what tables print and charts draw."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fewbits.artifact import names
from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.reporting.auto_record import AutoRecord, Contender
from fewbits.reporting.baseline_record import BaselineRecord, Row
from fewbits.reporting.html import amp_facts, text
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import Record
from fewbits.reporting.record import RunRecord


@dataclass(frozen=True, slots=True)
class Line:
    """One model before it is printed.

    Attributes:
        name: precision, share that is lifted, point, or the name by which the user takes it.
        figures: score, loss and costs.
        detail: what a second line says of it.
        is_accepted: it is what the verdict takes.
        is_chosen: its files are what the run's folder holds, accepted or not.
        is_pareto: the record counts it to the Pareto set.
        tag: what marks it.
        step: of a whole workflow, that made it.
        folder: of its files, relative to the run; "" where nothing is kept.
        cost: by a cost model, compared with another model where that is known.
        cost_amount: the same in its unit.
        latency_by: what measured or estimated the latency, in words.
    """

    name: str
    figures: Row
    detail: str = ""
    is_accepted: bool = False
    is_chosen: bool = False
    is_pareto: bool = False
    tag: str = ""
    step: str = ""
    folder: str = ""
    cost: str = ""
    cost_amount: str = ""
    latency_by: str = ""


def lines_of(record: Record) -> list[Line]:
    """Return the float model and the models that were scored; nothing of a record without scores."""
    match record:
        case BaselineRecord():
            return [Line("float", record.float_row), *_baseline(record)]
        case LitempRecord():
            return [Line("float", record.float_row), *_litemp(record)]
        case AmpRecord():
            return [Line("float", record.float_row), *_amp(record)]
        case AutoRecord():
            return [Line("float", record.float_row), *(_contender(record, one) for one in record.contenders)]
        case RunRecord() if record.scores:
            return [Line("float", Row("float", _known(record.scores["float"]))), run_line(record)]
    return []


def run_line(record: RunRecord) -> Line:
    """Return the model of a run that made one, with scores."""
    ends = record.scores["drop_interval"]
    row = Row(
        str(record.options.get("precision", record.verb)), _known(record.scores["quantized"]),
        record.scores["drop"], None if ends is None else (ends[0], ends[1]),
        weight_bytes=int(record.files.get(names.ARTIFACT, {}).get("bytes", 0)),
    )  # fmt: skip
    return Line(row.precision, row, is_chosen=True)


def _baseline(record: BaselineRecord) -> Iterator[Line]:
    for row in record.rows:
        is_accepted = row.precision == record.verdict["accepted"]
        yield Line(row.precision, row, is_accepted=is_accepted, is_chosen=is_accepted, folder=row.precision)


def _litemp(record: LitempRecord) -> Iterator[Line]:
    yield Line(f"all {record.base}", record.base_row, "0 % lifted")
    for index, step in enumerate(record.steps):
        row = Row(
            record.base, step.score, step.drop, step.interval, step.status, step.bit_operations, step.weight_bytes
        )
        macs = "" if step.share_macs is None else f", {100 * step.share_macs:.0f} % of the MACs"
        yield Line(
            f"{step.percent:g} % lifted", row, f"{step.groups} groups{macs} in {record.high}",
            is_accepted=index == record.accepted, is_chosen=index == record.accepted, folder=step.folder or "",
        )  # fmt: skip
    if record.high_row is not None:
        yield Line(f"all {record.high}", record.high_row, "100 % lifted")


def _amp(record: AmpRecord) -> Iterator[Line]:
    against = amp_facts.reference(record)
    for point in record.points:
        if point.score is not None:
            yield _point(record, point, against)


def _point(record: AmpRecord, point: Point, against: amp_facts.Reference | None) -> Line:
    is_chosen, amount = point.number == record.chosen, amp_facts.amount(point.cost, record.cost["unit"])
    row = Row(
        amp_facts.point_name(point), _known(point.score), point.drop, point.interval, point.status,
        point.bit_operations, point.weight_bytes or 0,
    )  # fmt: skip
    origin = "" if len(point.shares) == 1 and point.origin == "uniform" else f"; {amp_facts.ORIGINS[point.origin]}"
    tag = "best so far" if not record.is_finished else "accepted" if record.is_accepted else "best"
    return Line(
        f"point {point.number}", row, amp_facts.shares(point) + origin,
        is_accepted=is_chosen and record.is_accepted, is_chosen=is_chosen, tag=tag if is_chosen else "",
        folder=point.folder or "", cost=amount if against is None else text.share(point.cost, against.cost),
        cost_amount=amount,
    )  # fmt: skip


def _contender(record: AutoRecord, one: Contender) -> Line:
    is_chosen = one.name == record.chosen
    row = Row(
        one.precision, one.score, one.drop, one.interval, one.status, one.bit_operations, one.weight_bytes,
        None if one.latency_ms is None else one.latency_ms / 1e3,
    )  # fmt: skip
    return Line(
        one.name, row, "" if one.precision == one.name else one.precision, is_accepted=is_chosen and record.is_met,
        is_chosen=is_chosen, is_pareto=one.is_pareto, tag="chosen" if is_chosen else "", step=one.step,
        folder=one.folder or "", latency_by=text.latency_source(one.latency_by),
    )  # fmt: skip


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
