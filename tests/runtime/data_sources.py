"""Model inputs and small sources that the data tests share."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewbits.runtime.data import Dataset, InputInfo, Preprocess, open_data

F32 = np.dtype(np.float32)
X4 = (InputInfo("x", F32, ("N", 4)),)
RGB = (InputInfo("image", F32, ("N", 3, "H", "W")),)


def info(name: str = "x", dtype: Any = np.float32, shape: tuple[int | str | None, ...] = ("N", 4)) -> InputInfo:
    return InputInfo(name, np.dtype(dtype), shape)


def rows(count: int, width: int = 4, start: int = 0) -> np.ndarray:
    return np.arange(start * width, (start + count) * width, dtype=np.float32).reshape(count, width)


def sizes(data: Dataset, batch_size: int | None = None, limit: int | None = None) -> list[int]:
    return [batch.size for batch in data.batches(batch_size, limit)]


def read_all(data: Dataset, batch_size: int | None = None) -> np.ndarray:
    """Concatenate the first input of every batch."""
    return np.concatenate([next(iter(batch.feeds.values())) for batch in data.batches(batch_size)])


def read_labels(data: Dataset) -> list[int]:
    return [int(label) for batch in data.batches() for label in batch.labels]


def save_image(path: Path, colour: tuple[int, int, int] = (255, 0, 51), size: tuple[int, int] = (6, 4)) -> None:
    """Save a one-coloured image; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def open_images(folder: Path, inputs: tuple[InputInfo, ...] = RGB, **steps: Any) -> Dataset:
    return open_data(folder, inputs=inputs, preprocess=Preprocess(**steps))


class FakeTensor:
    """What fewbits may ask of a torch tensor, and nothing else."""

    def __init__(self, values: np.ndarray, error: Exception | None = None) -> None:
        self._values, self._steps, self._error = values, [], error

    def detach(self) -> "FakeTensor":
        self._steps.append("detach")
        return self

    def cpu(self) -> "FakeTensor":
        self._steps.append("cpu")
        return self

    def numpy(self) -> np.ndarray:
        if self._error is not None:
            raise self._error
        assert self._steps == ["detach", "cpu"], "a tensor with a gradient, or on an accelerator, would refuse"
        self._steps.clear()
        return self._values
