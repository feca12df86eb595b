"""From JSON back to the frozen dataclasses of the records: the type hints are the schema."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


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
        if arguments[0] in (float, int) and all(type(item) is arguments[0] for item in value):
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
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_checked(value, is_number, "a number", where))
    is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _checked(value, is_right, f"of type {kind.__name__}", where)


def _checked(value: Any, is_right: bool, wanted: str, where: str) -> Any:
    if not is_right:
        raise ValueError(f"{where.lstrip('.') or 'the document'} is {str(value)[:40]!r} and must be {wanted}")
    return value
