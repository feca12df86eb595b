"""From JSON back to the frozen dataclasses of the records: the type hints are the schema."""

import math
import reprlib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_LARGEST = (1 << 63) - 1  # of whole numbers: what is longer no reader of numbers takes


def decode(kind: Any, value: Any, where: str = "") -> Any:
    """Return `value`, as json.loads gives it, as an instance of `kind`.

    Args:
        kind: a type hint made of dataclasses, tuple, list, Mapping, Literal, None, bool, int, float, str and Any.
        value: of JSON's own types. A null where a float belongs is a number that JSON lacks, and becomes NaN.
        where: path to the value, for messages.

    Raises:
        ValueError: the value does not fit; the message names its place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else decode(inner, value, where)
    if origin is Literal:
        return _checked(value, value in arguments, f"one of {', '.join(map(str, arguments))}", where)
    if is_dataclass(kind):
        return _dataclass(kind, _checked(value, isinstance(value, Mapping), "an object", where), where)
    if origin is Mapping:
        items = _checked(value, isinstance(value, Mapping), "an object", where).items()
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in items}
    if origin in (tuple, list):
        return origin(_items(arguments, _checked(value, isinstance(value, list), "a list", where), where))
    return _scalar(kind, value, where)


def _dataclass(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    given = {}
    for item in fields(kind):
        if item.name in value:
            given[item.name] = decode(hints[item.name], value[item.name], f"{where}.{item.name}")
        elif not _has_default(item):
            raise ValueError(f"{where}.{item.name}".lstrip(".") + " is missing")
    return kind(**given)


def _has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


def _items(arguments: tuple[Any, ...], value: list[Any], where: str) -> list[Any]:
    if len(arguments) == 1 or arguments[1] is Ellipsis:
        if value and arguments[0] in (float, int) and all(type(item) is arguments[0] for item in value):
            if arguments[0] is int:
                _checked(max(value, key=abs), _is_whole(max(value, key=abs)), "of type int", where)
            return value  # channel ranges and counts: thousands of numbers
        kinds = [arguments[0]] * len(value)
    else:
        kinds = list(arguments)
        _checked(value, len(value) == len(kinds), f"a list of {len(kinds)}", where)
    return [decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))]


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        if value is None:
            return math.nan
        is_number = isinstance(value, float) or _is_whole(value)
        return float(_checked(value, is_number, "a number", where))
    is_right = _is_whole(value) if kind is int else isinstance(value, kind)
    return _checked(value, is_right, f"of type {kind.__name__}", where)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _checked(value: Any, is_right: bool, wanted: str, where: str) -> Any:
    if not is_right:
        said = reprlib.repr(value) if isinstance(value, int) else repr(str(value)[:40])
        raise ValueError(f"{where.lstrip('.') or 'the document'} is {said} and must be {wanted}")
    return value
