"""Find out what the user's data is, and open it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.arrays import FileSource, MemorySource, folder_source
from fewbits.runtime.data.images import ImageSource, find_images, has_images, image_source
from fewbits.runtime.data.input_list import InputListSource
from fewbits.runtime.data.items import as_array, split_labels
from fewbits.runtime.data.iterables import from_function, from_iterable
from fewbits.runtime.data.preprocess import Preprocess
from fewbits.runtime.data.stream import Source, Stream
from fewbits.runtime.data.types import Array, Dataset, InputInfo
from fewbits.runtime.data.userfile import load_user_function, split_user_spec

DataLike = str | Path | Mapping[str, Array] | Array | Callable[[], Iterable[Any]] | Iterable[Any]

_KINDS = (
    "give an image folder, a .npz or .npy file, a folder of them, an input list (.txt) with raw files, "
    "or file.py:function"
)


def open_data(source: DataLike, *, inputs: Sequence[InputInfo], preprocess: Preprocess | None = None) -> Dataset:
    """Open data of any kind for a model.

    Args:
        source: path of an image folder (labels.csv, or one folder per class, or no labels), a .npz or .npy file, a
            folder of them, an input list (.txt); `file.py:function`; a dict of arrays; a function that returns an
            iterable of items; or any iterable that can be read again (a list, a torch DataLoader). An item is a dict of
            feeds, (dict, labels), an array, (array, labels), or one array per input with or without labels last.
        inputs: the model's inputs.
        preprocess: how images become inputs; only for image folders.

    Returns:
        A dataset; its samples are checked when they are read.

    Raises:
        DataError: there is no such data, or it is of no known kind.
    """
    inputs = tuple(inputs)
    opened: tuple[Source, str]
    if isinstance(source, str | Path):
        opened = _open_path(str(source), inputs, preprocess)
    else:
        opened = _open_object(source, inputs), _object_name(source)
    if preprocess is not None and not isinstance(opened[0], ImageSource):
        raise DataError(f"{opened[1]!r} is no image folder, so preprocessing cannot be applied: leave its options out.")
    return Stream(opened[1], opened[0], inputs)


def _object_name(source: Any) -> str:
    if isinstance(source, Mapping | np.ndarray):
        return "the given arrays"
    return str(getattr(source, "__qualname__", f"the given {type(source).__name__}"))


def _open_object(source: Any, inputs: tuple[InputInfo, ...]) -> Source:
    name = _object_name(source)
    if isinstance(source, Mapping):
        feeds, labels = split_labels(source, inputs, name)
        return MemorySource(feeds, labels, name)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        if len(inputs) != 1:
            names = ", ".join(info.name for info in inputs)
            raise DataError(f"One array cannot feed {len(inputs)} inputs ({names}): give a dict of arrays.")
        return MemorySource({inputs[0].name: as_array(source, name)}, None, name)
    if hasattr(type(source), "__iter__") or hasattr(type(source), "__getitem__"):
        return from_iterable(source, inputs)
    if callable(source):
        return from_function(source, name, inputs, None)
    raise DataError(
        f"A value of type {type(source).__name__} is no data: {_KINDS}, a dict of arrays, or an iterable of feeds."
    )


def _open_path(text: str, inputs: tuple[InputInfo, ...], preprocess: Preprocess | None) -> tuple[Source, str]:
    if split_user_spec(text) is not None:
        loaded = load_user_function(text, error=DataError)
        return from_function(loaded.function, text, inputs, loaded.folder), text
    path = Path(text).expanduser()
    if not path.exists():
        raise DataError(f"The data {text!r} does not exist: {_KINDS}.")
    if path.is_dir():
        return _open_folder(path, inputs, preprocess), text
    if path.suffix in (".npz", ".npy"):
        return FileSource((path,), inputs, is_store=True), text
    if path.suffix == ".txt":
        return InputListSource(path, inputs), text
    if path.suffix == ".py":
        raise DataError(f"{text!r} is a Python file: name the function in it that yields the data, {text}:function.")
    raise DataError(f"{text!r} is of no known kind: {_KINDS}.")


def _open_folder(folder: Path, inputs: tuple[InputInfo, ...], preprocess: Preprocess | None) -> Source:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    arrays = [path for path in files if path.suffix in (".npz", ".npy")]
    is_image_folder = (folder / "labels.csv").is_file() or has_images(folder)
    if arrays and is_image_folder:
        raise DataError(f"The folder {str(folder)!r} holds both images and numpy files: keep one kind.")
    if is_image_folder:
        return image_source(find_images(folder), folder, inputs, preprocess)
    if arrays:
        return folder_source(folder, arrays, inputs)
    if (folder / "input_list.txt").is_file():
        return InputListSource(folder / "input_list.txt", inputs)
    raise DataError(f"The folder {str(folder)!r} holds no images and no .npz or .npy files: {_KINDS}.")
