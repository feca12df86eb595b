"""Weights that stay in their file: mapped where they are read, and let go of as soon as nobody reads them."""

import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_PIECE_BYTES = 1 << 24
_Identity = tuple[int, int, int, int]


class DataFile:
    """A file of weights, held open: what is read is what lay there at first, even after another file took its place.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.handle)
        self._identity = _identity(os.fstat(self.handle))

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to the file that was opened, unchanged."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class MappedTensor(ir.ExternalTensor):
    """A tensor in a file, of which memory holds nothing but what is being read.

    An `ir.ExternalTensor` keeps the mapping of what was read once, and a file handle with it: after one pass over a
    model all of its weights are resident, and models of a thousand tensors run out of handles.

    Args:
        tensor: what is to be read: elements of whole bytes, at least one.
        file: the file that it lies in.
    """

    def __init__(self, tensor: ir.ExternalTensor, file: DataFile) -> None:
        super().__init__(
            tensor.location, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=str(tensor.name),
            doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props), base_dir=tensor.base_dir,
        )  # fmt: skip
        self.file = file

    @classmethod
    def fits(cls, tensor: ir.TensorProtocol | None) -> bool:
        """Whether `tensor` lies in a file in a form that can be read as it is; packed 4-bit values cannot."""
        return type(tensor) is ir.ExternalTensor and tensor.dtype.bitwidth >= 8 and tensor.size > 0

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values, read-only; their pages are let go of with the array."""
        mapped = mmap.mmap(self.file.handle, 0, access=mmap.ACCESS_READ)
        kind = np.dtype(self.dtype.numpy()).newbyteorder("<")
        return np.frombuffer(mapped, kind, self.size, self.offset or 0).reshape(self.shape.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the values as another type, too."""
        return np.array(self.numpy(), dtype) if copy else np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        """Return the bytes as they lie in the file."""
        return b"".join(self._pieces())

    def tofile(self, file: BinaryIO) -> None:
        """Append the bytes to `file`."""
        if self.file.is_in_place:
            super().tofile(file)  # inside the kernel where the system can
            return
        file.writelines(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        with os.fdopen(os.dup(self.file.handle), "rb", buffering=0) as source:
            source.seek(self.offset or 0)
            left = self.nbytes
            while left and (piece := source.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                yield piece


def map_weights(model: ir.Model) -> None:
    """Let every initializer in a file be read without being kept, in place; the files were found good before.

    Raises:
        OSError: a file cannot be opened.
    """
    files: dict[Path, DataFile] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and MappedTensor.fits(tensor):
                path = Path(tensor.path)
                if path not in files:
                    files[path] = DataFile(path)
                value.const_value = MappedTensor(tensor, files[path])


def shared_folder(model: ir.Model) -> Path | None:
    """Return the one folder in which the data of all initializers in files still lie; None where there is none."""
    folders: set[str] = set()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                if not isinstance(tensor, MappedTensor) or not tensor.file.is_in_place:
                    return None
                folders.add(str(tensor.base_dir))
    return Path(folders.pop()) if len(folders) == 1 else None
