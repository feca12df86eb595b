"""TOML in and out: reading a user's file within bounds, and writing what settings need.

Written are str, bool, int, float, lists and tables of these: a table below another is written inline.
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewbits.errors import SpecError

MOST_BYTES = 1_000_000
_MOST_DOTS = 500  # of a line: the time that tomllib takes grows with the square of the parts of a dotted key
_WIDTH = 100
_LINE = re.compile(r"(.*?)\s*\(at (line \d+), column \d+\)", re.DOTALL)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def read_toml(path: Path, what: str = "settings") -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: of the file.
        what: kind of file, for messages.

    Raises:
        SpecError: it is missing, larger than a megabyte, no UTF-8 text, or no TOML; the message names the line
            where there is one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"Cannot read the {what} file {str(path)!r}: {reason}.") from error
    if len(content) > MOST_BYTES:
        raise SpecError(f"{path}: it is larger than 1 MB, which no {what} file is: name another file.")
    if any(line.count(b".") > _MOST_DOTS for line in content.splitlines()):
        raise SpecError(f"{path}: a line has more than {_MOST_DOTS} dots: write long lists on several lines.")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}, line {line}: it is no UTF-8 text: save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        found = _LINE.fullmatch(str(error))
        text, where = (found[1], f", {found[2]}") if found else (str(error), "")
        raise SpecError(f"{path}{where}: this is no TOML: {text}.") from error
    except RecursionError:
        raise SpecError(f"{path}: it is nested too deeply: settings are sections with keys.") from None
    except ValueError as error:  # of Python itself
        raise SpecError(f"{path}: a number in it has thousands of digits: write a shorter one.") from error


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it.

    Raises:
        SpecError: a text that UTF-8 cannot hold, such as a path of undecodable bytes.
        TypeError: it is of another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        items = [toml_value(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"  {item},\n" for item in items) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def toml_line(key: str, value: Any) -> str:
    """Return one line, `key = value`."""
    return f"{_key(key)} = {toml_value(value)}"


def write_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a TOML text of sections with keys; sections without keys are left out.

    Raises:
        SpecError: see `toml_value`.
    """
    parts = []
    for name, keys in sections.items():
        if keys:
            parts.append("\n".join([f"[{_key(name)}]", *(toml_line(key, value) for key, value in keys.items())]) + "\n")
    return "\n".join(parts)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SpecError(f"{text!r} holds bytes that are no UTF-8 text, so TOML cannot name it: rename it.") from None
    return '"' + "".join(map(_character, text)) + '"'


def _character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return f"\\u{ord(char):04X}" if ord(char) < 32 or ord(char) == 127 else char
