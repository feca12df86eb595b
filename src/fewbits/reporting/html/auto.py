"""A whole workflow as the page tells it: verdict, decision path, chosen model, checks, outlook, how to do it again."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fewbits.artifact import names
from fewbits.reporting.auto_record import AutoRecord, Contender, Fork
from fewbits.reporting.html import text
from fewbits.reporting.html.chosen import Part, parts
from fewbits.reporting.html.sources import Source, autos, improvements
from fewbits.reporting.html.tables import ScoreTable, score_tables
from fewbits.reporting.preflight_record import Preflight
from fewbits.reporting.record import RunRecord

_STEPS = {
    "baseline": "Every precision",
    "again": "Every precision again, with better weights",
    "litemp": "A few groups in more bits",
    "improve": "Better weights",
    "adaround": "Learned rounding",
    "amp": "Search over all groups",
    "narrow": "4-bit weights",
    "narrow-amp": "4-bit weights in some groups",
    "qat": "Training",
    "stop": "Stop",
}
"""Step -> what the page calls it."""
_BEFORE = ("prepare", "preflight")
"""Parts of the outlook that lay behind it when it was made."""
_AIMS = {
    "enough": "good enough, at the least cost",
    "fastest": "fastest",
    "smallest": "smallest",
    "most-accurate": "most accurate",
}
"""Aim -> how the page says it."""

Pairs = tuple[tuple[str, str], ...]
Bar = tuple[str, str, str, float, float]
"""What, predicted, needed, and the lengths of the two."""


@dataclass(frozen=True, slots=True)
class PathStep:
    """One decision as it is printed.

    Attributes:
        name: of the step, in words.
        step: its name in commands; "" for the end.
        why: the rule that held.
        found: what came of it.
        folder: of its files; "" for none.
        link: id of the section that tells more; "" for none.
        cost: seconds and models that were scored; "" for the end.
    """

    name: str
    step: str
    why: str
    found: str
    folder: str
    link: str
    cost: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What was found out before anything was quantized.

    Attributes:
        bars: (what, predicted, needed, shares of the larger one).
        facts: (name, value) of calibration and evaluation data.
        parts: (part of step 1, seconds predicted).
        outliers: (sample, tensor, factor).
        warnings: sentences.
    """

    bars: tuple[Bar, ...]
    facts: Pairs
    parts: Pairs
    outliers: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AutoView:
    """One run as it is printed.

    Attributes:
        record: what it says; its texts are printed as they are.
        status: ok or poor.
        figures: (label, value) of the model that was chosen.
        asked: (label, value) of what was asked for, and what it took.
        path: the decisions.
        table: all candidates.
        parts: nodes of the chosen model by precision; empty where it was not kept.
        declined: (reason, nodes) of those that stay in float32.
        checks: (check, result, poor where it failed, ok where it passed, "" where it was not done).
        outlook: None where nothing was found out before.
        hashes: (what, its name, sha256).
    """

    record: AutoRecord
    status: str
    figures: Pairs
    asked: Pairs
    path: tuple[PathStep, ...]
    table: ScoreTable
    parts: tuple[Part, ...]
    declined: Pairs
    checks: tuple[tuple[str, str, str], ...]
    outlook: Outlook | None
    hashes: tuple[tuple[str, str, str], ...]


def auto_view(sources: Sequence[Source]) -> AutoView | None:
    """Return the latest whole workflow; None where there is none."""
    found = autos(sources)
    if not found:
        return None
    source, record = found[-1]
    made = source.made
    return AutoView(
        record=record,
        status="ok" if record.is_met else "poor",
        figures=tuple(_figures(record)),
        asked=tuple(_asked(record)),
        path=tuple(_step(fork, sources) for fork in record.forks),
        table=score_tables([source])[0],
        parts=() if made is None else parts(made),
        declined=() if made is None else tuple((why, _nodes(nodes)) for why, nodes in made.declined.items()),
        checks=tuple((name, said, _status(said)) for name, said in record.checks.items()),
        outlook=None if record.preflight is None else _outlook(record.preflight, record),
        hashes=tuple(_hashes(record, made)),
    )


def chosen(record: AutoRecord) -> Contender | None:
    """Return the candidate whose files the run's folder holds."""
    return next((one for one in record.contenders if one.name == record.chosen), None)


def _status(said: str) -> str:
    """Return how a check went, by the first word of its result."""
    return "poor" if said.startswith("failed") else "" if said.startswith("not done") else "ok"


def _figures(record: AutoRecord) -> Iterator[tuple[str, str]]:
    one, unit = chosen(record), str(record.metric["unit"])
    if one is None:
        return
    yield "chosen", one.name
    is_floor = record.goal.get("floor") is not None
    of = "" if is_floor else f" of {text.number(record.float_row.score, unit)}"
    yield "score", f"{text.number(one.score, '' if of else unit)}{of}"
    if not is_floor:
        ends = "" if one.interval is None else f" ({text.interval(one.interval)})"
        yield "drop", f"{text.number(one.drop)}{ends}"
    if one.bit_operations is not None:
        whole = record.float_row.bit_operations
        share = f"{text.share(one.bit_operations, whole)} of float" if whole else text.count(one.bit_operations)
        yield "bit operations", share
    yield "weights", text.size(one.weight_bytes)
    if one.latency_ms is not None:
        yield (
            f"latency ({text.latency_source(one.latency_by)})" if one.latency_by else "latency",
            text.number(one.latency_ms, "ms"),
        )


def _asked(record: AutoRecord) -> Iterator[tuple[str, str]]:
    yield "goal", f"{record.goal['text']}{' (the default)' if record.goal['is_default'] else ''}"
    if record.max_latency_ms is not None:
        yield "latency", f"at most {text.number(record.max_latency_ms, 'ms')}"
    yield "aim", _AIMS.get(record.aim, record.aim)
    yield "scored by", f"{record.metric['name']} on {record.metric['samples']} samples"
    yield "models scored", str(len(record.contenders))
    yield "took", f"{text.seconds(record.wall_s)}, {_memory(record.peak_mb)}"


def _step(fork: Fork, sources: Sequence[Source]) -> PathStep:
    is_end = fork.step == "stop"
    scored = f", {fork.evaluations} model{'' if fork.evaluations == 1 else 's'} scored" if fork.evaluations else ""
    return PathStep(
        name=_STEPS.get(fork.step, fork.step),
        step="" if is_end else fork.step,
        why=text.capital(fork.why),
        found=text.capital(fork.found),
        folder=fork.folder or "",
        link=_link(fork, sources),
        cost="" if is_end and not fork.seconds else f"{text.seconds(fork.seconds)}{scored}",
    )


def _link(fork: Fork, sources: Sequence[Source]) -> str:
    """Return the section of the page that tells more of a step."""
    if fork.folder is None:
        return ""
    inside = [
        source for source in sources if source.folder == fork.folder or source.folder.startswith(f"{fork.folder}/")
    ]
    verbs = {source.record.verb for source in inside}
    if improvements(inside):
        return "weights"
    return next((verb for verb in ("amp", "litemp") if verb in verbs), "")


def _outlook(found: Preflight, record: AutoRecord) -> Outlook:
    first = next((fork.seconds for fork in record.forks if fork.step == "baseline"), None)
    expected = found.seconds - sum(found.parts.get(part, 0.0) for part in _BEFORE)
    return Outlook(
        bars=(
            _bar("step 1", expected, first, text.seconds),
            _bar("memory", found.peak_mb, record.peak_mb, _memory),
        ),
        facts=tuple(_data(found, record)),
        parts=tuple((name, text.seconds(value)) for name, value in found.parts.items()),
        outliers=tuple((str(one.sample), one.tensor, f"{text.figure(one.factor)} times") for one in found.outliers),
        warnings=found.warnings,
    )


def _bar(name: str, predicted: float | None, needed: float | None, say: Callable[[float], str]) -> Bar:
    known = [math.nan if value is None else value for value in (predicted, needed)]
    longest = max((value for value in known if math.isfinite(value)), default=0.0) or 1.0
    said = [say(value) if math.isfinite(value) else text.NONE for value in known]
    shares = [value / longest if math.isfinite(value) else 0.0 for value in known]
    return name, said[0], said[1], shares[0], shares[1]


def _data(found: Preflight, record: AutoRecord) -> Iterator[tuple[str, str]]:
    enough = (
        f"ranges hardly move after {found.enough_samples}"
        if found.enough_samples is not None
        else "ranges still move after all of them"
    )
    yield "calibration samples", f"{found.calibration_samples}: {enough}"
    yield "scored on", f"{found.score_samples} samples"
    unit = str(record.metric["unit"])
    told = "not known: this metric has no value per sample"
    if found.resolution is not None:
        told = f"drops of {text.number(found.resolution, unit)} and more"
    yield "told from noise", told
    if found.missing_classes:
        yield "classes that calibration data lack", ", ".join(found.missing_classes)


def _hashes(record: AutoRecord, made: RunRecord | None) -> Iterator[tuple[str, str, str]]:
    if record.model.get("sha256"):
        yield "model", str(record.model.get("source", text.NONE)), str(record.model["sha256"])
    for role, facts in record.data.items():
        if facts.get("fingerprint"):
            yield f"{role} data", str(facts.get("name", text.NONE)), str(facts["fingerprint"])
    for name, facts in ({} if made is None else made.files).items():
        yield "artifact" if name.startswith(names.ARTIFACT) else "file", name, str(facts.get("sha256", text.NONE))


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f}{text.SPACE}MB" if megabytes < 1e3 else f"{megabytes / 1e3:.1f}{text.SPACE}GB"


def _nodes(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - 100} more" if len(nodes) > 100 else ""
    return ", ".join(nodes[:100]) + more
