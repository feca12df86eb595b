"""Error of a network's output, channel by channel: the objective by which ranges are chosen.

A detector's boxes span hundreds, its scores one: a plain mean square error would see the boxes only. So each channel's
error is taken relative to that channel's own variance, and the channels are averaged.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_QUIET = 1e-3  # of the mean variance: added, so that a channel that hardly moves does not decide


def channel_axis_of(shape: tuple[int, ...]) -> int:
    """Return the axis that is taken for channels: 1, but of three axes the shorter of the last two.

    [N, classes] -> 1; [N, C, H, W] -> 1; [N, 85, boxes] -> 1; [N, boxes, 85] -> 2; [N] -> 0.
    """
    if len(shape) == 3:
        return 1 if shape[1] < shape[2] else 2
    return min(1, len(shape) - 1)


@dataclass
class ChannelError:
    """Mutable accumulator over batches of one output."""

    _axis: int | None = None
    _count: float = 0.0
    _sum: F64 | None = None
    _squares: F64 | None = None
    _noise: F64 | None = None

    def update(self, reference: npt.NDArray[Any], test: npt.NDArray[Any]) -> None:
        """Take one batch in: what the float model gave and what the quantized one gives, of one shape.

        Infinities of the float model, which no grid holds, count as zeros; NaN of the other is an infinite error.
        """
        if reference.size == 0:
            return
        if self._axis is None:
            self._axis = channel_axis_of(reference.shape) if reference.ndim else 0
        rows, given = (np.atleast_1d(np.asarray(values, np.float64)) for values in (reference, test))
        if not (np.isfinite(rows).all() and np.isfinite(given).all()):
            known = np.isfinite(rows)
            given = np.where(known, np.nan_to_num(given, nan=np.inf, posinf=np.inf, neginf=-np.inf), 0.0)
            rows = np.where(known, rows, 0.0)
        noise = (rows - given) ** 2
        if rows.ndim == 1:  # one number per sample is one channel
            rows, noise = rows[:, None], noise[:, None]
        axis = self._axis if reference.ndim > 1 else 1
        others = tuple(i for i in range(rows.ndim) if i != axis)
        parts = (rows.sum(others), (rows**2).sum(others), noise.sum(others))
        if self._sum is not None and self._sum.shape != parts[0].shape:  # channels of changing number: pool them
            parts = tuple(np.resize(p.sum() / len(self._sum), self._sum.shape) for p in parts)  # type: ignore[assignment]
        old = (self._sum, self._squares, self._noise)
        self._sum, self._squares, self._noise = (
            p if o is None else o + p for o, p in zip(old, parts, strict=True)
        )  # fmt: skip
        self._count += rows.size / len(parts[0])

    @property
    def value(self) -> float | None:
        """Mean over channels of error / variance; None when the output never varied or was never seen."""
        variance = self.variance
        if variance is None or self._noise is None:
            return None
        return float((self._noise / self._count / variance).mean())

    @property
    def power_value(self) -> float | None:
        """Sum of squared errors / sum of squares, channels taken together; None of an output of zeros, or none seen."""
        if self._squares is None or self._noise is None or not self._squares.any():
            return None
        return float(self._noise.sum() / self._squares.sum())

    @property
    def variance(self) -> F64 | None:
        """What each channel's squared error is divided by, [C]; None when the output never varied or was never seen."""
        if self._sum is None or self._squares is None:
            return None
        variance = self._squares / self._count - (self._sum / self._count) ** 2
        return np.asarray(variance + _QUIET * variance.mean()) if variance.mean() > 0 else None

    @property
    def count(self) -> float:
        """Elements of each channel that were taken in."""
        return self._count

    @property
    def axis(self) -> int | None:
        """The axis of channels; None before the first batch."""
        return self._axis
