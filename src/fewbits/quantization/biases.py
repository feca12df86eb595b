"""Stage encode, its second half: biases corrected for the rounding of weights, given room in int32, and scaled."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.graph.topology import constant
from fewbits.numerics.affine import SMALLEST_SCALE, bias_encoding, bounded_scale, fake_quantize
from fewbits.quantization.layers import Layer, find_layers
from fewbits.quantization.observe import Statistics
from fewbits.spec.dtypes import PerChannel, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Shifts = dict[tuple[str, str, QuantSpec, bytes], npt.NDArray[np.floating[Any]]]
_INT32_MAX = 2**31 - 1
_MARGIN = 1.001  # float32 rounding of the product of scales must not tip a code over
_ROUNDS = 4  # a wider scale rounds the weights anew, which moves the corrected biases a little


def constant_values(graph: ir.Graph, name: str) -> F32:
    """Return the initializer called `name` as float32."""
    tensor = constant(graph.initializers.get(name))
    assert tensor is not None, name
    return np.asarray(tensor.numpy(), dtype=np.float32)


@dataclass
class BiasFitter:
    """Adds the encodings of biases to those of all other grids, widening weight scales where a bias needs it.

    Attributes:
        graph, plan, statistics: as for `encode`.
        encodings: of all other grids; widened and extended in place.
        fixed: keys of the weight grids that may not change.
        is_correcting: shift biases so that rounded weights leave the mean of every output channel where it was.
        shifts: (layer, weight, spec, scale and zero point as bytes) -> mean error of its outputs; read and filled.
        widened: weight grid key -> channels whose scale was widened.
        values: bias grid key -> float values to store there.
        notes: sentences for the user.
    """

    graph: ir.Graph
    plan: Plan
    statistics: Statistics
    encodings: dict[str, Encoding]
    fixed: Collection[str]
    is_correcting: bool
    shifts: Shifts = field(default_factory=dict)
    widened: dict[str, int] = field(default_factory=dict)
    values: dict[str, F32] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Fit every bias; a weight that several layers share is widened for all of them before any bias is scaled."""
        layers = {layer.node: layer for layer in find_layers(self.graph)}
        grids = {key: grid for key, grid in self.plan.grids.items() if grid.role is Role.BIAS}
        narrow = dict(self.encodings)
        for _ in range(_ROUNDS):
            wide = [self._widen(grid, self._corrected(grid, layers.get(grid.node))) for grid in grids.values()]
            if not any(wide):
                break
        for key, grid in grids.items():
            self._fix(key, grid, self._corrected(grid, layers.get(grid.node)))
        for key, before in narrow.items():
            if (after := self.encodings[key]) is not before:
                self.widened[key] = int((after.scale > before.scale).sum())

    def _parents(self, grid: Grid) -> tuple[Encoding, str]:
        """Return the input's encoding and the weight's key."""
        assert grid.scaled_by is not None
        return self.encodings[grid.scaled_by[0]], grid.scaled_by[1]

    def _vector(self, grid: Grid) -> F32:
        """Return the bias, one value per channel along the last axis where its scales are per channel."""
        channels = self.encodings[self._parents(grid)[1]].scale.size
        return bias_rows(constant_values(self.graph, grid.tensor), grid, channels)

    def _corrected(self, grid: Grid, layer: Layer | None) -> F32:
        """Return b - E[(w_q - w) x]: the bias with which the layer's outputs keep their means."""
        values, w_key = self._vector(grid), self._parents(grid)[1]
        moment = self.statistics.moments.get(layer.node) if layer is not None else None
        if not self.is_correcting or layer is None or not layer.has_bias or moment is None or not moment.rows:
            return values
        if layer.op == "ConvTranspose" or values.ndim != 1 or w_key in self.fixed:
            return values
        name, encoding = self.plan.grids[w_key].tensor, self.encodings[w_key]
        case = (layer.node, name, encoding.spec, encoding.scale.tobytes() + encoding.zero_point.tobytes())
        if case not in self.shifts:
            weight = constant_values(self.graph, name)
            delta = layer.weight_rows(fake_quantize(weight, encoding) - weight)
            self.shifts[case] = np.einsum("gctk,gk->gct", delta, moment.mean()).sum(-1).ravel()
        shift = self.shifts[case]
        return (values - shift).astype(np.float32) if shift.shape == values.shape else values

    def _widen(self, grid: Grid, values: F32) -> bool:
        """Widen weight scales until every int32 bias code fits: |b| <= s_x s_w (2^31 - 1); say whether any was."""
        source, w_key = self._parents(grid)
        weight = self.encodings[w_key]
        if self.plan.grids[w_key].role is not Role.WEIGHT or w_key in self.fixed:
            return False
        # the product of scales must also stay a normal float32, or runtimes flush it to zero
        need = np.maximum(_least_scale(values, weight.scale.ndim), SMALLEST_SCALE * _MARGIN) / float(source.scale)
        # weights that stay finite come first: the bias then gets a scale of its own
        need = bounded_scale(need, 2.0**weight.spec.bits * _MARGIN)
        wide = np.asarray(weight.scale < need)
        if wide.any():
            scale = np.where(wide, need * _MARGIN, weight.scale).astype(np.float32)
            self.encodings[w_key] = replace(weight, scale=scale)
        return bool(wide.any())

    def _fix(self, key: str, grid: Grid, values: F32) -> None:
        source, w_key = self._parents(grid)
        fitted, is_coarser = fit_bias(values, grid, source, self.encodings[w_key])
        if is_coarser:
            self.notes.append(
                f"The bias {grid.tensor!r} does not fit int32 at input scale x weight scale, and that weight's grid "
                f"may not change further: it gets a coarser scale of its own, which some devices do not honour."
            )
        self.values[key] = values
        self.encodings[key] = fitted


def bias_rows(values: F32, grid: Grid, channels: int) -> F32:
    """Return a bias as it is stored: one value per channel along the last axis where its scales are per channel."""
    if not isinstance(grid.spec.granularity, PerChannel):
        return values
    rows = values.reshape(-1) if grid.spec.granularity.axis == 0 else values
    return np.broadcast_to(rows, (*rows.shape[:-1], channels))


def fit_bias(values: F32, grid: Grid, source: Encoding, weight: Encoding) -> tuple[Encoding, bool]:
    """Return the int32 grid of a bias, and whether it is coarser than the product of the scales, which it outgrows.

    Args:
        values: as `bias_rows` returns them.
        grid: of the bias.
        source: encoding of the layer's input.
        weight: encoding of its weight.

    Raises:
        SpecError: the product of the scales leaves float32.
    """
    scale = np.asarray(bias_encoding(source.scale, weight.scale).scale)
    need = _least_scale(values, scale.ndim)
    is_coarser = bool((scale < need).any())
    if is_coarser:
        scale = np.asarray(np.maximum(scale, need * _MARGIN), dtype=np.float32)
    return Encoding(grid.spec, scale, np.zeros(scale.shape, np.int64)), is_coarser


def _least_scale(values: F32, rank: int) -> F64:
    """Return the scale with which |values| just fit int32: one, or with rank 1 one per index of the last axis."""
    sizes = np.abs(values.astype(np.float64)) / _INT32_MAX
    if rank == 0:
        return np.asarray(sizes.max(initial=0.0))
    return np.asarray(sizes.reshape(-1, values.shape[-1]).max(axis=0))
