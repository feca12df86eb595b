"""How the scales of a weight belong to its rows: which inputs share one, and where it lies in the encoding."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import spread_scales
from fewbits.numerics.rounding import Blocks
from fewbits.quantization.layers import Layer
from fewbits.spec.dtypes import PerBlock
from fewbits.spec.encodings import Encoding

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ScaleLayout:
    """Scales as [G, C, B] of the rows [G, C, T, K] of a weight.

    With blocks T is 1: every tap of a ConvTranspose then has scales, and is a row, of its own.

    Attributes:
        index: [G, C, B], where each scale lies in the flat encoding.
        blocks: [K], the block of each input; None where a row has one scale.
    """

    index: npt.NDArray[np.intp]
    blocks: Blocks | None = None

    def rows(self, weights: npt.NDArray[np.floating]) -> F64:
        """Return weights, as `Layer.weight_rows` gives them, as rows [G, C, T, K] of this layout."""
        groups, channels = self.index.shape[:2]
        return weights.astype(np.float64).reshape(groups, channels, -1, weights.shape[-1])

    def scales(self, encoding: Encoding) -> F64:
        """Return the scales of an encoding, [G, C, B]."""
        return encoding.scale.ravel().astype(np.float64)[self.index]

    def encoding(self, scale: F64, like: Encoding) -> Encoding:
        """Return an encoding of the kind of `like` that has the scales [G, C, B]."""
        flat = like.scale.ravel().copy()
        flat[self.index] = scale.astype(np.float32)
        return replace(like, scale=flat.reshape(like.scale.shape))

    def largest(self, rows: F64) -> F64:
        """Return the largest magnitude of what shares a scale within a channel, [G, C, B]."""
        tops = np.abs(rows).max(axis=2)
        if self.blocks is None:
            return np.asarray(tops.max(axis=2, keepdims=True))
        parts = (tops[..., self.blocks == block] for block in range(self.index.shape[2]))
        return np.stack([part.max(axis=2) for part in parts], axis=2)


def layout_of(layer: Layer, encoding: Encoding) -> ScaleLayout | None:
    """Return the layout of the scales of a layer's weight; None where outputs share some of several scales."""
    own = np.arange(encoding.scale.size, dtype=np.int32).reshape(encoding.scale.shape)
    places = layer.weight_rows(
        np.broadcast_to(spread_scales(own, layer.weight_shape, encoding.spec.granularity), layer.weight_shape)
    )
    groups, channels, taps, inputs = places.shape
    if isinstance(encoding.spec.granularity, PerBlock):
        places = places.reshape(groups, channels * taps, 1, inputs)
        _, first, blocks = np.unique(places[0, 0, 0], return_index=True, return_inverse=True)
    else:
        first, blocks = np.zeros(1, np.intp), None
    index = places[:, :, 0, first].astype(np.intp)
    steps = index if blocks is None else index[..., blocks]
    is_one_each = own.size in (1, index.size) and np.unique(index).size == own.size
    return ScaleLayout(index, blocks) if is_one_each and (places == steps[:, :, None]).all() else None
