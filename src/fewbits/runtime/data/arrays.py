"""Arrays in memory, in .npz and .npy files, and in folders of them. Nothing is ever unpickled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import DataError
from fewbits.runtime.data.archive import OBJECTS, map_array, read_archive
from fewbits.runtime.data.digest import Hash, add_arrays, add_file, add_text
from fewbits.runtime.data.fit import Chunk
from fewbits.runtime.data.items import LABEL_NAMES, split_labels
from fewbits.runtime.data.types import Array, InputInfo


@dataclass(frozen=True, slots=True, eq=False)
class MemorySource:
    """Arrays in memory: input name -> array, and labels."""

    arrays: Mapping[str, Array]
    labels: Array | None
    name: str

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the one chunk."""
        yield Chunk(self.arrays, self.labels, self.name, is_batch=False)

    def update(self, digest: Hash) -> None:
        """Add the arrays."""
        add_arrays(digest, self.arrays if self.labels is None else {**self.arrays, "\0labels": self.labels})


@dataclass(frozen=True, slots=True)
class FileSource:
    """.npz and .npy files: each is one chunk, in the order given.

    Attributes:
        paths: the files.
        inputs: the model's inputs.
        is_store: True for a single file that batches are cut from; False where each file is a batch.
    """

    paths: tuple[Path, ...]
    inputs: tuple[InputInfo, ...]
    is_store: bool

    @property
    def has_labels(self) -> bool:
        """Whether the first file holds labels."""
        return next(self.chunks()).labels is not None

    def chunks(self) -> Iterator[Chunk]:
        """Open one file after the other."""
        for path in self.paths:
            origin = path.name
            feeds, labels = split_labels(self._read(path), self.inputs, origin)
            yield Chunk(feeds, labels, origin, is_batch=not self.is_store)

    def _read(self, path: Path) -> dict[str, Array]:
        if path.suffix == ".npz":
            return read_npz(path)
        if len(self.inputs) != 1:
            raise DataError(
                f"{path.name} holds one array, the model has {len(self.inputs)} inputs "
                f"({', '.join(info.name for info in self.inputs)}): use .npz files with one array per input."
            )
        return {self.inputs[0].name: read_npy(path)}

    def update(self, digest: Hash) -> None:
        """Add names and contents of the files."""
        for path in self.paths:
            add_text(digest, path.name)
            add_file(digest, path)


@dataclass(frozen=True, slots=True)
class NamedFilesSource:
    """A folder with one .npy file per input, named as the input, and perhaps labels.npy."""

    paths: tuple[Path, ...]
    inputs: tuple[InputInfo, ...]

    @property
    def has_labels(self) -> bool:
        """Whether there is a labels.npy."""
        return any(path.stem in LABEL_NAMES for path in self.paths)

    def chunks(self) -> Iterator[Chunk]:
        """Map the files, as one store."""
        arrays = {path.stem: read_npy(path) for path in self.paths}
        origin = str(self.paths[0].parent)
        feeds, labels = split_labels(arrays, self.inputs, origin)
        yield Chunk(feeds, labels, origin, is_batch=False)

    def update(self, digest: Hash) -> None:
        """Add names and contents of the files."""
        FileSource(self.paths, self.inputs, is_store=True).update(digest)


def folder_source(folder: Path, paths: Sequence[Path], inputs: tuple[InputInfo, ...]) -> FileSource | NamedFilesSource:
    """Return the source of a folder of .npz or .npy files.

    Files named as the inputs are taken as those inputs; otherwise each file is a batch (or a sample), in name order.

    Raises:
        DataError: both kinds of file, or a labels.npy that belongs to no named input.
    """
    paths = sorted(paths)
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"The folder {str(folder)!r} holds both .npz and .npy files: keep one kind.")
    stems = {path.stem for path in paths}
    labels = stems & set(LABEL_NAMES) - {info.name for info in inputs}
    if paths[0].suffix == ".npy" and stems - labels == {info.name for info in inputs}:
        return NamedFilesSource(tuple(paths), inputs)
    if paths[0].suffix == ".npy" and labels:
        raise DataError(
            f"The folder {str(folder)!r} holds {min(labels)}.npy beside files that are not named as the inputs "
            f"({', '.join(info.name for info in inputs)}): put samples and labels into .npz files together."
        )
    return FileSource(tuple(paths), inputs, is_store=False)


def read_npy(path: Path) -> Array:
    """Map a .npy file.

    Raises:
        DataError: the file cannot be read, or holds Python objects.
    """
    try:
        return map_array(path)
    except (OSError, ValueError) as cause:
        if _is_archive(path):
            raise DataError(f"{str(path)!r} is no single array: name it .npz if it holds several.") from cause
        raise _unreadable(path, cause) from cause


def read_npz(path: Path) -> dict[str, Array]:
    """Read a .npz file; large arrays that are not compressed are mapped, not read.

    Raises:
        DataError: the file cannot be read, or holds Python objects.
    """
    try:
        return read_archive(path)
    except (OSError, ValueError) as cause:
        raise _unreadable(path, cause) from cause


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def _unreadable(path: Path, cause: Exception) -> DataError:
    if str(cause) == OBJECTS:
        return DataError(
            f"{str(path)!r} holds Python objects, which fewbits never unpickles since that runs code: "
            "save arrays of numbers (equal shapes, or one file per batch)."
        )
    return DataError(f"{str(path)!r} cannot be read as a numpy file ({cause}): save it again with numpy.")
