"""Stage encode: (plan, statistics, range choices) -> one Encoding per grid. Pinned encodings are never derived again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from fewbits.errors import SpecError
from fewbits.graph.topology import constant
from fewbits.numerics.affine import bias_encoding, encoding_from_range, fake_quantize
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.ranges import Estimator, MinMax, Mse
from fewbits.numerics.weight_search import search_weight_scales
from fewbits.numerics.weights import weight_encoding
from fewbits.quantization.layers import Layer, find_layers
from fewbits.quantization.observe import Statistics
from fewbits.spec.dtypes import PerChannel, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role

F32 = npt.NDArray[np.float32]
_INT32_MAX = 2**31 - 1
WeightMemo = dict[tuple[str, QuantSpec, str, bool], Encoding]
"""(tensor, spec, method, whether biases are corrected) -> encoding, before any widening."""

_CLIPPED_BITS = 8  # steps of a wider grid are finer than the histogram that Mse weighs clipping by
_BIAS_MARGIN = 1.001  # float32 rounding of the product of scales must not tip a code over


@dataclass(frozen=True, slots=True)
class Ranges:
    """How ranges are chosen: a rule for all, others by tensor.

    Attributes:
        activations: estimator for activations and constants.
        weights: "absmax" or "mse".
        correct_biases: shift biases so that rounded weights leave the mean of every output channel where it was.
        by_tensor: tensor -> estimator that replaces `activations` there.
        weights_by_tensor: tensor -> method that replaces `weights` there.
    """

    activations: Estimator = field(default_factory=MinMax)
    weights: str = "mse"
    correct_biases: bool = True
    by_tensor: Mapping[str, Estimator] = field(default_factory=dict)
    weights_by_tensor: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encodings of a plan, and what had to give way.

    Attributes:
        encodings: grid key -> encoding.
        widened: weight grid key -> channels whose scale was widened so that the int32 bias fits.
        biases: bias grid key -> float values to store there, corrected for the mean error of the rounded weights.
        notes: sentences for the user.
    """

    encodings: Mapping[str, Encoding]
    widened: Mapping[str, int]
    biases: Mapping[str, F32] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def encode(
    graph: ir.Graph,
    plan: Plan,
    statistics: Statistics,
    ranges: Ranges,
    *,
    pinned: Mapping[str, Encoding] | None = None,
    searched: WeightMemo | None = None,
) -> Encoded:
    """Return an encoding for every grid of the plan.

    Args:
        graph: the prepared float graph.
        plan: the grids.
        statistics: of the float model.
        ranges: estimators.
        pinned: tensor name -> encoding that an improver fixed; used as it is wherever its spec is the planned one.
        searched: memory of weight scales found for these statistics; read and filled, so that the next call is faster.

    Raises:
        SpecError: a tensor that needs a range was never observed.
    """
    work = _Encoder(graph, plan, statistics, ranges, dict(pinned or {}), {} if searched is None else searched)
    for key, grid in plan.grids.items():
        if grid.role in (Role.ACTIVATION, Role.CONSTANT):
            work.activation(key)
    readers = _weight_readers(graph, plan)
    for key, grid in plan.grids.items():
        if grid.role is Role.WEIGHT:
            with threadpool_limits(1, "blas"):
                work.weight(key, grid, readers.get(key))
    layers = {layer.node: layer for layer in find_layers(graph)}
    for key, grid in plan.grids.items():
        if grid.role is Role.BIAS:
            work.bias(key, grid, layers.get(grid.node))
    return Encoded(work.encodings, work.widened, work.biases, tuple(work.notes))


@dataclass
class _Encoder:
    graph: ir.Graph
    plan: Plan
    statistics: Statistics
    ranges: Ranges
    pinned: Mapping[str, Encoding]
    searched: WeightMemo
    encodings: dict[str, Encoding] = field(default_factory=dict)
    widened: dict[str, int] = field(default_factory=dict)
    biases: dict[str, F32] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def activation(self, key: str) -> Encoding:
        if key in self.encodings:
            return self.encodings[key]
        grid = self.plan.grids[key]
        pinned = self.pinned.get(grid.tensor)
        if pinned is not None and pinned.spec == grid.spec:
            found = pinned
        elif grid.shares is not None:
            found = self.activation(grid.shares)
        elif grid.fixed_range is not None:
            found = encoding_from_range(*grid.fixed_range, grid.spec)
        else:
            found = encoding_from_range(*self._range(grid), grid.spec)
        self.encodings[key] = found
        return found

    def _range(self, grid: Grid) -> tuple[float, float]:
        histogram = self._histogram(grid)
        if histogram.low > histogram.high:
            self.notes.append(f"{grid.tensor!r} was empty in every sample; it gets the range [0, 1].")
            return 0.0, 1.0
        estimator = self.ranges.by_tensor.get(grid.tensor, self.ranges.activations)
        if grid.spec.bits > _CLIPPED_BITS and isinstance(estimator, Mse):
            estimator = MinMax()
        return estimator(histogram, grid.spec)

    def _histogram(self, grid: Grid) -> Histogram:
        if grid.role is Role.CONSTANT:
            histogram = Histogram()
            values = _values(self.graph, grid.tensor)
            histogram.update(values[np.isfinite(values)])
            return histogram
        found = self.statistics.histogram(grid.tensor)
        if found is None:
            raise SpecError(
                f"Tensor {grid.tensor!r} needs a range but was not observed: calibrate again on this model and target."
            )
        return found

    def weight(self, key: str, grid: Grid, layer: Layer | None) -> None:
        pinned = self.pinned.get(grid.tensor)
        if pinned is not None and pinned.spec == grid.spec:
            self.encodings[key] = pinned
            return
        method = self.ranges.weights_by_tensor.get(grid.tensor, self.ranges.weights)
        memo = (grid.tensor, grid.spec, method, self.ranges.correct_biases)
        if memo not in self.searched:
            values = _values(self.graph, grid.tensor)
            found = self._search(values, grid, layer) if method == "mse" and layer is not None else None
            self.searched[memo] = found or weight_encoding(values, grid.spec, method=method)
        self.encodings[key] = self.searched[memo]

    def _search(self, values: F32, grid: Grid, layer: Layer) -> Encoding | None:
        """Scales that minimize the error at the layer's output, or None where its inputs were not sampled."""
        moment = self.statistics.moments.get(layer.node)
        if moment is None or not moment.rows or not isinstance(grid.spec.granularity, PerChannel):
            return None
        if layer.op == "ConvTranspose" and layer.groups > 1:
            return None
        centered = self.ranges.correct_biases and layer.has_bias and layer.op != "ConvTranspose"
        scales = search_weight_scales(layer.weight_rows(values), grid.spec, moment, centered=centered)
        return Encoding(grid.spec, scales, np.zeros(scales.shape, np.int64))

    def bias(self, key: str, grid: Grid, layer: Layer | None) -> None:
        """Correct the bias, make room for it in int32, and fix its scale."""
        assert grid.scaled_by is not None
        x_key, w_key = grid.scaled_by
        values = self._corrected(grid, layer)
        if self._widen(x_key, w_key, values):
            values = self._corrected(grid, layer)
        self.biases[key] = values
        found = bias_encoding(self.encodings[x_key].scale, self.encodings[w_key].scale)
        shape = (values.size,) if isinstance(grid.spec.granularity, PerChannel) else ()
        scale = np.broadcast_to(found.scale, shape).astype(np.float32)
        need = np.float32(_BIAS_MARGIN * float(np.abs(values).max(initial=0.0)) / _INT32_MAX)
        if (scale * np.float32(_INT32_MAX) < np.abs(values)).any():
            scale = np.maximum(scale, need)
            self.notes.append(
                f"The bias {grid.tensor!r} does not fit int32 at input scale x weight scale, and that weight's grid may "
                f"not change: it gets a coarser scale of its own, which some devices do not honour."
            )
        self.encodings[key] = Encoding(grid.spec, scale, np.zeros(scale.shape, np.int64))

    def _corrected(self, grid: Grid, layer: Layer | None) -> F32:
        """Return b - E[(w_q - w) x]: the bias with which the layer's outputs keep their means."""
        values = _values(self.graph, grid.tensor)
        moment = self.statistics.moments.get(layer.node) if layer is not None else None
        if not self.ranges.correct_biases or layer is None or moment is None or not moment.rows:
            return values
        assert grid.scaled_by is not None
        weight = self.plan.grids[grid.scaled_by[1]].tensor
        if layer.op == "ConvTranspose" or values.ndim != 1 or weight in self.pinned:
            return values
        rows = _values(self.graph, weight)
        delta = layer.weight_rows(fake_quantize(rows, self.encodings[grid.scaled_by[1]]) - rows)
        shift = np.einsum("gctk,gk->gct", delta, moment.mean()).sum(-1).ravel()
        return (values - shift).astype(np.float32) if shift.shape == values.shape else values

    def _widen(self, x_key: str, w_key: str, bias: F32) -> bool:
        """Widen weight scales until every int32 bias code fits: |b| <= s_x s_w (2^31 - 1); say whether any was."""
        weight, grid = self.encodings[w_key], self.plan.grids[w_key]
        if grid.role is not Role.WEIGHT or grid.tensor in self.pinned:
            return False
        need = np.abs(bias.astype(np.float64)).ravel() / (float(self.encodings[x_key].scale) * _INT32_MAX) * _BIAS_MARGIN
        need = need.max(initial=0.0) if weight.scale.ndim == 0 else need
        wide = np.asarray(weight.scale < need)
        if not wide.any():
            return False
        scale = np.where(wide, need, weight.scale).astype(np.float32)
        self.encodings[w_key] = replace(weight, scale=scale)
        self.widened[w_key] = self.widened.get(w_key, 0) + int(wide.sum())
        return True


def _values(graph: ir.Graph, name: str) -> F32:
    tensor = constant(graph.initializers.get(name))
    assert tensor is not None, name
    return np.asarray(tensor.numpy(), dtype=np.float32)


def _weight_readers(graph: ir.Graph, plan: Plan) -> dict[str, Layer]:
    readers: dict[str, Layer] = {}
    for layer in find_layers(graph):
        key = plan.inputs.get((layer.node, 1))
        if key is not None and plan.grids[key].role is Role.WEIGHT:
            readers.setdefault(key, layer)
    return readers
