"""Range estimators: a tensor's histogram and the grid wanted in, the range [low, high] to quantize it with out.

Every estimator is a frozen dataclass called as `estimator(histogram, spec)`; low <= 0 <= high always holds, neither end
leaves the observed range (symmetric grids: its mirror image), and `encoding_from_range` turns the pair into a grid.
ESTIMATORS is the table of their names; a new one is one class and one row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fewbits.errors import DataError, SpecError
from fewbits.numerics.affine import F64, grid_from_range
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.squared_error import SquaredError
from fewbits.spec.dtypes import QuantSpec


class Estimator(Protocol):
    """Anything that turns a histogram into a range; str() of it is the name that `parse_estimator` reads."""

    def __call__(self, histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high), low <= 0 <= high.

        Raises:
            DataError: nothing was observed.
        """
        ...


@dataclass(frozen=True, slots=True)
class MinMax:
    """The observed extrema: nothing is ever clipped."""

    def __call__(self, histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high) of everything seen, with zero."""
        return _observed(histogram)

    def __str__(self) -> str:
        return "minmax"


@dataclass(frozen=True, slots=True)
class Percentile:
    """Cuts off the outermost 100 - p percent of the elements, half of it at each end.

    Where no element is negative (or none positive) all of it is cut at the other end; for symmetric grids it is cut off
    the magnitudes. Inside a bin the mass is taken as spread evenly.

    Attributes:
        p: percent of the elements kept inside, above 0 up to 100.
    """

    p: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.p <= 100:
            raise SpecError(f"A percentile lies above 0 and at most at 100, not {self.p:g}: try percentile:99.99.")

    def __call__(self, histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
        """Return the range that holds p percent of the counted elements."""
        low, high = _observed(histogram)
        if histogram.count == 0:
            return low, high
        share = 1.0 - self.p / 100.0
        edges, counts = histogram.edges, histogram.counts.astype(np.float64)
        if spec.is_symmetric:
            bound = min(max(-low, high), _upper_quantile(*_magnitudes(histogram), share))
            return 0.0 - bound, bound
        each = share / 2 if low < 0 < high else share
        upper = _upper_quantile(edges, counts, each)
        lower = -_upper_quantile(-edges[::-1], counts[::-1], each)
        return min(max(low, lower), 0.0), max(min(high, upper), 0.0)

    def __str__(self) -> str:
        return f"percentile:{self.p:.12g}"


@dataclass(frozen=True, slots=True)
class Mse:
    """Minimizes the expected squared error of the tensor, rounding inside plus clipping outside (see squared_error).

    Asymmetric grids search both ends, symmetric ones the magnitude: a coarse geometric grid, then a fine one around its
    best point. The observed range is a candidate, so the predicted error is never above that of minmax.

    Attributes:
        smallest: smallest share of the observed range to try.
        points: candidates per end in the coarse search.
    """

    smallest: float = 1 / 128
    points: int = 20

    def __call__(self, histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
        """Return the range of least expected squared error among the candidates."""
        low, high = _observed(histogram)
        if histogram.count == histogram.zeros:
            return low, high
        error = SquaredError(histogram, spec)
        coarse = np.geomspace(1.0, self.smallest, self.points)
        fine = coarse[1] ** np.linspace(1.0, -1.0, 9)
        if spec.is_symmetric:
            bound = max(-low, high)
            for ratios in (np.geomspace(1.0, self.smallest, 4 * self.points), fine):
                bounds = bound * ratios
                bound = float(bounds[np.argmin(error(-bounds, bounds))])
            bound = min(bound, max(-low, high))
            return 0.0 - bound, bound
        ends = (low, high)
        for ratios in (coarse, fine):
            ends = _best_pair(error, _shrunk(ends[0], ratios, low), _shrunk(ends[1], ratios, high))
        return ends

    def __str__(self) -> str:
        return "mse"


@dataclass(frozen=True, slots=True)
class Entropy:
    """Minimizes the Kullback-Leibler divergence between the clipped distribution and its quantized version.

    Searches one threshold on the magnitude: an end that lies within it stays. Exact zeros are left out: they would
    drown everything else after a Relu.

    Attributes:
        smallest: smallest share of the largest magnitude to try.
        points: candidates.

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """

    smallest: float = 1 / 32
    points: int = 48

    def __call__(self, histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
        """Return the range of least divergence among the candidates."""
        low, high = _observed(histogram)
        if spec.is_symmetric:
            low, high = -max(-low, high), max(-low, high)
        if histogram.count == histogram.zeros:
            return low, high
        thresholds = max(-low, high) * np.geomspace(1.0, self.smallest, self.points)
        candidates = [(max(low, -t), min(high, t)) for t in thresholds.tolist()]
        counts, centers = histogram.nonzero_counts.astype(np.float64), histogram.centers
        losses = [_divergence(counts, centers, ends, spec) for ends in candidates]
        return candidates[int(np.argmin(losses))]

    def __str__(self) -> str:
        return "entropy"


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "minmax": MinMax,
    "mse": Mse,
    "percentile": Percentile,
    "entropy": Entropy,
}


def parse_estimator(text: str) -> Estimator:
    """Return the estimator that `text` names: minmax, mse, entropy, percentile or percentile:99.9.

    Raises:
        SpecError: the name is unknown, or its number is not one.
    """
    name, _, argument = text.strip().lower().partition(":")
    if name not in ESTIMATORS or (argument and name != "percentile"):
        raise SpecError(f"Unknown range estimator {text!r}: write {', '.join(ESTIMATORS)} or percentile:99.99.")
    if not argument:
        return ESTIMATORS[name]()
    try:
        p = float(argument)
    except ValueError:
        raise SpecError(f"The percentile in {text!r} is not a number: write percentile:99.99.") from None
    return Percentile(p)


def _observed(histogram: Histogram) -> tuple[float, float]:
    if histogram.low > histogram.high:
        raise DataError("No range can be estimated for a tensor of which nothing was observed: calibrate first.")
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def _magnitudes(histogram: Histogram) -> tuple[F64, F64]:
    """Return edges and counts of |x|: bins -k-1 and k cover the same magnitudes."""
    bins = histogram.first + np.arange(len(histogram.counts))
    counts = np.bincount(np.where(bins < 0, -bins - 1, bins), weights=histogram.counts)
    return np.arange(len(counts) + 1, dtype=np.float64) * histogram.width, counts.astype(np.float64)


def _upper_quantile(edges: F64, counts: F64, share: float) -> float:
    """Return the value above which `share` of the mass lies."""
    above = np.cumsum(counts[::-1])
    target = share * above[-1]
    if target <= 0:
        return float(edges[-1])
    i = min(int(np.searchsorted(above, target, side="left")), len(counts) - 1)
    part = (target - (above[i - 1] if i else 0.0)) / counts[::-1][i]
    top, bottom = edges[::-1][i], edges[::-1][i + 1]
    return float(top - part * (top - bottom))


def _shrunk(end: float, ratios: F64, observed: float) -> F64:
    """Return candidates for one end, never beyond the observed one; an end at zero stays there."""
    if end == 0:
        return np.zeros(1)
    return np.clip(end * ratios, min(observed, 0.0), max(observed, 0.0))


def _best_pair(error: SquaredError, lows: F64, highs: F64) -> tuple[float, float]:
    low, high = (side.ravel() for side in np.meshgrid(lows, highs, indexing="ij"))
    best = int(np.argmin(error(low, high)))
    return float(low[best]), float(high[best])


def _divergence(counts: F64, centers: F64, ends: tuple[float, float], spec: QuantSpec) -> float:
    """Return KL(P || Q): P the counts with the tails piled on the end bins, Q each code's mass shared by its bins."""
    start = min(int(np.searchsorted(centers, ends[0], side="left")), len(counts) - 1)
    stop = max(int(np.searchsorted(centers, ends[1], side="right")), start + 1)
    inside = counts[start:stop]
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    scale, zero_point = grid_from_range(np.float64(ends[0]), np.float64(ends[1]), spec)  # type: ignore[arg-type]
    codes = np.clip(np.rint(centers[start:stop] / scale) + zero_point, spec.qmin, spec.qmax).astype(np.intp) - spec.qmin
    mass = np.bincount(codes, weights=inside)
    bins = np.bincount(codes, weights=reference > 0)
    used = reference > 0
    p = reference[used] / reference.sum()
    q = (mass / np.maximum(bins, 1.0))[codes[used]]
    q = np.maximum(q / max(q.sum(), 1e-300), 1e-9)
    return float(np.sum(p * np.log(p / q)))
