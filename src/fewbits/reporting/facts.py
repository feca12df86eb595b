"""What the mappings in a record must hold, and which files and folders it may name: a record may come from anywhere."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fewbits.reporting.decode import decode

_Number = float  # for classes with a field that is called float


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    unit: str
    higher_is_better: bool
    samples: int
    is_on_calibration_data: bool = False


@dataclass(frozen=True, slots=True)
class _Goal:
    text: str
    is_default: bool
    max_drop: float
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    finding: str
    accepted: str | None
    reason: str
    remarks: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Cost:
    name: str
    unit: str
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class _Scores:
    metric: str
    unit: str
    higher_is_better: bool
    float: _Number
    quantized: _Number
    drop: _Number
    samples: int
    drop_interval: list[_Number] | None = None
    is_on_calibration_data: bool = False


@dataclass(frozen=True, slots=True)
class _Model:
    source: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _File:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Output:
    error: float
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class _Method:
    name: str
    reason: str
    seconds: float
    changed: int
    objective: list[float] | None
    layers: list[tuple[str, float, float]]
    output: _Output | None
    score: float | None
    kept: bool
    declined: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class _Improvement:
    methods: list[Mapping[str, Any]]
    precision: str = ""
    before: _Number | None = None
    after: _Number | None = None
    float: _Number | None = None
    output_before: _Output | None = None
    next_steps: list[tuple[str, str]] | None = None


_FACTS = {"metric": _Metric, "goal": _Goal, "verdict": _Verdict, "cost": _Cost, "scores": _Scores, "model": _Model,
          "improvement": _Improvement}  # fmt: skip
"""Field of a record -> what its mapping must hold; it may hold more. Empty ones are those of runs without it."""
_MAPPINGS = ("verdict", "scores", "model", "data", "files", "improvement", "options")
_MAY_BE_EMPTY = ("scores", "model", "improvement")


def checked_facts(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the mappings of its record checked, and nulls in them that stand for numbers made NaN.

    Args:
        kind: the record's class.
        document: as json.loads gives it.

    Raises:
        ValueError: something is missing, of another type, or names a file outside of the run's folder.
    """
    for name in _MAPPINGS:
        decode(Mapping[str, Any], document.get(name, {}), name)
    made = dict(document)
    for item in fields(kind):
        wanted, value = _FACTS.get(item.name), document.get(item.name)
        if wanted is None or not isinstance(value, Mapping) or (not value and _may_be_empty(kind, item.name)):
            continue
        found = decode(wanted, value, item.name)
        numbers = {one.name: number for one in fields(wanted) if isinstance(number := getattr(found, one.name), float)}
        made[item.name] = {**value, **{name: number for name, number in numbers.items() if name in value}}
    if len(ends := (made.get("scores") or {}).get("drop_interval") or (0, 0)) != 2:
        raise ValueError(f"scores.drop_interval has {len(ends)} ends")
    decode(Mapping[str, Mapping[str, Any]], document.get("data", {}), "data")
    for name in decode(Mapping[str, _File], document.get("files", {}), "files"):
        if not _is_plain(name):
            raise ValueError(f"files names {name!r}, which is no name of a file in the run's folder")
    return made


def checked_methods(improvement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a record of better weights says of each method, checked.

    Raises:
        ValueError: something is missing, or of another type.
    """
    methods = improvement["methods"]
    return [asdict(decode(_Method, row, f"improvement.methods[{i}]")) for i, row in enumerate(methods)]


def check_folders(record: Any) -> None:
    """Refuse folders that are not inside the run's.

    Raises:
        ValueError: there is one.
    """
    for folder in _folders(record):
        parts = (*PurePosixPath(folder).parts, *PureWindowsPath(folder).parts)
        if ".." in parts or "\0" in folder or PurePosixPath(folder).is_absolute() or PureWindowsPath(folder).anchor:
            raise ValueError(f"it names the folder {folder!r}, which is not inside the run's")


def _folders(record: Any) -> Iterator[str]:
    """Yield the folders that a record names: those of its rows, and of what its verdict took."""
    for item in fields(record):
        value = getattr(record, item.name)
        for row in value if isinstance(value, tuple) else (value,):
            if is_dataclass(row):
                yield from (str(name) for key in ("folder", "precision") if (name := getattr(row, key, None)))
    verdict = getattr(record, "verdict", {})
    if verdict.get("accepted"):
        yield verdict["accepted"]


def _may_be_empty(kind: type, name: str) -> bool:
    return name in _MAY_BE_EMPTY or (name == "verdict" and kind.__name__ == "AutoRecord")


def _is_plain(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and "\0" not in name
        and PurePosixPath(name).name == PureWindowsPath(name).name == name
    )
