"""The end of the page: what was asked for, on which data, with which versions, on which machine, how long it took."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.html import text
from fewbits.reporting.html.amp_facts import time_spent
from fewbits.reporting.html.sources import Source
from fewbits.reporting.read import Record

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What one run was.

    Attributes:
        title: verb and folder.
        created: time of writing.
        facts: model, data and target.
        options: name and value of what was asked for.
        timings: (stage, duration, share of the longest stage).
        total: of all stages.
    """

    title: str
    created: str
    facts: Pairs
    options: Pairs
    timings: tuple[tuple[str, str, float], ...]
    total: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs were made.

    Attributes:
        runs: their titles.
        machine: platform, processor and cores.
        versions: of packages.
    """

    runs: str
    machine: Pairs
    versions: Pairs


def settings(sources: Sequence[Source]) -> list[Setting]:
    """Return the settings of every run, in the order of the workflow; of its steps what differs from the whole."""
    made = [(source, _setting(source)) for source in sources if not source.is_detail]
    whole = {pair for source, one in made if isinstance(source.record, AutoRecord) for pair in one.facts + one.options}
    return [_without(one, whole) if source.is_part else one for source, one in made]


def _without(one: Setting, whole: Collection[tuple[str, str]]) -> Setting:
    facts = tuple(pair for pair in one.facts if pair not in whole)
    return replace(one, facts=facts, options=tuple(pair for pair in one.options if pair not in whole))


def places(sources: Sequence[Source]) -> list[Place]:
    """Return the machines and versions, each once."""
    found: dict[tuple[Pairs, Pairs], list[str]] = {}
    for source in sources:
        if not source.is_detail:
            record = source.record
            found.setdefault((_pairs(record.machine), _pairs(record.versions)), []).append(source.label)
    return [Place(", ".join(runs), *key) for key, runs in found.items()]


def notes(sources: Sequence[Source]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (run, its sentences) for the runs that have any; first what concerns all of them."""
    found: list[tuple[str, tuple[str, ...]]] = []
    models = {str(source.record.model.get("sha256")) for source in sources}
    if len(models) > 1:
        found.append(("all runs", (f"These runs are of {len(models)} different models: compare them with care.",)))
    whole = {note for source in sources if isinstance(source.record, AutoRecord) for note in source.record.notes}
    for source in sources:
        said = [note for note in source.record.notes if not (source.is_part and note in whole)]
        if said and not source.is_detail:
            found.append((source.label, tuple(said)))
    return found


def timings(record: Record) -> tuple[tuple[str, str, float], ...]:
    """Return (stage, duration, share of the longest stage); points of automatic mixed precision are added up."""
    stages = time_spent(record.timings) if isinstance(record, AmpRecord) else record.timings
    longest = max(stages.values(), default=0.0) or 1.0
    return tuple((name, text.seconds(value), value / longest) for name, value in stages.items())


def _setting(source: Source) -> Setting:
    record = source.record
    total = sum(record.timings.values())
    title = record.verb + (f" in {source.folder}" if source.folder not in ("", record.verb) else "")
    facts = (*_facts(record.model, record.data), ("target", record.target))
    return Setting(title, record.created, facts, _pairs(record.options), timings(record), text.seconds(total))


def _facts(model: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", str(model.get("source", text.NONE))
    if model.get("sha256"):
        yield "model sha256", _abbreviated(model["sha256"])
    for role, facts in data.items():
        samples = f", {facts['samples']} samples" if facts.get("samples") is not None else ""
        yield f"{role} data", f"{facts.get('name', text.NONE)}{samples}"
        if facts.get("fingerprint"):
            yield f"{role} fingerprint", _abbreviated(facts["fingerprint"])


def _abbreviated(digest: object) -> str:
    """Return the first digits of a content hash; record.json has all of them."""
    return f"{str(digest)[:16]}…"


def _pairs(values: Mapping[str, Any]) -> Pairs:
    return tuple((str(name).replace("_", " "), text.setting(value)) for name, value in values.items())
