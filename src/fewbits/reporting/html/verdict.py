"""What the page says first: the conclusion of the latest step, its figures, and the command that comes next."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.html import amp_facts, text
from fewbits.reporting.html.improvements import next_steps
from fewbits.reporting.html.sources import Source, amps, analyses, autos, baselines, litemps, runs
from fewbits.reporting.html.tables import ScoreRow, ScoreTable, accepted_row
from fewbits.reporting.litemp_record import LitempRecord, Step
from fewbits.reporting.record import RunRecord

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict as it is printed.

    Attributes:
        step: of the workflow, and what it found.
        sentence: the conclusion.
        reason: why, with the figures it rests on.
        status: ok, noise, poor or "" where nothing was judged.
        figures: (label, value).
        commands: (why, command), the next one first.
        earlier: (step, its conclusion) of the other records.
    """

    step: str
    sentence: str
    reason: str
    status: str
    figures: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    earlier: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Conclusion:
    """What one record concludes."""

    step: str
    sentence: str
    reason: str
    status: str
    commands: tuple[tuple[str, str], ...]


def headline(sources: Sequence[Source], tables: Sequence[ScoreTable]) -> Headline:
    """Return the verdict of the latest step of the workflow; the other records are told in a line each.

    A whole workflow comes before automatic mixed precision, that before lite mixed precision, that before a baseline, a
    baseline before a single run, an analysis last: it judges nothing. Steps of a whole workflow are left to its path.
    """
    sources = [source for source in sources if not source.is_part]
    found = [
        *_each(analyses(sources), _analysis),
        *_each(runs(sources), _run),
        *_each(baselines(sources), _baseline),
        *_each(litemps(sources), _litemp),
        *_each(amps(sources), _amp),
        *_each(autos(sources), _auto),
    ]
    last = found[-1]
    row = accepted_row(tables[-1]) if last.status else None
    earlier = tuple((item.step, item.sentence) for item in found[:-1])
    figures = tuple(_figures(row, tables[-1])) if row else ()
    return Headline(last.step, last.sentence, last.reason, last.status, figures, last.commands, earlier)


def _each(found: Sequence[tuple[Source, R]], conclude: Callable[[R], _Conclusion]) -> Iterator[_Conclusion]:
    """Yield what each record concludes, with its folder where there are several of one kind."""
    for source, record in found:
        conclusion = conclude(record)
        where = f" ({source.folder or 'this folder'})" if len(found) > 1 else ""
        yield replace(conclusion, step=conclusion.step + where)


def _figures(row: ScoreRow, table: ScoreTable) -> Iterator[tuple[str, str]]:
    yield "score", row.score
    if row.drop:
        yield "drop", row.drop + ("" if row.interval in ("", text.NONE) else f" ({row.interval})")
    if row.cost:
        yield "cost", f"{row.cost} of {table.cost_of}" if table.cost_of else row.cost
    if row.operations != text.NONE:
        yield "bit operations", f"{row.operations} of float"
    yield "weights", row.weights
    if row.latency:
        yield "latency", row.latency


def _baseline(record: BaselineRecord) -> _Conclusion:
    finding, accepted = str(record.verdict["finding"]), record.verdict["accepted"]
    if accepted is not None:
        sentence, status = f"{accepted} is the lowest precision that meets the goal.", "ok"
    elif any(row.status == "noise" for row in record.rows):
        sentence, status = "These samples cannot tell whether a precision meets the goal.", "noise"
    else:
        sentence, status = "No precision that was scored meets the goal.", "poor"
    reason = " ".join([text.capital(str(record.verdict["reason"])), *map(str, record.verdict.get("remarks", ()))])
    return _Conclusion(f"Baseline: {finding}", sentence, reason, status, record.next_steps)


def _litemp(record: LitempRecord) -> _Conclusion:
    if record.accepted is not None:
        share = _percent(record.steps[record.accepted])
        sentence, status = f"{record.base} with {share} of the groups in {record.high} meets the goal.", "ok"
    elif any(step.status == "noise" for step in record.steps):
        sentence, status = "These samples cannot tell whether lifting groups meets the goal.", "noise"
    elif record.steps:
        share = _percent(record.steps[-1])
        sentence, status = f"Lifting up to {share} of the groups to {record.high} does not meet the goal.", "poor"
    else:
        sentence, status = f"No group was lifted to {record.high}.", "poor"
    return _Conclusion("Lite mixed precision", sentence, text.capital(record.reason), status, record.next_steps)


def _amp(record: AmpRecord) -> _Conclusion:
    sentence, status = _amp_sentence(record)
    step, reason = "Automatic mixed precision", text.capital(record.reason)
    if not record.is_finished:
        step, reason = f"{step}: stopped", f"So far: {sentence} {reason}".strip()
        sentence, status = "The search was stopped; the same command resumes it where it was.", "noise"
    return _Conclusion(step, sentence, reason, status, record.next_steps)


def _auto(record: AutoRecord) -> _Conclusion:
    word, status = ("met", "ok") if record.is_met else ("not met", "poor")
    sentence, *rest = record.summary or ("The workflow came to its end.",)
    return _Conclusion(f"Whole workflow: {word}", sentence, " ".join(rest), status, record.next_steps)


def _amp_sentence(record: AmpRecord) -> tuple[str, str]:
    """Return what the points that were scored say, and the status of it."""
    chosen = None if record.chosen is None else record.point(record.chosen)
    found = {point.status for point in record.points if point.score is not None}
    if chosen is not None and record.is_accepted:
        return f"{_mix(chosen)} meets the goal{_cost(record, chosen)}.", "ok"
    if not found:
        return "No point was scored.", "poor"
    if "ok" in found:
        return "No point that was scored is within everything that was asked for.", "poor"
    if "noise" in found:
        return "These samples cannot tell whether a point meets the goal.", "noise"
    return "No point that was scored meets the goal.", "poor"


def _mix(point: Point) -> str:
    if len(point.shares) == 1:
        return f"{amp_facts.mix(point)} for all groups"
    return f"A mix of {amp_facts.mix(point)} (point {point.number})"


def _cost(record: AmpRecord, point: Point) -> str:
    against = amp_facts.reference(record)
    if against is None or point.cost >= against.cost:
        return ""
    return f" at {100 * point.cost / against.cost:.0f}{text.SPACE}% of the cost of {against.name}"


def _percent(step: Step) -> str:
    return f"{step.percent:g}{text.SPACE}%"


def _run(record: RunRecord) -> _Conclusion:
    scores, precision = record.scores, str(record.options.get("precision", record.verb))
    sentence = f"The model is in {precision}."
    if scores:
        sentence = f"{precision} scores {text.number(scores['quantized'], str(scores['unit']))}."
        if not str(scores["metric"]).startswith("sqnr"):
            sentence += f" The float model scores {text.number(scores['float'], str(scores['unit']))}."
    return _Conclusion(record.verb.capitalize(), sentence, "", "", tuple(next_steps(record)))


def _analysis(record: AnalysisRecord) -> _Conclusion:
    sentence = "No group was analyzed."
    worst = most_sensitive(record)
    if worst is not None:
        group, precision, sqnr_db = worst
        sentence = (
            f"The output is most sensitive to {group}: {sqnr_db:.1f}{text.SPACE}dB when it alone is in {precision}."
        )
    if record.diagnoses and record.diagnoses[0].remedy:
        first = record.diagnoses[0]
        return _Conclusion(
            "Analysis", sentence, first.sentence, "", ((f"against: {text.cause(first.cause)}", first.remedy),)
        )
    return _Conclusion("Analysis", sentence, "", "", ())


def most_sensitive(record: AnalysisRecord) -> tuple[str, str, float] | None:
    """Return (group, precision, SQNR in dB) of the group that costs most alone, in the first precision with figures."""
    for precision in record.precisions:
        figures = {group.name: group.figures.get(precision, {}).get("all") for group in record.groups}
        known = {name: f.sqnr_db for name, f in figures.items() if f and f.sqnr_db is not None}
        finite = {name: value for name, value in known.items() if math.isfinite(value)}
        if finite:
            name = min(finite, key=lambda group: finite[group])
            return name, precision, finite[name]
    return None
