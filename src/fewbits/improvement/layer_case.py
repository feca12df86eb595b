"""One layer on its way to better weights: what it reads and should give, its weights and grid, what it became."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fewbits.numerics.joint_moment import DAMPING, JointMoment
from fewbits.numerics.rounding import Blocks, RoundingProblem, steps_of
from fewbits.quantization.layers import Layer
from fewbits.quantization.scale_layout import ScaleLayout
from fewbits.spec.encodings import Encoding

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_WORK = 1e10  # multiply-adds that the moments of one layer may take
_ELEMENTS = 2e8  # input values that are read for them
_MOST_ROWS = 60_000
_FEWEST_ROWS = 2  # per input
LEARNED_ELEMENTS, LEARNED_ROWS = 24_000_000, 1024
"""Values of rows that adaround learns from, at most, and rows of one iteration, which are held in any case."""


def enough_rows(layer: Layer) -> int:
    """Return how many input rows say enough of a layer's moments, within the work they may take."""
    inputs, groups = layer.inputs, layer.groups
    affordable = min(_WORK / (inputs * inputs * groups), _ELEMENTS / (inputs * groups), _MOST_ROWS)
    return int(max(affordable, _FEWEST_ROWS * inputs))


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """What a layer became.

    Attributes:
        codes: [G, C * T, K].
        scale: [G, C, B].
        before, after: the method's objective, relative to the power of the layer's output.
        bias: [G * C], or None where the layer keeps the one that it has.
        blocks: [K], the block of each input; None where a row has one scale.
    """

    codes: F64
    scale: F64
    before: float
    after: float
    bias: F32 | None = None
    blocks: Blocks | None = None

    @property
    def taps(self) -> int:
        """T: rows of codes that share scales."""
        return int(self.codes.shape[1] // self.scale.shape[1])

    @property
    def steps(self) -> F64:
        """The step of every weight, [G, C * T, K], or [G, C * T, 1] where a row has one scale."""
        return steps_of(self.scale, self.taps, self.blocks)

    @property
    def weights(self) -> F32:
        """The weights on their grid, float32 [G, C, T, K]: code times scale, as the file holds them."""
        (groups, _, inputs), channels = self.codes.shape, self.scale.shape[1]
        found = (self.codes.astype(np.float32) + 0.0) * self.steps.astype(np.float32)
        return found.reshape(groups, channels, self.taps, inputs)


@dataclass(frozen=True, eq=False)
class LayerCase:
    """A layer whose turn it is.

    Attributes:
        layer: the layer.
        weights: of the float model, [G, C, T, K].
        current: of the quantized model as it is, [G, C, T, K]; on the grid once they are rounded.
        encoding: their grid.
        layout: how its scales belong to the rows of the weights.
        moment: of what the layer reads in the quantized model with what it should give.
        least: [G, C], the smallest scale with which the int32 bias fits.
        corrects: whether a bias takes up what the means differ by.
    """

    layer: Layer
    weights: F64
    current: F64
    encoding: Encoding
    layout: ScaleLayout
    moment: JointMoment
    least: F64
    corrects: bool

    @property
    def scale(self) -> F64:
        """The present scales, [G, C, B]."""
        return self.layout.scales(self.encoding)

    @property
    def is_shared(self) -> bool:
        """Whether one scale serves all channels."""
        return self.encoding.scale.size == 1 and self.weights.shape[0] * self.weights.shape[1] > 1

    def target(self, damping: float = DAMPING) -> F64:
        """Return the weights that come closest to the output of the float layer, were there no grid: [G, C, T, K]."""
        groups, channels, taps, inputs = self.weights.shape
        rows = self.weights.reshape(groups, channels * taps, inputs)
        return np.reshape(self.moment.closest(rows, centered=self.corrects, damping=damping), self.weights.shape)

    def problem(self, damping: float = DAMPING) -> RoundingProblem:
        """Return what rounding has to solve: come close to the output of the float layer."""
        target = self.target(damping)
        cost = self.moment.cost(centered=self.corrects, damping=damping)
        spec, blocks = self.encoding.spec, self.layout.blocks
        return RoundingProblem(target, cost, spec, self.least, self.is_shared, blocks)

    @cached_property
    def present(self) -> Rounded:
        """The present state: the codes nearest to the present weights."""
        groups, channels, taps, inputs = self.weights.shape
        rows = self.current.reshape(groups, channels * taps, inputs)
        now, spec = Rounded(rows, self.scale, 0.0, 0.0, blocks=self.layout.blocks), self.encoding.spec
        exact = rows.astype(np.float32) / now.steps.astype(np.float32)
        return replace(now, codes=np.clip(np.rint(exact), spec.qmin, spec.qmax).astype(np.float64))

    def bias(self, rounded: F64) -> F32 | None:
        """Return the bias [G * C] with which rounded weights [G, C, T, K] keep the means of the float layer."""
        if not self.corrects:
            return None
        x, y = self.moment.means()
        return np.asarray(y - np.einsum("gctk,gk->gc", rounded, x), np.float32).ravel()

    def with_bias(self, found: Rounded) -> Rounded:
        """Return what the layer became with the bias that belongs to it."""
        return replace(found, bias=self.bias(found.weights.astype(np.float64)))
