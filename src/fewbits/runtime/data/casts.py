"""Bring an array to the dtype of a model input: casts that keep the values, or a refusal."""

from typing import Any

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.types import Array, InputInfo

_TEXT = "OSU"


def is_real(array_or_dtype: Array | np.dtype[Any]) -> bool:
    """Whether it holds floating-point values, bfloat16 and float8 included."""
    dtype = array_or_dtype.dtype if isinstance(array_or_dtype, np.ndarray) else array_or_dtype
    return dtype.name.startswith(("float", "bfloat"))


def cast(array: Array, info: InputInfo, origin: str) -> Array:
    """Return `array` in the dtype of the input.

    Floats change their width (a value that overflows is refused), integers and booleans change type where every value
    survives. A float is never cut to an integer.

    Raises:
        DataError: the cast would change values.
    """
    if array.dtype == info.dtype:
        return array
    if info.dtype.kind in _TEXT or array.dtype.kind in _TEXT:
        if info.dtype.kind in _TEXT and array.dtype.kind in _TEXT:
            return array.astype(info.dtype)
        raise _refusal(array, info, origin, "text and numbers do not convert")
    if np.can_cast(array.dtype, info.dtype, "safe"):
        return array.astype(info.dtype)
    if is_real(array):
        return _cast_real(array, info, origin)
    if array.dtype.kind not in "biu":
        raise _refusal(array, info, origin, "only real numbers convert")
    result = array.astype(info.dtype)
    if not np.array_equal(result.astype(array.dtype), array):
        raise _refusal(array, info, origin, "some values would change")
    return result


def _cast_real(array: Array, info: InputInfo, origin: str) -> Array:
    if not is_real(info.dtype):
        raise _refusal(array, info, origin, "fractions would be cut off")
    with np.errstate(over="ignore", invalid="ignore"):
        result: Array = array.astype(info.dtype)
    if np.any(~np.isfinite(result) & np.isfinite(array)):
        raise _refusal(array, info, origin, "some values would overflow")
    return result


def _refusal(array: Array, info: InputInfo, origin: str, why: str) -> DataError:
    return DataError(
        f"{origin}: input {info.name!r} takes {info.dtype}, the array is {array.dtype}, and {why}: "
        f"convert it yourself with .astype({str(info.dtype)!r}) if that is what you want."
    )


def require_finite(array: Array, name: str, origin: str, first: int, row: int | None) -> None:
    """Refuse NaN and infinity in a float feed.

    Args:
        array: the feed.
        name: its input.
        origin: the file or item.
        first: index in the whole data of the first sample.
        row: index in its file of the first sample; None when axis 0 does not count samples.

    Raises:
        DataError: names the input, the sample and the file.
    """
    if not is_real(array):
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    position = np.argwhere(~finite)[0]
    offset = 0 if row is None else int(position[0])
    place = origin if row is None else f"{origin}, row {row + offset}"
    raise DataError(
        f"Input {name!r} of sample {first + offset} ({place}) holds {array[tuple(position)]}: every value must "
        "be finite. Mend or remove that sample."
    )
