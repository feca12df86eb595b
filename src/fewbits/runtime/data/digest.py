"""Content hashes of data: equal content, equal hash, wherever it lies."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from fewbits.runtime.data.types import Array


class Hash(Protocol):
    """What hashlib's objects share."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the hash as text."""


def add_text(digest: Hash, *words: object) -> None:
    """Add words, each closed by a zero byte so that two of them never run together."""
    for word in words:
        digest.update(str(word).encode() + b"\0")


def add_arrays(digest: Hash, arrays: Mapping[str, Array]) -> None:
    """Add names, dtypes, shapes and contents, in the order of the names."""
    for name in sorted(arrays):
        array = arrays[name]
        add_text(digest, name, array.dtype, array.shape)
        if array.dtype.hasobject:
            add_text(digest, *array.ravel().tolist())
        else:
            # Viewed as bytes, an array (a memory map too) is hashed in place; ml_dtypes have no buffer of their own.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # type: ignore[arg-type]


def add_file(digest: Hash, path: Path) -> None:
    """Add the content of a file; its name is the caller's business."""
    with path.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
