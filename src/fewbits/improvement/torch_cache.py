"""Activations of many batches under a ceiling: in memory while there is room, in files of a scratch folder beyond."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from fewbits.artifact.folder import temporary_folder
from fewbits.errors import OutputError


@contextmanager
def open_cache(ceiling: int) -> Iterator["Cache"]:
    """Lend a cache whose files are removed at the end.

    Args:
        ceiling: bytes held in memory at most.

    Raises:
        OutputError: the system's folder for temporary files cannot be written.
    """
    with temporary_folder() as folder:
        yield Cache(ceiling, folder)


class Cache:
    """Tensors by (stream, name, batch); what does not fit under the ceiling waits in files, bit for bit.

    Args:
        ceiling: bytes held in memory at most.
        folder: for the files.

    Attributes:
        held: bytes in memory now.
        most_held: the most that was held at once.
        spilled: bytes written to files so far.
    """

    def __init__(self, ceiling: int, folder: Path) -> None:
        self.ceiling = ceiling
        self.folder = folder
        self.held = self.most_held = self.spilled = 0
        self._there: dict[tuple[str, str, int], torch.Tensor | _Filed] = {}
        self._files = 0

    def put(self, stream: str, name: str, batch: int, value: torch.Tensor) -> None:
        """Keep a tensor; what was under its key is dropped.

        Raises:
            OutputError: the disk is full.
        """
        self.drop(stream, name, batch)
        kept = _dense(value.detach())
        size = kept.nbytes
        if self.held + size <= self.ceiling or not size:
            self.held += size
            self.most_held = max(self.most_held, self.held)
            self._there[stream, name, batch] = kept
            return
        self._files += 1
        self.spilled += size
        self._there[stream, name, batch] = _Filed.written(kept, self.folder / f"{self._files}.npy")

    def get(self, stream: str, name: str, batch: int) -> torch.Tensor:
        """Return a tensor that was put."""
        found = self._there[stream, name, batch]
        return found.read() if isinstance(found, _Filed) else found

    def drop(self, stream: str, name: str, batch: int) -> None:
        """Forget a tensor, if it is there."""
        found = self._there.pop((stream, name, batch), None)
        if isinstance(found, _Filed):
            found.path.unlink(missing_ok=True)
        elif found is not None:
            self.held -= found.nbytes


class _Filed:
    """A tensor in a file."""

    def __init__(self, path: Path, is_channels_last: bool, device: torch.device) -> None:
        self.path, self.is_channels_last, self.device = path, is_channels_last, device

    @classmethod
    def written(cls, value: torch.Tensor, path: Path) -> "_Filed":
        is_last = not value.is_contiguous()
        plain = value.permute(0, 2, 3, 1) if is_last else value
        try:
            np.save(path, plain.cpu().numpy(), allow_pickle=False)
        except OSError as error:
            raise OutputError(
                f"Cannot keep activations in {str(path.parent)!r}: {error.strerror or error}. Set TMPDIR to a folder "
                f"with space, raise the memory ceiling, or take fewer samples."
            ) from error
        return cls(path, is_last, value.device)

    def read(self) -> torch.Tensor:
        found = torch.from_numpy(np.load(self.path, allow_pickle=False)).to(self.device)
        return found.permute(0, 3, 1, 2) if self.is_channels_last else found


def _dense(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor in one of two layouts that a file restores: plain, or channels last of rank 4."""
    if value.is_contiguous() or (value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)):
        # a view of a larger tensor would keep all of it alive
        return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    return value.contiguous()
