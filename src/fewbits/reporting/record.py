"""The record of a run: one JSON file that says what was made, from what, how, and how well it scores."""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fewbits import __version__
from fewbits.artifact.folder import write_file
from fewbits.errors import SpecError
from fewbits.reporting.decode import decode
from fewbits.reporting.facts import checked_facts

SCHEMA = 1
_MOST_LEVELS = 50
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxslim", "onnxruntime-qnn", "ml-dtypes")


def versions() -> dict[str, str]:
    """Return the versions of Python, fewbits and the libraries that decide the result."""
    found = {"python": platform.python_version(), "fewbits": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what tells this machine from another: platform, processor, cores."""
    return {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbRecord:
    """What the record of every verb says.

    Attributes:
        verb: the command that ran.
        created: time of writing, UTC, ISO 8601.
        options: what the caller asked for, by option name.
        model: source, sha256, whether the float companion is prepared, and what preparing changed.
        data: role (calibration, evaluation) -> name, fingerprint, samples.
        target: device profile.
        timings: stage -> seconds.
        notes: sentences for the user.
        versions: package -> version.
        machine: platform, processor and cores.
        schema: version of this layout.
    """

    verb: str
    created: str
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    target: str
    timings: Mapping[str, float]
    notes: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the record as JSON; numbers that JSON lacks become null."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(VerbRecord):
    """Everything about one run that someone may ask later.

    Attributes beside those of the class that it extends:
        precision: counts of nodes by precision.
        declined: reason -> names of the nodes that stay in float32 for it.
        profile: node -> precision, for every node that does not have the default.
        scores: metric, direction, float and quantized score, drop and its interval.
        widened: weight -> channels whose scale was widened so that the int32 bias fits.
        pinned: tensors whose encodings later runs must keep.
        trials: (ranges that were tried, relative output error), where they were chosen by trial.
        files: name -> sha256 and bytes.
        improvement: what improvers did to the model, empty where none ran: `methods`, a list of rows, one for each, in
            the order in which they ran. Records of later verbs do not repeat it.
    """

    precision: Mapping[str, int]
    declined: Mapping[str, list[str]]
    profile: Mapping[str, str]
    scores: Mapping[str, Any]
    widened: Mapping[str, int]
    pinned: tuple[str, ...]
    trials: tuple[tuple[str, float], ...]
    files: Mapping[str, Mapping[str, Any]]
    improvement: Mapping[str, Any] = field(default_factory=dict)


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        SpecError: the file is missing, is no record, or was written by a newer fewbits.
    """
    document = read_json(path)
    try:
        if document.get("verb") == "baseline":
            precisions = [str(row["precision"]) for row in document["rows"]]
            raise SpecError(
                f"{str(path.parent)!r} is a baseline: name one of its folders, such as "
                f"{str(path.parent / precisions[0])!r} (it has {', '.join(precisions)})."
            )
        if int(document.get("schema", 0)) <= SCHEMA:
            found: RunRecord = decode(RunRecord, checked_facts(RunRecord, document))
            return found
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise SpecError(f"The record {str(path)!r} cannot be read: {type(error).__name__} {error}.") from error
    raise SpecError(f"The record {str(path)!r} was written by a newer fewbits: upgrade this one ({__version__}).")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the record of a run.

    Raises:
        SpecError: the file is missing, or holds no JSON object.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"There is no {path.name} in {str(path.parent)!r}: give the output folder of an earlier run."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON text"
        raise SpecError(
            f"The record {str(path)!r} cannot be read: {reason}. Run the command that wrote it again."
        ) from error
    if not isinstance(document, dict) or _is_deep(document):
        raise SpecError(
            f"The record {str(path)!r} cannot be read: it names no verb and no schema, or is nested too deeply. Run "
            f"the command that wrote it again."
        )
    return document


def _is_deep(document: Any) -> bool:
    """Whether lists and objects are nested deeper than in any record."""
    level = [document]
    for _ in range(_MOST_LEVELS):
        below = (inner for one in level for inner in (one.values() if isinstance(one, dict) else one))
        level = [inner for inner in below if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, whole or not at all; numbers that JSON lacks become null.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, (json.dumps(plain(document), indent=1, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """Return `value` in JSON's own types: paths become text, numbers that JSON lacks become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
