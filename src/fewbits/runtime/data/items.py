"""Read one item of a user's iterable: a dict, an array, or a tuple, with or without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.types import Array, InputInfo

LABEL_NAMES = ("labels", "label")


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, too long or with a zero byte, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def as_array(value: Any, origin: str) -> Array:
    """Return a numpy array of an array, a torch tensor, a number or nested lists of numbers.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "detach"):  # a torch tensor: off the graph, off the accelerator
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as cause:
        kind = type(value).__name__
        raise DataError(f"{origin}: a value of type {kind} does not become an array ({cause}): give arrays.") from cause
    if array.dtype == object:
        raise DataError(f"{origin}: a value of type {type(value).__name__} does not become an array: give arrays.")
    return array


def split_labels(
    arrays: Mapping[str, Any], inputs: Sequence[InputInfo], origin: str
) -> tuple[dict[str, Array], Array | None]:
    """Take `labels` (or `label`) out of a dict, unless the model has an input of that name."""
    names = {info.name for info in inputs}
    found = [key for key in LABEL_NAMES if key in arrays and key not in names]
    if len(found) > 1:
        raise DataError(f"{origin} holds both 'labels' and 'label': keep one of them.")
    labels = arrays[found[0]] if found else None
    feeds = {str(key): as_array(value, origin) for key, value in arrays.items() if key not in found}
    return feeds, None if labels is None else as_array(labels, origin)


def parse_item(item: Any, inputs: Sequence[InputInfo], origin: str) -> tuple[dict[str, Array], Array | None]:
    """Return feeds and labels of one item.

    Forms: dict of feeds, (dict, labels), array, (array, labels), (one array per input), (one array per input, labels).

    Raises:
        DataError: another form, or another number of arrays than the model has inputs.
    """
    if isinstance(item, Mapping):
        return split_labels(item, inputs, origin)
    parts = tuple(item) if isinstance(item, tuple | list) else (item,)
    if parts and isinstance(parts[0], Mapping) and len(parts) <= 2:
        feeds, labels = split_labels(parts[0], inputs, origin)
        given = parts[1] if len(parts) == 2 else None
        return feeds, labels if given is None else as_array(given, origin)
    if len(parts) not in (len(inputs), len(inputs) + 1):
        raise DataError(
            f"{origin} has {len(parts)} arrays, the model has {len(inputs)} inputs "
            f"({', '.join(info.name for info in inputs)}): give one array per input, and labels last if there are any."
        )
    arrays = {info.name: as_array(part, origin) for info, part in zip(inputs, parts, strict=False)}
    last = parts[len(inputs)] if len(parts) > len(inputs) else None
    return arrays, None if last is None else as_array(last, origin)
