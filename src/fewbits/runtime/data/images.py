"""Folders of images: labels.csv, or one folder per class, or no labels."""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fewbits.errors import DataError
from fewbits.runtime.data.casts import is_real
from fewbits.runtime.data.digest import Hash, add_file, add_text
from fewbits.runtime.data.fit import Chunk
from fewbits.runtime.data.items import is_file
from fewbits.runtime.data.preprocess import Preprocess, normalize, resize_and_crop
from fewbits.runtime.data.types import Array, InputInfo

logger = logging.getLogger(__name__)

# Pillow goes by content and not by name; of its other formats some run programs (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What an image model takes: axes, channels (1 or 3), and sides in pixels where they are fixed."""

    info: InputInfo
    layout: Literal["nchw", "nhwc"]
    channels: int
    height: int | None
    width: int | None

    @classmethod
    def of(cls, inputs: Sequence[InputInfo], layout: Literal["nchw", "nhwc"] | None) -> "ImageInput":
        """Read it off the model's one input.

        Raises:
            DataError: the model has several inputs, or its input is no image.
        """
        if len(inputs) != 1:
            names = ", ".join(info.name for info in inputs)
            raise DataError(f"An image folder feeds one input, the model has {len(inputs)} ({names}): use .npz files.")
        info = inputs[0]
        if len(info.shape) not in (3, 4):
            raise DataError(f"An image folder needs an input with 4 dimensions, the model has {info}: use .npz files.")
        dims = [dim if isinstance(dim, int) else None for dim in info.shape[-3:]]
        if layout is None:
            layout = "nhwc" if dims[2] in (1, 3) and dims[0] not in (1, 3) else "nchw"
        channels, height, width = dims if layout == "nchw" else (dims[2], dims[0], dims[1])
        if channels not in (1, 3, None):
            raise DataError(f"Input {info} has {channels} channels as {layout}; images have 1 or 3: set the layout.")
        if not is_real(info.dtype) and info.dtype != np.uint8:
            raise DataError(f"Input {info} takes no images: they become floats or uint8; use .npz files.")
        return cls(info, layout, channels or 3, height, width)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Image files in order, each a batch of one.

    Attributes:
        files: path and label (None without labels) of each image.
        folder: names in messages and in the fingerprint are relative to it.
        target: what the model takes.
        preprocess: how an image becomes an input.
    """

    files: tuple[tuple[Path, int | None], ...]
    folder: Path
    target: ImageInput
    preprocess: Preprocess

    @property
    def has_labels(self) -> bool:
        """Whether the images are labelled."""
        return self.files[0][1] is not None

    def chunks(self) -> Iterator[Chunk]:
        """Read one image after the other."""
        for path, label in self.files:
            array = self._read(path)
            labels = None if label is None else np.asarray([label], np.int64)
            yield Chunk({self.target.info.name: array}, labels, self._name(path))

    def _name(self, path: Path) -> str:
        inside = path.is_relative_to(self.folder)
        return (path.relative_to(self.folder) if inside else path).as_posix()

    def _read(self, path: Path) -> Array:
        try:
            with Image.open(path, formats=_FORMATS) as opened:
                mode = opened.mode
                image = resize_and_crop(_convert(opened, self.target.channels), self.preprocess)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
            raise DataError(f"The image {str(path)!r} cannot be read ({cause}): mend or remove it.") from cause
        except MemoryError as cause:
            raise DataError(
                f"The image {str(path)!r} does not fit into memory: scale it down, or remove it."
            ) from cause
        if mode.startswith(("I", "F")):
            raise DataError(f"The image {str(path)!r} has mode {mode}, more than 8 bits: convert it.")
        self._check_size(path, image)
        pixels = np.asarray(image).reshape(image.height, image.width, self.target.channels)
        if self.preprocess.channel_order == "bgr":
            pixels = pixels[:, :, ::-1]
        array: Array = normalize(pixels, self.preprocess) if is_real(self.target.info.dtype) else pixels
        return array.transpose(2, 0, 1) if self.target.layout == "nchw" else array

    def _check_size(self, path: Path, image: Image.Image) -> None:
        wanted = (self.target.height or image.height, self.target.width or image.width)
        if wanted != (image.height, image.width):
            raise DataError(
                f"The image {self._name(path)!r} is {image.height}x{image.width} after preprocessing, input "
                f"{self.target.info} wants {wanted[0]}x{wanted[1]}: set resize = {wanted[0]},{wanted[1]}, "
                "or resize and crop."
            )

    def update(self, digest: Hash) -> None:
        """Add names, labels and contents of the files, and the preprocessing."""
        add_text(digest, self.preprocess)
        for path, label in self.files:
            add_text(digest, self._name(path), label)
            add_file(digest, path)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def image_source(
    files: tuple[tuple[Path, int | None], ...],
    folder: Path,
    inputs: tuple[InputInfo, ...],
    preprocess: Preprocess | None,
) -> ImageSource:
    """Return the source of an image folder.

    Without preprocessing the images are resized to the model's sides, and float inputs get 0..1; a warning says so.

    Raises:
        DataError: the model takes no images, or the preprocessing does not suit its dtype.
    """
    target = ImageInput.of(inputs, preprocess.layout if preprocess else None)
    is_float = is_real(target.info.dtype)
    if preprocess is None:
        size = (target.height, target.width) if target.height and target.width else None
        preprocess = Preprocess(resize=size, scale=1 / 255 if is_float else 1.0)
        text = "%s: no preprocessing was named, so images are %s and pixels are %s. A preset says otherwise."
        fitted = f"resized to {size[0]}x{size[1]}" if size else "not resized"
        logger.warning(text, folder, fitted, "0..1" if is_float else "0..255")
    elif preprocess.is_normalizing and not is_float:
        raise DataError(
            f"Input {target.info} takes integers, so pixels cannot be normalized (scale, mean, std): "
            "use the preset 'raw'."
        )
    if target.channels == 1 and max(len(preprocess.mean), len(preprocess.std)) > 1:
        raise DataError(f"Input {target.info} has one channel, mean and std have three values: give one value each.")
    return ImageSource(files, folder, target, replace(preprocess, layout=target.layout))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def has_images(folder: Path) -> bool:
    """Whether a folder, or a folder in it, holds an image."""
    return any(map(_is_image, folder.iterdir())) or any(
        _is_image(path) for child in _class_folders(folder) for path in child.rglob("*")
    )


def find_images(folder: Path) -> tuple[tuple[Path, int | None], ...]:
    """Return path and label of each image.

    labels.csv gives order and labels. Folders are classes: the position of the folder's name in sorted order is the
    label, as in torchvision. Images directly in the folder have no labels.

    Raises:
        DataError: there are none, labels.csv is wrong, or images lie both in the folder and in class folders.
    """
    table = folder / "labels.csv"
    if table.is_file():
        return _from_table(table)
    plain = sorted(filter(_is_image, folder.iterdir()))
    classes = _class_folders(folder)
    found = ((path, label) for label, child in enumerate(classes) for path in sorted(child.rglob("*")))
    sorted_files = [(path, label) for path, label in found if _is_image(path)]
    if plain and sorted_files:
        raise DataError(f"{str(folder)!r} holds images both in it and in its folders: use class folders, or none.")
    names = [child.name for child in classes]
    if sorted_files and all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        logger.warning("%s: class folders are numbered in the order of text (0, 1, 10, 2), as in torchvision.", folder)
    return tuple((path, None) for path in plain) or tuple(sorted_files)


def _from_table(table: Path) -> tuple[tuple[Path, int | None], ...]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"{str(table)!r} cannot be read ({cause}): save it as CSV text.") from cause
    if not {"file", "label"} <= set(columns):
        have = ", ".join(map(repr, columns)) or "none"
        raise DataError(f"{str(table)!r} has the columns {have}: it needs file,label.")
    if not rows:
        raise DataError(f"{str(table)!r} lists no images: give at least one line below the header.")
    return tuple(_parse_row(table, number, row) for number, row in enumerate(rows, 2))


def _parse_row(table: Path, line: int, row: dict[str, str | None]) -> tuple[Path, int]:
    path = table.parent / (row["file"] or "")
    if not is_file(path):
        raise DataError(f"{table.name}, line {line}: the file {row['file']!r} does not exist in {str(table.parent)!r}.")
    try:
        label = int(row["label"] or "")
        if not -(1 << 31) <= label < 1 << 31:
            raise ValueError
    except ValueError:
        raise DataError(
            f"{table.name}, line {line}: the label {row['label']!r} is no whole number: give the index of the class."
        ) from None
    return path, label
