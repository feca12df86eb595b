"""Histograms and channel ranges packed into text, in as many points as the page has room for."""

import base64
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.reporting.analysis_record import TensorRow

LEVELS = ((128, 1024), (128, 512), (64, 256), (64, 128), (32, 64))
"""(most bins, most channels) of every tensor, finest first; neighbours are merged to keep to them."""
LEFT_OUT = 0
"""What stands for a series that the page has no room for; None stands for one that was never known."""
_STEPS = 65535
"""Packed numbers are 16-bit fractions."""

Pair = tuple[Any, Any]
Numbers = npt.NDArray[np.float64]


def packed_series(tensors: Sequence[TensorRow], named: Collection[str], room: int) -> list[Pair]:
    """Return (histogram, channel ranges) of each tensor, at the finest level that fits.

    Where even the coarsest does not fit, those of `named` tensors come first, then those of the lowest SQNR, and the
    rest is left out.

    Args:
        tensors: of all analyses.
        named: tensors that a diagnosis names.
        room: bytes that the series may take.
    """
    for bins, channels in LEVELS:
        if sum(_bytes(tensor, bins, channels) for tensor in tensors) <= room:
            return [(histogram(tensor, bins), channel_ranges(tensor, channels)) for tensor in tensors]
    bins, channels = LEVELS[-1]
    room -= 4 * len(tensors)

    def importance(place: int) -> tuple[bool, float, int]:
        error = tensors[place].error_db
        return tensors[place].name not in named, math.inf if error is None or math.isnan(error) else error, place

    made: list[Pair] = [(LEFT_OUT, LEFT_OUT)] * len(tensors)
    for place in sorted(range(len(tensors)), key=importance):
        room -= _bytes(tensors[place], bins, channels)
        if room < 0:
            break
        made[place] = histogram(tensors[place], bins), channel_ranges(tensors[place], channels)
    return made


def histogram(tensor: TensorRow, most: int) -> list[Any] | None:
    """Return [left edge, bin width, top, counts], the counts as packed fractions of `top` on the scale log(1 + count).

    Empty bins at both ends are left out. None where no histogram is known.
    """
    if tensor.histogram is None or not any(tensor.histogram[2]):
        return None
    first, width, given = tensor.histogram
    counts = np.asarray(given, dtype=np.float64)
    used = np.flatnonzero(counts)
    counts, first = counts[used[0] : used[-1] + 1], first + width * int(used[0])
    merged = math.ceil(counts.size / most)
    summed = np.add.reduceat(counts, np.arange(0, counts.size, merged))
    top = math.log1p(float(summed.max()))
    return [short(first), short(width * merged), short(top), pack(np.log1p(summed) / top)]


def channel_ranges(tensor: TensorRow, most: int) -> list[Any] | None:
    """Return [channels per point, bottom, span, lows, highs]; a point has the widest range of its channels.

    Lows and highs are packed fractions of `span` above `bottom`. None where no channels are known.
    """
    low = np.asarray(tensor.channel_low, dtype=np.float64)
    high = np.asarray(tensor.channel_high, dtype=np.float64)
    if not low.size or low.size != high.size or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    merged = math.ceil(low.size / most)
    starts = np.arange(0, low.size, merged)
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    bottom, span = float(low.min()), float(high.max() - low.min()) or 1.0
    return [merged, short(bottom), short(span), pack((low - bottom) / span), pack((high - bottom) / span)]


def pack(fractions: Numbers) -> str:
    """Return numbers between 0 and 1 as base64 of little-endian 16-bit integers."""
    return base64.b64encode(np.rint(fractions * _STEPS).astype("<u2").tobytes()).decode("ascii")


def short(value: float | None, digits: int = 5) -> float | None:
    """Return a number with so many significant digits, or None for what JSON lacks."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None


def _bytes(tensor: TensorRow, bins: int, channels: int) -> int:
    """Return about how much of the page a tensor's series take: 2.67 characters a number, and what is around them."""
    counts = 0 if tensor.histogram is None else min(len(tensor.histogram[2]), bins)
    ranges = min(len(tensor.channel_low), channels)
    return 90 + math.ceil(2.67 * (counts + 2 * ranges))
