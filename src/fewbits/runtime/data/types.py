"""The contract of every data source: what the model takes, what a batch is, how to ask for batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One input (or output) of a model; a `str` or None in `shape` is a dynamic dimension."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """Return e.g. `x: float32 [N, 3, 224, 224]`."""
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype} [{dims}]"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one call of the model gets, and its labels.

    Attributes:
        feeds: model input name -> array, ready to run.
        labels: labels of the same samples, axis 0 counts them; None when the source has none.
        count: number of samples, where axis 0 of the first feed does not say it.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None
    count: int | None = None

    @property
    def size(self) -> int:
        """Number of samples: `count`, or the length of axis 0 of the first feed, or 1 where that is a scalar."""
        if self.count is not None:
            return self.count
        first = next(iter(self.feeds.values()))
        return len(first) if first.ndim else 1


class Dataset(Protocol):
    """Batches that can be read as often as wanted."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def has_labels(self) -> bool:
        """Whether its batches carry labels."""

    @property
    def fingerprint(self) -> str:
        """Content hash (sha256, hexadecimal): equal data, equal hash."""

    def batches(self, batch_size: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Read from the start.

        Args:
            batch_size: samples per batch; None leaves the source's own batches, or 1. A model with a static batch gets
                exactly that many, whatever is asked for.
            limit: samples at most; the last batch is cut.
        """
