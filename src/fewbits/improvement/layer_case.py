"""One layer on its way to better weights: what it reads and should give, its weights and grid, what it became."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fewbits.numerics.joint_moment import DAMPING, JointMoment
from fewbits.numerics.rounding import RoundingProblem
from fewbits.quantization.layers import Layer
from fewbits.spec.encodings import Encoding

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_WORK = 1e10  # multiply-adds that the moments of one layer may take
_ELEMENTS = 2e8  # input values that are read for them
_MOST_ROWS = 60_000
_FEWEST_ROWS = 2  # per input


def enough_rows(layer: Layer) -> int:
    """Return how many input rows say enough of a layer's moments, within the work they may take."""
    inputs, groups = layer.inputs, layer.groups
    affordable = min(_WORK / (inputs * inputs * groups), _ELEMENTS / (inputs * groups), _MOST_ROWS)
    return int(max(affordable, _FEWEST_ROWS * inputs))


@dataclass(frozen=True, slots=True, eq=False)
class LayerCase:
    """A layer whose turn it is.

    Attributes:
        layer: the layer.
        weights: of the float model, [G, C, T, K].
        current: of the quantized model as it is, [G, C, T, K]; on the grid once they are rounded.
        encoding: their grid, one scale per output channel or one for all.
        moment: of what the layer reads in the quantized model with what it should give.
        least: [G, C], the smallest scale with which the int32 bias fits.
        corrects: whether a bias takes up what the means differ by.
    """

    layer: Layer
    weights: F64
    current: F64
    encoding: Encoding
    moment: JointMoment
    least: F64
    corrects: bool

    @property
    def scale(self) -> F64:
        """The present scale of every output channel, [G, C]."""
        groups, channels = self.weights.shape[:2]
        found: F64 = np.empty((groups, channels))
        found.reshape(-1)[...] = self.encoding.scale.ravel()
        return found

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
        return RoundingProblem(target, cost, self.encoding.spec, self.least, self.is_shared)

    @property
    def codes(self) -> F64:
        """The present codes, [G, C * T, K]: the nearest to the present weights."""
        groups, channels, taps, inputs = self.weights.shape
        steps = np.repeat(self.scale.astype(np.float32), taps, axis=1)[..., None]
        rows = self.current.reshape(groups, channels * taps, inputs).astype(np.float32)
        spec = self.encoding.spec
        return np.asarray(np.clip(np.rint(rows / steps), spec.qmin, spec.qmax), np.float64)

    def bias(self, rounded: F64) -> F32 | None:
        """Return the bias [G * C] with which rounded weights [G, C, T, K] keep the means of the float layer."""
        if not self.corrects:
            return None
        x, y = self.moment.means()
        return np.asarray(y - np.einsum("gctk,gk->gc", rounded, x), np.float32).ravel()


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """What a layer became.

    Attributes:
        codes: [G, C * T, K].
        scale: [G, C].
        before, after: the method's objective, relative to the power of the layer's output.
        bias: [G * C], or None where the layer keeps the one that it has.
    """

    codes: F64
    scale: F64
    before: float
    after: float
    bias: F32 | None = None

    @property
    def weights(self) -> F32:
        """The weights on their grid, float32 [G, C, T, K]: code times scale, as the file holds them."""
        (groups, rows, inputs), channels = self.codes.shape, self.scale.shape[1]
        steps = np.repeat(self.scale.astype(np.float32), rows // channels, axis=1)[..., None]
        return ((self.codes.astype(np.float32) + 0.0) * steps).reshape(groups, channels, rows // channels, inputs)

    def encoding(self, before: Encoding) -> Encoding:
        """Return the grid that the weights are pinned to; `before` says what kind of grid it is."""
        scale = self.scale.astype(np.float32).ravel()
        return replace(before, scale=(scale[:1] if before.scale.size == 1 else scale).reshape(before.scale.shape))

    def with_bias(self, case: LayerCase) -> "Rounded":
        """Return the same with the bias that belongs to it."""
        return replace(self, bias=case.bias(self.weights.astype(np.float64)))
