"""Stage encode: (plan, statistics, range choices) -> one Encoding per grid. What is pinned is never derived again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from fewbits.errors import SpecError
from fewbits.numerics.affine import SMALLEST_SCALE, bounded_scale, encoding_from_range
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.ranges import Estimator, MinMax, Mse
from fewbits.numerics.second_moment import LARGEST, SecondMoment
from fewbits.numerics.weight_search import search_block_scales, search_weight_scales
from fewbits.numerics.weights import WeightMethod, weight_encoding
from fewbits.quantization.biases import BiasFitter, Shifts, constant_values
from fewbits.quantization.infinities import without_infinities
from fewbits.quantization.layers import Layer, find_layers
from fewbits.quantization.observe import Statistics
from fewbits.quantization.scale_layout import layout_of
from fewbits.spec.dtypes import PerBlock, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role

F32 = npt.NDArray[np.float32]
_CLIPPED_BITS = 8  # steps of a wider grid are finer than the histogram that Mse weighs clipping by


@dataclass(frozen=True, slots=True)
class Ranges:
    """How ranges are chosen: a rule for all, others by tensor.

    Attributes:
        activations: estimator for activations and constants.
        weights: "absmax" or "mse".
        correct_biases: shift biases so that rounded weights leave the mean of every output channel where it was.
        by_tensor: tensor -> estimator that replaces `activations` there.
        wide: estimator that replaces both where a grid has more than 8 bits; None replaces nothing. What was found by
            trial for 8 bits cuts tails off, which 65 thousand steps have room for.
        weights_by_tensor: tensor -> method that replaces `weights` there.
    """

    activations: Estimator = field(default_factory=MinMax)
    weights: str = "mse"
    correct_biases: bool = True
    by_tensor: Mapping[str, Estimator] = field(default_factory=dict)
    wide: Estimator | None = None
    weights_by_tensor: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memo:
    """What was found for one model and its statistics; read and filled by every `encode`, so that the next is faster.

    Attributes:
        weights: (tensor, spec, method, whether a bias takes up the mean error, layer) -> encoding, before any widening.
        ranges: (tensor, spec, estimator) -> (low, high).
        shifts: mean errors that rounded weights cause, see `BiasFitter`.
    """

    weights: dict[tuple[str, QuantSpec, str, bool, str], Encoding] = field(default_factory=dict)
    ranges: dict[tuple[str, QuantSpec, Estimator], tuple[float, float]] = field(default_factory=dict)
    shifts: Shifts = field(default_factory=dict)


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
    memo: Memo | None = None,
) -> Encoded:
    """Return an encoding for every grid of the plan.

    Args:
        graph: the prepared float graph.
        plan: the grids.
        statistics: of the float model.
        ranges: estimators.
        pinned: tensor name, or key of one grid of a tensor with several, -> encoding that an improver fixed; used as it
            is wherever its spec is the planned one.
        memo: of these statistics; read and filled, so that the next call is faster.

    Raises:
        SpecError: a tensor that needs a range was never observed.
    """
    work = _Encoder(graph, plan, statistics, ranges, dict(pinned or {}), memo or Memo())
    for key, grid in plan.grids.items():
        if grid.role in (Role.ACTIVATION, Role.CONSTANT):
            work.activation(key)
    readers = _weight_readers(graph, plan)
    with threadpool_limits(1, "blas"):
        for key, grid in plan.grids.items():
            if grid.role is Role.WEIGHT:
                work.weight(key, grid, readers.get(key))
    fixed = [key for key, grid in plan.grids.items() if work.pin(key, grid) is not None]
    biases = BiasFitter(graph, plan, statistics, work.encodings, fixed, ranges.correct_biases, work.memo.shifts)
    biases.run()
    notes = (*work.notes, *_vanishing(plan, work.encodings), *_unsquared(plan, statistics), *biases.notes)
    return Encoded(work.encodings, biases.widened, biases.values, notes)


@dataclass
class _Encoder:
    graph: ir.Graph
    plan: Plan
    statistics: Statistics
    ranges: Ranges
    pinned: Mapping[str, Encoding]
    memo: Memo
    encodings: dict[str, Encoding] = field(default_factory=dict)
    passed: dict[str, Encoding] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """A pin on a tensor that only passes values through holds for the tensor that it takes them from."""
        joined = {str(node.outputs[0].name) for node in self.graph if node.op_type == "Concat"}
        for key, grid in self.plan.grids.items():
            pin, source = self.pin(key, grid), self.plan.source(key)
            if pin is not None and (source not in joined or source == key):
                self.passed.setdefault(source, pin)

    def pin(self, key: str, grid: Grid) -> Encoding | None:
        """Return the encoding that an improver fixed for this grid or its tensor, if it is on the planned grid."""
        pinned = self.pinned.get(key) or self.pinned.get(grid.tensor)
        return pinned if pinned is not None and pinned.spec == grid.spec else None

    def activation(self, key: str) -> Encoding:
        if key in self.encodings:
            return self.encodings[key]
        grid = self.plan.grids[key]
        pinned = self.pin(key, grid) or self.passed.get(key)
        if pinned is not None:
            found = pinned
        elif grid.shares is not None:
            found = self.activation(grid.shares)
        elif grid.fixed_range is not None:
            found = encoding_from_range(*grid.fixed_range, grid.spec)
        else:
            low, high = self._range(grid)
            found = encoding_from_range(low * grid.headroom, high * grid.headroom, grid.spec)
        self.encodings[key] = found
        return found

    def _range(self, grid: Grid) -> tuple[float, float]:
        histogram = self._histogram(grid)
        if histogram.low > histogram.high:
            self.notes.append(f"{grid.tensor!r} was empty in every sample; it gets the range [0, 1].")
            return 0.0, 1.0
        estimator = self.ranges.by_tensor.get(grid.tensor, self.ranges.activations)
        if grid.spec.bits > _CLIPPED_BITS:
            wide = self.ranges.wide or estimator
            estimator = MinMax() if isinstance(wide, Mse) else wide
        key = (grid.tensor, grid.spec, estimator)
        if key not in self.memo.ranges:
            self.memo.ranges[key] = estimator(histogram, grid.spec)
        return self.memo.ranges[key]

    def _histogram(self, grid: Grid) -> Histogram:
        if grid.role is Role.CONSTANT:
            histogram = Histogram()
            histogram.update(without_infinities(constant_values(self.graph, grid.tensor)))
            return histogram
        found = self.statistics.histogram(grid.tensor)
        if found is None:
            raise SpecError(
                f"Tensor {grid.tensor!r} needs a range but was not observed: calibrate again on this model and target."
            )
        return found

    def weight(self, key: str, grid: Grid, layer: Layer | None) -> None:
        pinned = self.pin(key, grid)
        if pinned is not None:
            self.encodings[key] = pinned
            return
        method = self.ranges.weights_by_tensor.get(grid.tensor, self.ranges.weights)
        if grid.spec.bits > _CLIPPED_BITS:
            method = "absmax"  # 65 thousand steps leave nothing to search for
        case = (grid.tensor, grid.spec, method, self._is_centered(layer), layer.node if layer else "")
        if case not in self.memo.weights:
            values = constant_values(self.graph, grid.tensor)
            searched = self._search(values, grid, layer) if method == "mse" and layer is not None else None
            self.memo.weights[case] = searched or weight_encoding(
                values, grid.spec, method=cast("WeightMethod", method)
            )
        found = self.memo.weights[case]
        if grid.headroom > 1:
            wide = found.scale.astype(np.float64) * np.float32(grid.headroom)
            steps = np.maximum(found.zero_point - grid.spec.qmin, grid.spec.qmax - found.zero_point)
            found = replace(found, scale=bounded_scale(wide, steps).astype(np.float32))
        self.encodings[key] = found

    def _search(self, values: F32, grid: Grid, layer: Layer) -> Encoding | None:
        """Scales that minimize the error at the layer's output, or None where its inputs were not sampled."""
        moment = self.statistics.moments.get(layer.node)
        if moment is None or not moment.rows or isinstance(grid.spec.granularity, PerTensor):
            return None
        if isinstance(grid.spec.granularity, PerBlock):
            return _search_blocks(values, grid.spec, layer, moment)
        if layer.op == "ConvTranspose" and layer.groups > 1:
            return None
        scales = search_weight_scales(layer.weight_rows(values), grid.spec, moment, centered=self._is_centered(layer))
        return Encoding(grid.spec, scales, np.zeros(scales.shape, np.int64))

    def _is_centered(self, layer: Layer | None) -> bool:
        """Whether the bias will take up the mean error of the weights."""
        return layer is not None and self.ranges.correct_biases and layer.has_bias and layer.op != "ConvTranspose"


def _search_blocks(values: F32, spec: QuantSpec, layer: Layer, moment: SecondMoment) -> Encoding | None:
    """Return the same where scales are per block; None where these hold weights of several outputs."""
    like = weight_encoding(values, spec)
    layout = layout_of(layer, like)
    if layout is None or layout.blocks is None:
        return None
    rows = layout.rows(layer.weight_rows(values)).astype(np.float32)
    return layout.encoding(search_block_scales(rows, layout.scales(like), layout.blocks, spec, moment), like)


def _vanishing(plan: Plan, encodings: Mapping[str, Encoding]) -> Iterator[str]:
    """Say which tensors lie so close to zero that their grids are coarser than was asked for."""
    grids = (
        grid
        for key, grid in plan.grids.items()
        if grid.role is not Role.BIAS and (encodings[key].scale <= SMALLEST_SCALE).any()
    )
    names = list(dict.fromkeys(grid.tensor for grid in grids))
    if names:
        yield (
            f"{_some(names)}: values so close to zero that their scale, in part or whole, is raised to "
            f"{SMALLEST_SCALE:g}, the smallest that runtimes do not take for zero; scale such tensors up in the model."
        )


def _unsquared(plan: Plan, statistics: Statistics) -> Iterator[str]:
    """Say which layers read values so large that neither weight scales nor biases were fitted to them."""
    names = [node for node, moment in statistics.moments.items() if moment.is_too_large and (node, 1) in plan.inputs]
    if names:
        yield (
            f"{_some(names)}: inputs above {LARGEST:g} were seen, too large to square: weight scales do not follow "
            f"the inputs there, and biases are not corrected; scale such tensors down in the model."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _weight_readers(graph: ir.Graph, plan: Plan) -> dict[str, Layer]:
    """Return weight key -> its first reader; it counts as having a bias only if every reader has one."""
    readers: dict[str, Layer] = {}
    for layer in find_layers(graph):
        key = plan.inputs.get((layer.node, 1))
        if key is not None and plan.grids[key].role is Role.WEIGHT:
            first = readers.setdefault(key, layer)
            readers[key] = replace(first, has_bias=first.has_bias and layer.has_bias)
    return readers
