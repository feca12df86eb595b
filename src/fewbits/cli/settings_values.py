"""One value of a settings file: what its type may be, where its path lies, and the text that the option wants."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewbits.cli.options import parse_dims

WANTED = {
    "path": 'a path in quotes, such as "folder/file"',
    "name": 'a name in quotes, such as "top1"',
    "text": 'a text in quotes, such as "cpu"',
    "words": 'a text in quotes, a number, or a list of these, such as ["w8a8", "fp16"]',
    "texts": 'a list of texts, such as ["fp16:head/*"]',
    "sizes": "a table of whole numbers, such as { batch = 1 }",
    "whole": "a whole number, such as 100",
    "number": "a number, such as 0.5",
    "numbers": "a number or a list of numbers, such as [0.5, 0.5, 0.5]",
    "amount": 'a number, or a text such as "1%"',
    "flag": "true or false",
}
"""Kind -> what a message calls it."""

_FUNCTION = re.compile(r"(.+\.py)(:[^:/\\]+)", re.DOTALL)
_AIMET = "aimet:"
_FILES = (".toml", ".csv", ".json", ".pt2")
_INT64 = 1 << 63


def read_value(kind: str, value: Any, folder: Path) -> Any:
    """Return what the option takes of a TOML value, or None where its type is another.

    Args:
        kind: of `WANTED`.
        value: as tomllib reads it.
        folder: what relative paths start from.

    Returns:
        bool for flags, int and float for numbers, a list of texts for lists and tables, else a text.
    """
    if kind == "flag":
        return value if isinstance(value, bool) else None
    if kind == "whole":
        return value if _is_whole(value) else None
    if kind == "number":
        return value if _is_number(value) else None
    if kind == "sizes":
        is_table = isinstance(value, Mapping) and value and all(map(_is_whole, value.values()))
        return [f"{name}={size}" for name, size in value.items()] if is_table else None
    if kind == "texts":
        texts = value if isinstance(value, list) else [value]
        return texts if texts and all(map(_is_text, texts)) else None
    return _read_text(kind, value, folder)


def _read_text(kind: str, value: Any, folder: Path) -> str | None:
    if _is_text(value):
        return place(value, folder, always=kind == "path") if kind in ("path", "name", "words") else str(value)
    if kind in ("amount", "words", "numbers") and _is_number(value):
        return repr(value)
    if kind in ("words", "numbers") and isinstance(value, list) and value:
        is_fit = all(_is_number(item) or (kind == "words" and _is_text(item)) for item in value)
        return ",".join(item if isinstance(item, str) else repr(item) for item in value) if is_fit else None
    return None


def place(text: str, folder: Path, *, always: bool) -> str:
    """Return a path as seen from the current folder.

    Args:
        text: see `move_path`.
        folder: what it starts from where it is relative.
        always: see `move_path`.
    """
    return move_path(text, lambda file: file if folder == Path() else str(folder / file), always=always)


def move_path(text: str, move: Callable[[str], str], *, always: bool) -> str:
    """Return a text with the relative path in it changed; absolute ones and those of a home folder are kept.

    Args:
        text: a path, `file.py:function`, or `aimet:FILE.json`.
        move: is given the path.
        always: the text is a path whatever it looks like; else only where it looks like a function or a rule file.
    """
    if text.startswith(_AIMET):
        return _AIMET + move_path(text.removeprefix(_AIMET), move, always=True)
    file, function = split_function(text)
    is_path = always or function or text.endswith(_FILES)
    is_settled = file.startswith("~") or Path(file).is_absolute()
    return text if is_settled or not is_path else move(file) + function


def split_function(text: str) -> tuple[str, str]:
    """Return ("file.py", ":function") of "file.py:function", and (text, "") of any other."""
    match = _FUNCTION.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def write_value(kind: str, value: Any) -> Any:
    """Return a value of an option as a settings file holds it; its paths are absolute.

    Args:
        kind: of `WANTED`.
        value: as the command got it; not None, and no empty list.

    Raises:
        SpecError: a dimension is not NAME=SIZE.
    """
    if kind == "sizes":
        return parse_dims(value)
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if isinstance(value, str) and kind in ("path", "name", "words"):
        start = str(Path(value).expanduser()) if value.startswith("~") else value
        return place(start, Path.cwd(), always=kind == "path")
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)
