"""Streaming statistics of one tensor: batches in, an exact range and a histogram that merges without loss out.

Bin k covers [k w, (k + 1) w) where w is a power of two. Bins of twice the width are pairs of bins, so when the range
grows, neighbours are added and nothing is approximated. The width is a function of the final range alone: the smallest
power of two with which at most BINS bins span [min(low, 0), max(high, 0)]. Hence the state depends neither on the order
of the batches nor on how samples were batched, and merging is exact, associative and commutative.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import DataError

BINS = 4096
"""Most bins that span zero and the range: 16 per step of an 8-bit grid."""

_SMALLEST_EXPONENT = -120  # 1 / w must stay a float32
_CHUNK = 1 << 15  # elements binned at a time: the temporaries stay in the processor's cache


class Histogram:
    """Mutable accumulator of one tensor's range and distribution; two are equal when their states are.

    Attributes:
        low: exact minimum of all elements seen; +inf before the first.
        high: exact maximum of all elements seen; -inf before the first.
        exponent: bins are 2^exponent wide.
        first: index k of the first bin, the one that holds `low`.
        counts: int64 [bins], elements per bin, from the bin of `low` to the bin of `high`.
        zeros: counted elements that are exactly zero (they are in `counts` too): they have no rounding error.
    """

    __slots__ = ("counts", "exponent", "first", "high", "low", "zeros")

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.first, self.zeros = 0, 0
        self.counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.exponent = _SMALLEST_EXPONENT

    @property
    def width(self) -> float:
        """Width w of a bin, a power of two."""
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """Elements counted: fewer than seen where a stride was given."""
        return int(self.counts.sum())

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Bin boundaries [bins + 1], ascending; bin i covers edges[i] up to but without edges[i + 1]."""
        return np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64) * self.width

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """Middle of each bin [bins], held within [low, high]."""
        return np.clip(self.edges[:-1] + self.width / 2, self.low, self.high) if len(self.counts) else np.zeros(0)

    @property
    def nonzero_counts(self) -> npt.NDArray[np.int64]:
        """A copy of `counts` without the exact zeros."""
        counts = self.counts.copy()
        if self.zeros:
            counts[-self.first] -= self.zeros
        return counts

    @property
    def mean(self) -> float:
        """Mean of the counted elements, as exact as half a bin; 0 when nothing was counted."""
        return float(self.nonzero_counts @ self.centers / max(self.count, 1))

    @property
    def mean_square(self) -> float:
        """Mean square of the counted elements, taking each bin's elements at its middle; 0 when nothing was counted."""
        return float(self.nonzero_counts @ self.centers**2 / max(self.count, 1))

    def update(self, x: npt.NDArray[Any], stride: int = 1) -> None:
        """Take one batch in: the range of all its elements, the counts of every `stride`-th.

        Args:
            x: reals of any shape; read as float32.
            stride: count x.ravel()[::stride]. Prefer an odd number: a stride that divides the row length always sees
                the same columns. With stride 1 the state is independent of how the data was cut into batches; with
                more, of the order of the batches only.

        Raises:
            DataError: `x` holds NaN or Inf.
        """
        if x.size == 0:
            return
        values = np.asarray(x, dtype=np.float32)
        self.update_range(float(values.min()), float(values.max()))
        self.update_counts(values.ravel()[::stride])

    def update_range(self, low: float, high: float) -> None:
        """Take in an exact minimum and maximum, widening the bins where the range asks for it.

        Raises:
            DataError: a bound is not finite.
        """
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"A tensor holds NaN or Inf (its range reads [{low:g}, {high:g}]): check the input data, and whether "
                f"the float model overflows on it."
            )
        low, high = min(self.low, low + 0.0), max(self.high, high + 0.0)
        if low != self.low or high != self.high:
            self.low, self.high = low, high
            self._rebin(_exponent_for(low, high))

    def update_counts(self, sample: npt.NDArray[Any]) -> None:
        """Count elements that lie inside the range given to `update_range` before.

        Args:
            sample: reals of any shape; read as float32.

        Raises:
            DataError: an element lies outside [low, high] by a bin or more, or is NaN.
        """
        values = np.asarray(sample, dtype=np.float32).ravel()
        # Dividing by a width above 1 can underflow for denormals, which float64 holds.
        real = np.float32 if self.exponent <= 0 else np.float64
        inverse, first = real(math.ldexp(1.0, -self.exponent)), real(self.first)
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            with np.errstate(invalid="ignore", over="ignore"):
                bins = np.multiply(chunk, inverse, dtype=real)
                np.floor(bins, out=bins)
                bins -= first
            if not (bins.min() >= 0 and bins.max() < len(self.counts)):
                raise DataError(
                    f"A counted element is NaN or lies outside the range [{self.low:g}, {self.high:g}] recorded for "
                    f"its tensor: pass that tensor's exact minimum and maximum to update_range first."
                )
            self.counts += np.bincount(bins.astype(np.intp), minlength=len(self.counts))
            self.zeros += len(chunk) - int(np.count_nonzero(chunk))

    def merge(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both data sets together; exact, and neither operand changes."""
        merged = Histogram()
        for part in (self, other):
            if part.low <= part.high:
                merged.update_range(part.low, part.high)
        for part in (self, other):
            if len(part.counts):
                np.add.at(merged.counts, _bins_at(part, merged.exponent) - merged.first, part.counts)
                merged.zeros += part.zeros
        return merged

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state as plain arrays, ready for np.savez; `from_arrays` reads it back exactly."""
        return {
            "range": np.array([self.low, self.high], dtype=np.float64),
            "bins": np.array([self.exponent, self.first, self.zeros], dtype=np.int64),
            "counts": self.counts.copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Histogram":
        """Return the histogram that `to_arrays` wrote.

        Raises:
            DataError: an array is missing.
        """
        missing = {"range", "bins", "counts"} - set(arrays)
        if missing:
            raise DataError(f"Stored statistics lack {sorted(missing)}: delete them and calibrate again.")
        result = cls()
        result.low, result.high = (float(v) for v in arrays["range"])
        result.exponent, result.first, result.zeros = (int(v) for v in arrays["bins"])
        result.counts = np.array(arrays["counts"], dtype=np.int64)
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # a mutable value

    def __repr__(self) -> str:
        return f"Histogram(low={self.low:g}, high={self.high:g}, count={self.count}, width={self.width:g})"

    def _rebin(self, exponent: int) -> None:
        """Widen bins to 2^exponent and lengthen `counts` to the present range."""
        width = math.ldexp(1.0, exponent)
        first, last = math.floor(self.low / width), math.floor(self.high / width)
        counts = np.zeros(last - first + 1, dtype=np.int64)
        if len(self.counts):
            np.add.at(counts, _bins_at(self, exponent) - first, self.counts)
        self.exponent, self.first, self.counts = exponent, first, counts


def _bins_at(histogram: Histogram, exponent: int) -> npt.NDArray[np.int64]:
    """Return for each bin the index of the bin of width 2^exponent that holds it (an arithmetic shift floors)."""
    indices = histogram.first + np.arange(len(histogram.counts), dtype=np.int64)
    return indices >> min(exponent - histogram.exponent, 62)


def _exponent_for(low: float, high: float) -> int:
    """Return the smallest exponent that spans range and zero; it only grows with the range, as exact merging needs."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return _SMALLEST_EXPONENT
    exponent = max(_SMALLEST_EXPONENT, math.frexp((high - low) / BINS)[1] - 2)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) + 1 > BINS:
        exponent += 1
    return exponent
