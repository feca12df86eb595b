"""Parity certificates as the page shows them: what `verify` found, where, under which limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.artifact import names
from fewbits.deployment.certificate import Certificate
from fewbits.deployment.place_certificate import OutputAtPlace, PlaceCertificate
from fewbits.errors import SpecError
from fewbits.reporting.decode import decode
from fewbits.reporting.html import text

_MOST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Card:
    """One certificate.

    Attributes:
        title: where it ran, and which folder it lies in.
        is_passed: the verdict.
        caption: samples and what was compared with what.
        columns: of the table of outputs.
        rows: of that table.
        sentences: the score, what differs; one each.
        found: headed tables of what differs: (title, columns, rows).
        limits: how far it reaches, and what it does not prove.
        conditions: (name, value) of versions, machine, chip.
    """

    title: str
    is_passed: bool
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    found: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...]
    limits: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


def find_cards(folder: Path) -> tuple[Card, ...]:
    """Return the certificates in a folder and in the folders inside it.

    Raises:
        SpecError: one cannot be read.
    """
    wanted = (names.CERTIFICATE, *names.PLACE_CERTIFICATES.values())
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))]
    return tuple(_card(place / name, folder) for place in places for name in wanted if (place / name).is_file())


def _card(path: Path, root: Path) -> Card:
    label = "" if path.parent == root else f" ({path.parent.name})"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if path.name == names.CERTIFICATE:
            return _here(decode(Certificate, document), label)
        return _elsewhere(decode(PlaceCertificate, document), label)
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(
            f"The certificate {str(path)!r} cannot be read: {error}. Run `fewbits verify` again, or delete it."
        ) from error


def _here(found: Certificate, label: str) -> Card:
    rows = [
        (name, f"{one.differing} of {one.values}", _db(one.exact_db), _db(one.plain_db), _db(one.float_db))
        for name, one in found.outputs.items()
    ]
    return Card(
        title=f"ONNX Runtime, a fresh process{label}",
        is_passed=found.passed,
        caption=f"{found.samples} samples, bit for bit against what was scored; SQNR of other ways to run them.",
        columns=("output", "values that differ", "as written", "default session", "float"),
        rows=tuple(rows),
        sentences=(),
        found=(),
        limits=(*found.limits, *found.not_proven),
        conditions=_conditions(found.conditions),
    )  # fmt: skip


def _elsewhere(found: PlaceCertificate, label: str) -> Card:
    soc = found.conditions.get("soc") or {}
    chip = f", {soc['name']}" if isinstance(soc, Mapping) and soc.get("name") else ""
    rows = [(name, _db(one.place_db), _db(one.float_db), _steps(one)) for name, one in found.outputs.items()]
    return Card(
        title=f"{found.place}{chip}{label}",
        is_passed=found.passed,
        caption=f"{found.samples} samples. The file: {found.reference}.",
        columns=("output", "against the file", "the file against float", "steps apart: values"),
        rows=tuple(rows),
        sentences=tuple(_sentences(found)),
        found=tuple(_tables(found)),
        limits=(*found.limits, *found.not_proven),
        conditions=_conditions(found.conditions),
    )


def _sentences(found: PlaceCertificate) -> Sequence[str]:
    said = []
    if found.score is not None:
        score = found.score
        figures = [text.number(value, score.unit) for value in (score.float_, score.sim, score.place)]
        interval = "" if score.interval is None else f" (95 %: {text.interval(score.interval)})"
        said.append(
            f"{score.metric} on {score.samples} samples: float {figures[0]}, simulation {figures[1]}, here "
            f"{figures[2]}; lost {text.number(score.lost, score.unit)}{interval}."
        )
    if found.wrong_types:
        said.append(f"{len(found.wrong_types)} operators were compiled in another type than the file says.")
    if found.localized is not None:
        one = found.localized
        said.append(
            f"{one.output!r} on one sample: {_db(one.db)} to the simulation, {_db(one.tapped_db)} when every tensor "
            f"inside is an output, too, so that nothing is fused."
        )
    return said


def _tables(found: PlaceCertificate) -> Sequence[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    if found.localized is None:
        return ()
    kinds = sorted(found.localized.tapped_by_op.items(), key=lambda row: -(row[1] if row[1] is not None else 1e9))
    alone = [
        (one.node, one.op, _db(one.alone_db), "" if one.worst_steps is None else str(one.worst_steps), _db(one.db))
        for one in found.localized.tensors[:_MOST_ROWS]
    ]
    return (
        ("Operators that differ most when they are given what the simulation gives them",
         ("node", "operator", "alone", "worst steps", "in the network"), tuple(alone)),
        ("When only what these operators write is an output, too", ("operator", "output"),
         tuple((op, _db(value)) for op, value in kinds[:_MOST_ROWS])),
    )  # fmt: skip


def _steps(one: OutputAtPlace) -> str:
    return ", ".join(f"{steps}: {count}" for steps, count in one.steps.items())


def _db(value: float | None) -> str:
    return "equal" if value is None else text.number(value, "dB")


def _conditions(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    wanted = ("soc", "dims", "operators_checked", "versions", "machine")
    return tuple((name.replace("_", " "), _said(found[name])) for name in wanted if found.get(name))


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
