"""Where a training stands, in one file, so that a run that was stopped goes on and ends with the same bits."""

import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fewbits.artifact.folder import write_file
from fewbits.errors import OutputError


class Checkpoint:
    """One file that is replaced whole.

    Args:
        path: the file; None keeps nothing.
        key: returns the hash of everything that the training depends on; called on first use.
    """

    def __init__(self, path: Path | None = None, key: Callable[[], str] = str) -> None:
        self._path, self._make_key = path, key

    @cached_property
    def _key(self) -> str:
        return self._make_key()

    def read(self, device: str = "cpu") -> dict[str, Any] | None:
        """Return what was written by a training that depends on the same things; None where nothing was.

        Raises:
            OutputError: the file is no checkpoint, or cannot be read.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            found = torch.load(self._path, map_location=device, weights_only=True)
            key, standing = found["key"], dict(found["standing"])
        except Exception as error:  # a file of anything else makes torch raise kinds of every sort
            raise OutputError(
                f"The checkpoint {str(self._path)!r} cannot be read: delete it, and training starts anew."
            ) from error
        return standing if key == self._key else None

    def write(self, standing: dict[str, Any]) -> None:
        """Put down tensors, numbers, texts, and lists, tuples and dicts of these.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._path is None:
            return
        file = io.BytesIO()
        torch.save({"key": self._key, "standing": standing}, file)
        write_file(self._path, file.getvalue())
