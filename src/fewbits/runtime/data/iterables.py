"""Sources in the user's code: functions that return an iterable, lists, data loaders."""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.digest import Hash, add_arrays, add_file, add_text
from fewbits.runtime.data.fit import Chunk
from fewbits.runtime.data.items import parse_item
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.data.userfile import required_parameters, user_code

_END = object()


@dataclass(frozen=True, slots=True, eq=False)
class IterableSource:
    """Items that `make` returns anew for each pass.

    Attributes:
        make: returns an iterable of items, or one dict of arrays to cut batches from.
        name: what messages call it.
        inputs: the model's inputs.
        folder: on sys.path while the user's code runs.
        file: the file whose content stands for the data in the fingerprint; None hashes every item instead.
    """

    make: Callable[[], Any]
    name: str
    inputs: tuple[InputInfo, ...]
    folder: Path | None = None
    file: Path | None = None

    @property
    def has_labels(self) -> bool:
        """Whether the first item carries labels."""
        chunks = self.chunks()
        first = next(chunks, None)
        chunks.close()
        return first is not None and first.labels is not None

    def chunks(self) -> Generator[Chunk]:
        """Run the user's code from the start."""
        with self._running():
            made = self.make()
        if isinstance(made, Mapping | np.ndarray) or hasattr(made, "detach"):
            yield self._chunk(made, self.name, is_batch=False)
            return
        if made is None or isinstance(made, str | bytes):
            raise DataError(f"{self.name} returned {made!r}: yield feeds, or return an iterable of them.")
        with self._running():
            items = iterate(made)
        for number in range(1 << 62):
            with self._running():
                item = next(items, _END)
            if item is _END:
                return
            yield self._chunk(item, f"{self.name}, item {number}", is_batch=True)

    def _running(self) -> Any:
        return user_code(self.name, error=DataError, folder=self.folder)

    def _chunk(self, item: Any, origin: str, *, is_batch: bool) -> Chunk:
        arrays, labels = parse_item(item, self.inputs, origin)
        return Chunk(arrays, labels, origin, is_batch=is_batch)

    def update(self, digest: Hash) -> None:
        """Add the function's file and name, or every item where there is no file to stand for them."""
        if self.file is not None:
            add_text(digest, self.name.rpartition(":")[2])
            add_file(digest, self.file)
            return
        for chunk in self.chunks():
            add_arrays(digest, chunk.arrays)
            if chunk.labels is not None:
                add_arrays(digest, {"\0labels": chunk.labels})


def iterate(source: Any) -> Iterator[Any]:
    """Iterate over anything with `__iter__`, or with `__getitem__` and a length (a torch map-style dataset)."""
    if hasattr(source, "__iter__"):
        return iter(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[position] for position in range(len(source)))
    raise DataError(f"A value of type {type(source).__name__} cannot be iterated: give an iterable of feeds.")


def from_function(
    function: Callable[..., Any], name: str, inputs: tuple[InputInfo, ...], folder: Path | None
) -> IterableSource:
    """Return the source of a function without arguments; `folder` is given for `file.py:function`.

    Raises:
        DataError: the function needs arguments.
    """
    if needed := required_parameters(function):
        raise DataError(
            f"{name} must take no arguments, but it needs {', '.join(map(repr, needed))}: give them defaults, "
            "or wrap it in a function that passes them."
        )
    return IterableSource(function, name, inputs, folder, _defining_file(function))


def _defining_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that says all about a function: none for closures, bound methods and notebook cells."""
    if not inspect.isfunction(function) or function.__closure__ or "<locals>" in function.__qualname__:
        return None
    path = Path(function.__code__.co_filename)
    return path if path.is_file() else None


def from_iterable(source: Iterable[Any], inputs: tuple[InputInfo, ...]) -> IterableSource:
    """Return the source of a list, a data loader, or whatever else can be iterated again and again.

    Raises:
        DataError: it can be iterated only once.
    """
    name = f"the given {type(source).__name__}"
    if hasattr(source, "__next__"):
        raise DataError(
            f"{name} can be read only once, and the data is read several times: pass the function that makes it, "
            "or a list."
        )
    return IterableSource(lambda: source, name, inputs)
