"""Verb export: take one precision of a baseline, one point of a curve, or an artifact, out into a folder."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.encodings_read import UNFIT, read_document, unfit
from fewbits.artifact.encodings_versions import as_version
from fewbits.artifact.folder import sha256, staged, write_file
from fewbits.errors import OutputError, SpecError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.read import read_any
from fewbits.reporting.record import RunRecord, plain, read_record
from fewbits.workflow.writing import write_commands


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What `export` handed over.

    Attributes:
        output: the folder.
        precision: what was taken.
        why: chosen by the caller, or by the verdict.
        record: of the artifact.
    """

    output: Path
    precision: str
    why: str
    record: RunRecord


def export(
    run: str | Path,
    *,
    output: str | Path,
    precision: str | None = None,
    point: int | None = None,
    encodings_version: str = "1.0.0",
) -> ExportResult:
    """Copy an artifact with its float companion, encodings, samples and record into a folder of its own.

    Every file is checked against the hash that was recorded when it was scored. The command lines of Qualcomm's
    converters are written anew, for the layout of the encodings.

    Args:
        run: output folder of `baseline`, `amp`, `litemp` or `quantize`.
        output: folder for the files.
        precision: which one of a baseline; None takes the cheapest that its verdict accepted.
        point: which one of the points that `amp` scored; None takes the one that it chose.
        encodings_version: layout of the encodings file: 0.6.1, 1.0.0 or 2.0.0.

    Raises:
        SpecError: the folder is no run, has no such precision, or nothing was accepted; or no such encodings version.
        OutputError: a file is missing or is not what was scored, or the files cannot be written.
    """
    folder = Path(run)
    source, why = _choose(folder, precision) if point is None else _choose_point(folder, precision, point)
    if source.resolve() == Path(output).resolve():
        raise SpecError(f"{str(output)!r} is the run itself: name another folder with -o.")
    record = read_record(source / names.RECORD)
    for name, facts in record.files.items():
        path = source / name
        if not path.is_file() or sha256(path) != facts["sha256"]:
            raise OutputError(
                f"{str(path)!r} is missing or is not the file that was scored: run `fewbits {record.verb}` again."
            )
    with staged(output) as stage:
        for name in (*record.files, names.RECORD):
            try:
                shutil.copyfile(source / name, stage / name)
            except OSError as error:
                raise OutputError(f"Cannot write {name} to {str(output)!r}: {error.strerror or error}.") from error
        if names.ENCODINGS in record.files:
            _rewrite_encodings(stage, encodings_version)
        if {names.FLOAT, names.ENCODINGS} <= set(record.files):
            write_commands(stage, record.target, record.precision)
    return ExportResult(Path(output), str(record.options.get("precision", "")), why, record)


def _rewrite_encodings(stage: Path, version: str) -> None:
    """Bring the encodings file into another layout, and let the record vouch for it."""
    path = stage / names.ENCODINGS
    before, _ = read_document(path)
    try:
        after = as_version(before, version)
        text = json.dumps(after, indent=1, allow_nan=False)
    except UNFIT as error:
        raise unfit(path, error) from error
    if after is before:
        return
    write_file(path, (text + "\n").encode())
    record = json.loads((stage / names.RECORD).read_text(encoding="utf-8"))
    record["files"][names.ENCODINGS].update(sha256=sha256(path), bytes=path.stat().st_size)
    write_file(stage / names.RECORD, (json.dumps(plain(record), indent=1, allow_nan=False) + "\n").encode())


def _choose(folder: Path, precision: str | None) -> tuple[Path, str]:
    """Return the folder of the artifact, and why it was chosen."""
    verdict = _baseline_verdict(folder)
    if verdict is None:
        record = read_record(folder / names.RECORD)
        made = str(record.options.get("precision", ""))
        if precision not in (None, made):
            raise SpecError(f"The run {str(folder)!r} holds {made} only, not {precision!r}: leave --precision out.")
        return folder, "the only one"
    there = [row for row in verdict[1] if (folder / row / names.RECORD).is_file()]
    if precision is None:
        if verdict[0] is None:
            raise SpecError(
                f"No precision of {str(folder)!r} was acceptable: name one of {', '.join(there)} with --precision."
            )
        return folder / verdict[0], "the cheapest that the verdict accepted"
    if precision not in there:
        raise SpecError(f"The run {str(folder)!r} has no {precision!r}: it has {', '.join(there)}.")
    return folder / precision, "as asked"


def _choose_point(folder: Path, precision: str | None, number: int) -> tuple[Path, str]:
    """Return the folder of a point, and why it was chosen."""
    if precision is not None:
        raise SpecError("A point has its precisions already: leave --precision out.")
    record = read_any(folder / names.RECORD)
    if not isinstance(record, AmpRecord):
        raise SpecError(f"{str(folder)!r} is a run of {record.verb}, which has no points: leave --point out.")
    found = record.point(number)
    scored = ", ".join(str(p.number) for p in record.points if p.folder is not None)
    if found is None:
        raise SpecError(f"The run {str(folder)!r} has no point {number}: those with files are {scored}.")
    if found.folder is None:
        raise SpecError(f"Point {number} was predicted and not scored, it has no files: those with files are {scored}.")
    return folder / found.folder, f"point {number} as asked"


def _baseline_verdict(folder: Path) -> tuple[str | None, list[str]] | None:
    """Return the accepted precision and all of them, where the folder is a baseline; None where it is not."""
    path = folder / names.RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("verb") != "baseline":
            return None
        return document["verdict"]["accepted"], [str(row["precision"]) for row in document["rows"]]
    except FileNotFoundError:
        raise SpecError(f"There is no {path.name} in {str(folder)!r}: give the output folder of a run.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SpecError(f"The record {str(path)!r} cannot be read: {type(error).__name__} {error}.") from error
