"""Facts about single tensors of a quantized network: what was seen in them, the grid they got, what it costs them.

In: batches of a tensor as the float model and as the full simulation have it, its histogram and its encoding. Out: one
`TensorFact`. Batches are reduced and forgotten; what is kept grows with channels and samples only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import fake_quantize
from fewbits.numerics.channel_error import channel_axis_of
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.metrics import SqnrAccumulator, sqnr_db
from fewbits.numerics.ranges import Percentile
from fewbits.quantization.infinities import without_infinities
from fewbits.quantization.observe import seen_by_softmax
from fewbits.spec.dtypes import DType, QuantSpec
from fewbits.spec.encodings import Encoding

Reals = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
TensorRole = Literal["activation", "weight", "constant"]

OUTLIER_RATIO = 8.0
"""A channel is an outlier above this multiple of the median channel: under one scale the median one then has 3 bits
(2^3) fewer than the grid, and of 8 bits the 5 that are left are the fewest that networks commonly bear."""
DEAD_SHARE = 1e-6
"""A channel is dead below this share of the tensor's absolute maximum: nothing but rounding errors of float32."""
MOST_CHANNELS = 1024
"""Channels that a fact lists one by one."""
MOST_BINS = 128
"""Bins of a histogram in a fact."""
PERCENTS = (99.99, 99.9)
"""Shares of the values, in percent, whose ranges are kept: the gentlest first."""

_ASYMMETRIC = QuantSpec(DType.UINT8, 8, is_symmetric=False)
_WEIGHTS_COUNTED = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TensorFact:
    """One tensor of the full simulation.

    Channels lie along the axis of output channels of a weight, and of an activation along the axis that its operators
    tell. Values that vanish in a Softmax are taken as the Softmax sees them (`observe.seen_by_softmax`).

    Attributes:
        name: in the prepared graph.
        role: activation, weight or constant.
        group: name of the group that makes it (or, where none does, reads it); "" for none.
        low: least value that was observed in all calibration samples.
        high: greatest value that was observed.
        clip_low: least value that the grid holds (over all channels); None where the tensor has no grid.
        clip_high: greatest value that the grid holds.
        scale: real units per step; None where there is one per channel, or no grid.
        zero_point: code of zero; None likewise.
        bits: width of the codes; None where the tensor has no grid.
        error_db: SQNR in dB against float: of an activation in the full simulation, everything before it quantized
            too; of a weight or constant, of its own rounding. inf where equal, -inf where the simulation breaks; None
            where it was not compared.
        channels: number of channels; 0 where not known.
        channel_low: least value of each of the first 1024 channels in the samples looked at.
        channel_high: greatest value, same length.
        channel_mean: mean magnitude, same length.
        channel_median: median of the absolute maxima of all channels that are not dead.
        outlier_channels: (index, its absolute maximum over `channel_median`) above `OUTLIER_RATIO`, greatest first.
        dead_channels: indices of channels that are zero everywhere.
        histogram: (left edge of the first bin, width of a bin, counts), at most 128 bins; None where nothing was
            counted.
        within: (percent, low, high): so many percent of the values lie in [low, high], for each of `PERCENTS`.
        clipping: share (0 to 1) of the squared error of this grid that comes from clipping, the rest from rounding;
            None where the tensor has no grid of one scale.
        sample_absmax: absolute maximum in each sample looked at; empty where samples cannot be told apart.
    """

    name: str
    role: TensorRole
    group: str
    low: float
    high: float
    clip_low: float | None
    clip_high: float | None
    scale: float | None
    zero_point: int | None
    bits: int | None
    error_db: float | None
    channels: int = 0
    channel_low: tuple[float, ...] = ()
    channel_high: tuple[float, ...] = ()
    channel_mean: tuple[float, ...] = ()
    channel_median: float = 0.0
    outlier_channels: tuple[tuple[int, float], ...] = ()
    dead_channels: tuple[int, ...] = ()
    histogram: tuple[float, float, tuple[int, ...]] | None = None
    within: tuple[tuple[float, float, float], ...] = ()
    clipping: float | None = None
    sample_absmax: tuple[float, ...] = ()

    @property
    def absmax(self) -> float:
        """Greatest magnitude that was observed."""
        return max(abs(self.low), abs(self.high))

    @property
    def width(self) -> float:
        """Length of the range that was observed, zero included."""
        return max(self.high, 0.0) - min(self.low, 0.0)

    @property
    def channel_absmax(self) -> F64:
        """Greatest magnitude of each listed channel, [channels]."""
        ends = np.array([self.channel_low, self.channel_high], np.float64)
        return np.asarray(np.abs(ends).max(axis=0))

    @property
    def grid_steps(self) -> int:
        """Steps between the lowest and the highest code: 255 for 8 bits; 0 without a grid."""
        return (1 << self.bits) - 1 if self.bits is not None else 0

    def steps(self, magnitude: float) -> float | None:
        """Return how many steps of the grid values of this magnitude span; None without a grid of one scale."""
        if self.scale is None:
            return None
        return magnitude * (2 if self.low < 0 else 1) / self.scale


@dataclass(frozen=True, slots=True, eq=False)
class TensorFacts:
    """The facts of a network.

    Attributes:
        tensors: name -> fact; activations in the graph's order, then weights and constants.
        samples: calibration samples that were looked at one by one.
    """

    tensors: Mapping[str, TensorFact]
    samples: int

    def get(self, tensor: str) -> TensorFact | None:
        """Return the fact of a tensor, or None where there is none."""
        return self.tensors.get(tensor)


@dataclass(slots=True)
class TensorWatch:
    """Mutable accumulator of one activation: batches in, channels, samples and error kept.

    Attributes:
        axis: of the channels; None takes the one that the shape suggests.
        softmax_axis: axis that the one reader, a Softmax, normalizes; None for all other tensors.
    """

    axis: int | None = None
    softmax_axis: int | None = None
    _error: SqnrAccumulator = field(default_factory=SqnrAccumulator)
    _channels: "_Channels | None" = None
    _is_mixed: bool = False
    _samples: list[float] = field(default_factory=list)
    _is_folded: bool = False

    def update(self, reference: npt.NDArray[Any], test: npt.NDArray[Any] | None, size: int) -> None:
        """Take one batch in.

        Args:
            reference: what the float model has, any shape. Infinities count as zeros.
            test: what the simulation has, of the same shape; None where it is the same. NaN is an infinite error.
            size: number of samples in the batch.
        """
        if reference.size == 0:
            return
        if self.softmax_axis is not None:
            reference = seen_by_softmax(reference, self.softmax_axis)
            test = test if test is None else seen_by_softmax(test, self.softmax_axis)
        known = np.isfinite(reference)
        is_known = bool(known.all())
        values = np.asarray(reference if is_known else np.where(known, reference, 0.0), np.float32)
        if test is not None and test.shape == reference.shape:
            given = test if is_known else np.where(known, test, 0.0)
            self._error.update(values, np.nan_to_num(given, nan=np.inf, posinf=np.inf, neginf=-np.inf))
        elif test is not None:  # what selects may give another number of elements: nothing to compare
            self._error.noise = np.nan
        else:
            self._error.update(values, values)
        self._take(np.atleast_1d(values), size)

    def _take(self, x: F32, size: int) -> None:
        axis = channel_axis_of(x.shape) if self.axis is None or self.axis >= x.ndim else self.axis
        kept = (0, axis) if x.ndim > 1 and axis > 0 else (0,)
        others = tuple(i for i in range(x.ndim) if i not in kept)
        low, high, mean = x.min(others), x.max(others), np.abs(x).mean(others, dtype=np.float64)
        if x.shape[0] % size == 0:  # samples may be folded into the first axis: [samples * heads, ...]
            rows = np.maximum(np.abs(low), np.abs(high)).reshape(size, -1)
            self._samples += rows.max(axis=1).tolist()
        else:
            self._is_folded = True
        if len(kept) == 1 and x.ndim == 1:  # one number per sample is one channel
            low, high, mean = low[:, None], high[:, None], mean[:, None]
        if low.ndim == 2:
            low, high, mean, rows_count = low.min(0), high.max(0), mean.sum(0), len(low)
        else:
            rows_count = 1
        batch = _Channels(low, high, mean, rows_count)
        if self._channels is not None and self._channels.low.shape != batch.low.shape:
            self._is_mixed = True  # the axis of channels has no fixed length: it holds no channels
        else:
            self._channels = batch if self._channels is None else self._channels.merged(batch)

    @property
    def error_db(self) -> float | None:
        """SQNR in dB; None where nothing was compared."""
        is_empty = self._channels is None or bool(np.isnan(self._error.noise))
        return None if is_empty else self._error.db

    @property
    def channels(self) -> "_Channels | None":
        """What was seen in each channel; None where their number changes."""
        return None if self._is_mixed else self._channels

    @property
    def sample_absmax(self) -> tuple[float, ...]:
        """Absolute maximum of each sample; empty where a batch does not keep its samples apart."""
        return () if self._is_folded else tuple(self._samples)


@dataclass(frozen=True, slots=True, eq=False)
class _Channels:
    """Least and greatest value of each channel [C], and the sum over `count` rows of their mean magnitudes [C]."""

    low: F32
    high: F32
    magnitudes: F64
    count: int

    def merged(self, other: "_Channels") -> "_Channels":
        return _Channels(
            np.minimum(self.low, other.low), np.maximum(self.high, other.high),
            self.magnitudes + other.magnitudes, self.count + other.count,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        """Return the fields of a fact that speak of channels."""
        absmax = np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float64)
        alive = absmax > DEAD_SHARE * absmax.max(initial=0.0)
        median = float(np.median(absmax[alive])) if alive.any() else 0.0
        order = np.argsort(-absmax, kind="stable")
        outliers = [(int(i), float(absmax[i] / median)) for i in order if absmax[i] > OUTLIER_RATIO * median > 0]
        return {
            "channels": len(absmax),
            "channel_low": tuple(self.low[:MOST_CHANNELS].tolist()),
            "channel_high": tuple(self.high[:MOST_CHANNELS].tolist()),
            "channel_mean": tuple((self.magnitudes[:MOST_CHANNELS] / self.count).tolist()),
            "channel_median": median,
            "outlier_channels": tuple(outliers[:MOST_CHANNELS]),
            "dead_channels": tuple(np.flatnonzero(~alive)[:MOST_CHANNELS].tolist()),
        }


def activation_fact(
    name: str, group: str, watch: TensorWatch, histogram: Histogram | None, encoding: Encoding | None
) -> TensorFact:
    """Return the fact of an activation.

    Args:
        name: of the tensor.
        group: that makes it.
        watch: what was seen of it in the samples looked at.
        histogram: of all calibration samples; None where it was not observed, which takes the range from `watch`.
        encoding: its grid, or None.
    """
    channels = watch.channels.described() if watch.channels is not None else {}
    if histogram is not None and histogram.low <= histogram.high:
        low, high = histogram.low, histogram.high
    else:
        histogram, low, high = None, 0.0, 0.0
        if watch.channels is not None:
            low, high = float(watch.channels.low.min()), float(watch.channels.high.max())
    return TensorFact(
        name=name, role="activation", group=group, low=low, high=high, **_grid_fields(encoding),
        error_db=watch.error_db, **channels, **_distribution_fields(histogram, encoding),
        sample_absmax=watch.sample_absmax,
    )  # fmt: skip


def stored_fact(
    name: str, role: TensorRole, group: str, values: F32, encoding: Encoding, *, axis: int | None
) -> TensorFact:
    """Return the fact of a weight or constant.

    Args:
        name: of the tensor.
        role: weight or constant.
        group: that reads it.
        values: float32, any shape; infinities are taken for what stands for them on the grid.
        encoding: its grid.
        axis: of its output channels; None for none.
    """
    finite = without_infinities(values)
    histogram = Histogram()
    histogram.update(finite, stride=max(1, finite.size // _WEIGHTS_COUNTED) | 1)
    channels: dict[str, Any] = {}
    if axis is not None and finite.ndim and finite.size:
        others = tuple(i for i in range(finite.ndim) if i != axis)
        means = np.asarray(np.abs(finite).mean(others, dtype=np.float64))
        channels = _Channels(finite.min(others), finite.max(others), means, 1).described()
    error = sqnr_db(finite, fake_quantize(finite, encoding)) if finite.size else None
    low, high = (histogram.low, histogram.high) if finite.size else (0.0, 0.0)
    return TensorFact(
        name=name, role=role, group=group, low=low, high=high, **_grid_fields(encoding), error_db=error, **channels,
        **_distribution_fields(histogram, encoding),
    )  # fmt: skip


def _grid_fields(encoding: Encoding | None) -> dict[str, Any]:
    if encoding is None:
        return dict.fromkeys(("clip_low", "clip_high", "scale", "zero_point", "bits"))
    low, high = encoding.range
    is_single = encoding.scale.size == 1
    return {
        "clip_low": float(low.min()),
        "clip_high": float(high.max()),
        "scale": float(encoding.scale.reshape(())) if is_single else None,
        "zero_point": int(encoding.zero_point.reshape(())) if is_single else None,
        "bits": encoding.spec.bits,
    }


def _distribution_fields(histogram: Histogram | None, encoding: Encoding | None) -> dict[str, Any]:
    if histogram is None or not histogram.count:
        return {}
    return {
        "histogram": thinned(histogram),
        "within": tuple((p, *Percentile(p)(histogram, _ASYMMETRIC)) for p in PERCENTS),
        "clipping": _clipping(histogram, encoding),
    }


def thinned(histogram: Histogram) -> tuple[float, float, tuple[int, ...]]:
    """Return (left edge of the first bin, width, counts) with at most 128 bins; neighbours are added, nothing is lost.

    >>> histogram = Histogram()
    >>> histogram.update(np.arange(1000) / 10)
    >>> first, width, counts = thinned(histogram)
    >>> first, width, len(counts), sum(counts)
    (0.0, 1.0, 100, 1000)
    """
    bins, shift = histogram.first + np.arange(len(histogram.counts), dtype=np.int64), 0
    while (bins[-1] >> shift) - (bins[0] >> shift) >= MOST_BINS:
        shift += 1
    coarse = bins >> shift
    counts = np.zeros(int(coarse[-1] - coarse[0]) + 1, np.int64)
    np.add.at(counts, coarse - coarse[0], histogram.counts)
    width = histogram.width * 2.0**shift
    return float(coarse[0]) * width, width, tuple(counts.tolist())


def _clipping(histogram: Histogram, encoding: Encoding | None) -> float | None:
    """Return the clipped share of the squared error, from the histogram; rounding is taken as scale^2 / 12."""
    if encoding is None or encoding.scale.size != 1:
        return None
    low, high = (float(end.reshape(())) for end in encoding.range)
    counts, centers = histogram.nonzero_counts, histogram.centers
    outside = np.maximum(low - centers, 0.0) + np.maximum(centers - high, 0.0)
    outside = np.where(outside > float(encoding.scale.reshape(())) / 2, outside, 0.0)  # rounded to the last code
    clipped = float(counts @ outside**2)
    rounded = float(counts[outside == 0].sum()) * float(encoding.scale.reshape(())) ** 2 / 12
    return clipped / (clipped + rounded) if clipped else 0.0
