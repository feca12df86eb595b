"""Expected squared error of quantizing a tensor, predicted from its histogram: candidate ranges in, errors out.

With codes v_q = (q - zero_point) scale and boundaries b halfway between them, summation by parts turns the sum over the
codes of the integral of (x - v_q)^2 into

    error = E[(x - v_max)^2] - 2 scale sum_b G(b),        G(b) = E[max(b - x, 0)]

G is a second antiderivative of the density, here quadratic inside a bin, so rounding and clipping together cost one
table look-up per boundary. Above 8 bits rounding is taken as scale^2 / 12 (a step is then finer than a bin).
"""

import numpy as np

from fewbits.numerics.affine import F64, grid_from_range
from fewbits.numerics.histogram import Histogram
from fewbits.spec.dtypes import QuantSpec

_EXACT_BITS = 8


class SquaredError:
    """The error of any range for one tensor and one spec; exact zeros have none, since zero is on every grid."""

    def __init__(self, histogram: Histogram, spec: QuantSpec) -> None:
        self._spec = spec
        self._width, self._first = histogram.width, histogram.first
        self._counts = histogram.nonzero_counts.astype(np.float64)
        self._centers = histogram.centers
        self._total = max(histogram.count, 1)

    def __call__(self, low: F64, high: F64) -> F64:
        """Return the mean squared error per counted element for each of the ranges.

        Args:
            low: [K] candidate lows, at most 0.
            high: [K] candidate highs, at least 0.

        Returns:
            float64 [K].
        """
        scale, zero_point = grid_from_range(low, high, self._spec)
        integrate = self._by_codes if self._spec.bits <= _EXACT_BITS else self._by_noise_model
        return np.asarray(integrate(scale, zero_point) / self._total, dtype=np.float64)

    def _by_codes(self, scale: F64, zero_point: F64) -> F64:
        spec, width, counts = self._spec, self._width, self._counts
        below = np.concatenate([[0.0], np.cumsum(counts)])  # elements below each edge
        g = np.concatenate([[0.0], np.cumsum((below[:-1] + counts / 2) * width)])
        density = np.append(counts, 0.0) / (2 * width)
        codes = np.arange(spec.qmin, spec.qmax)
        boundary = (codes - zero_point[:, None] + 0.5) * (scale[:, None] / width) - self._first  # in bins
        edge = np.clip(boundary, 0, len(counts)).astype(np.intp)
        past = np.maximum(boundary - edge, 0.0) * width
        g_sum = (g[edge] + past * (below[edge] + past * density[edge])).sum(axis=1)
        top = (spec.qmax - zero_point) * scale
        middles = (self._first + np.arange(len(counts)) + 0.5) * width
        s0, s1, s2 = counts.sum(), counts @ middles, counts @ (middles**2 + width**2 / 12)
        return np.asarray(np.maximum(s2 - 2 * top * s1 + top**2 * s0 - 2 * scale * g_sum, 0.0), dtype=np.float64)

    def _by_noise_model(self, scale: F64, zero_point: F64) -> F64:
        bottom, top = (self._spec.qmin - zero_point) * scale, (self._spec.qmax - zero_point) * scale
        from_low = np.searchsorted(self._centers, bottom, side="left")
        to_high = np.searchsorted(self._centers, top, side="right")
        moments = np.stack([self._counts, self._counts * self._centers, self._counts * self._centers**2])
        below = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)
        above = np.concatenate([np.cumsum(moments[:, ::-1], axis=1)[:, ::-1], np.zeros((3, 1))], axis=1)
        inside = below[0, to_high] - below[0, from_low]
        clipped = np.zeros_like(scale)
        for (s0, s1, s2), end in ((below[:, from_low], bottom), (above[:, to_high], top)):
            clipped += np.maximum(s2 - 2 * end * s1 + end**2 * s0, 0.0)
        return np.asarray(inside * scale**2 / 12 + clipped, dtype=np.float64)
