"""Qualcomm's input_list.txt: one inference per line, raw files of numbers without a header."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.digest import Hash, add_file, add_text
from fewbits.runtime.data.fit import Chunk
from fewbits.runtime.data.items import is_file
from fewbits.runtime.data.types import Array, InputInfo


@dataclass(frozen=True, slots=True)
class InputListSource:
    """The lines of an input list; lines that begin with % or # are left out, as Qualcomm's tools name outputs there."""

    path: Path
    inputs: tuple[InputInfo, ...]

    @property
    def has_labels(self) -> bool:
        """Raw files carry no labels."""
        return False

    def chunks(self) -> Iterator[Chunk]:
        """Read the files of one line after the other."""
        for number, files in self._lines():
            origin = f"{self.path.name}, line {number}"
            arrays = {}
            for name, file in files.items():
                info = next((info for info in self.inputs if info.name == name), None)
                # An unknown name is refused by `match_names`, together with what the model has.
                arrays[name] = np.empty(0, np.float32) if info is None else _read_raw(file, info, origin)
            yield Chunk(arrays, None, f"{', '.join(file.name for file in files.values())} ({origin})")

    def _lines(self) -> Iterator[tuple[int, dict[str, Path]]]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise DataError(f"{str(self.path)!r} cannot be read as text ({cause}): give an input list.") from cause
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text and text[0] not in "%#":
                yield number, {name: self._find(file, number) for name, file in self._parse(text, number).items()}

    def _parse(self, text: str, number: int) -> dict[str, str]:
        names = [info.name for info in self.inputs]
        if ":=" in text:
            pairs = [word.partition(":=") for word in text.split()]
            if all(colon for _, colon, _ in pairs):
                return {name: file for name, _, file in pairs}
        elif len(names) == 1:
            return {names[0]: text}
        elif len(words := text.split()) == len(names):
            return dict(zip(names, words, strict=True))
        raise DataError(
            f"{self.path.name}, line {number}: {text!r} does not name one file for each of the inputs "
            f"{', '.join(map(repr, names))}: write name:=path for each, separated by spaces."
        )

    def _find(self, file: str, number: int) -> Path:
        """Look beside the list first, then in the working directory, where Qualcomm's tools look."""
        for path in (self.path.parent / file, Path(file)):
            if is_file(path):
                return path
        raise DataError(f"{self.path.name}, line {number}: the file {file!r} does not exist: check the path.")

    def update(self, digest: Hash) -> None:
        """Add input names and file contents, line by line."""
        for number, files in self._lines():
            for name, path in files.items():
                add_text(digest, number, name)
                add_file(digest, path)


def _read_raw(path: Path, info: InputInfo, origin: str) -> Array:
    """Read one raw file: the model's dtype, or float32 where the byte count says so; a dynamic batch counts 1."""
    shape = [1 if position == 0 and not isinstance(dim, int) else dim for position, dim in enumerate(info.shape)]
    unknown = [position for position, dim in enumerate(shape) if not isinstance(dim, int)]
    if len(unknown) > 1:
        raise DataError(
            f"{origin}: input {info} has several dynamic dimensions, which a raw file does not tell: "
            "fix them with --dim."
        )
    known = math.prod(dim for dim in shape if isinstance(dim, int))
    size = path.stat().st_size
    for dtype in (info.dtype, np.dtype(np.float32)):
        step = known * dtype.itemsize
        if size == step or (unknown and step and size and size % step == 0):
            flat = np.frombuffer(path.read_bytes(), dtype)
            return _whole_numbers(flat.reshape([-1 if not isinstance(dim, int) else dim for dim in shape]), info)
    multiple = "a multiple of " if unknown else ""
    raise DataError(
        f"{path.name} ({origin}) has {size} bytes, input {info} needs {multiple}{known * info.dtype.itemsize}: "
        "check shape and dtype of what was written."
    )


def _whole_numbers(array: Array, info: InputInfo) -> Array:
    """Turn float32 that holds whole numbers into integers: Qualcomm's tools write every input as float32."""
    if info.dtype.kind in "iu" and array.dtype == np.float32 and np.array_equal(array, np.rint(array)):
        return array.astype(np.int64)
    return array
