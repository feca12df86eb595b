"""Streaming mean and mean square per channel of one tensor."""

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


class Moments:
    """Mutable accumulator: feed batches with `update`, read `mean`, `mean_square` and `variance`, each float64 [C]."""

    __slots__ = ("_square_sum", "_sum", "count")

    def __init__(self) -> None:
        self.count = 0
        self._sum: F64 | None = None
        self._square_sum: F64 | None = None

    def update(self, x: npt.NDArray[Any], axis: int) -> None:
        """Take one batch in.

        Args:
            x: reals; `axis` is its channel axis, all others are averaged over.
            axis: may be negative.
        """
        values = np.asarray(x, dtype=np.float32)
        axis %= values.ndim
        before, channels = int(np.prod(values.shape[:axis], dtype=np.int64)), values.shape[axis]
        rows = values.reshape(before, channels, -1)
        total = rows.sum(axis=(0, 2), dtype=np.float32 if rows.shape[2] < 2**16 else np.float64)
        squares = np.einsum("bcs,bcs->c", rows, rows)
        self._sum = total.astype(np.float64) + (0 if self._sum is None else self._sum)
        self._square_sum = squares.astype(np.float64) + (0 if self._square_sum is None else self._square_sum)
        self.count += before * rows.shape[2]

    @property
    def mean(self) -> F64:
        """Mean per channel."""
        assert self._sum is not None
        return self._sum / self.count

    @property
    def mean_square(self) -> F64:
        """Mean square per channel."""
        assert self._square_sum is not None
        return self._square_sum / self.count

    @property
    def variance(self) -> F64:
        """Variance per channel, never negative."""
        return np.maximum(self.mean_square - self.mean**2, 0.0)
