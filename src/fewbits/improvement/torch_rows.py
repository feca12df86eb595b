"""Rows of a layer in torch: input vectors at chosen positions of its output, and what the output is there.

Every layer becomes y [G, R, C * T] = x [G, R, K] w^T at R positions, whatever its operator: a matrix product is much
faster than a convolution when a few thousand positions say enough.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fewbits.quantization.layers import Layer

Index = tuple[torch.Tensor, torch.Tensor]
"""Sample of each row, and its flat position in that sample's output."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of one layer.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def sizes(self, x: torch.Tensor) -> tuple[int, int]:
        """Return how many samples the input `x` holds, and how many positions each has."""
        layer = self.layer
        if layer.op == "Conv":
            return len(x), math.prod(self._steps(x))
        if layer.op == "ConvTranspose":
            return len(x), math.prod(x.shape[2:])
        if layer.op == "Gemm":
            return x.shape[1 if layer.transposed[0] else 0], 1
        return (len(x), math.prod(x.shape[1:-1])) if x.ndim > 1 else (1, 1)

    def choose(self, x: torch.Tensor, count: int, generator: torch.Generator) -> Index:
        """Return `count` random positions, or all of them in order where there are no more."""
        samples, positions = self.sizes(x)
        total = samples * positions
        if total <= count:
            flat = torch.arange(total)
        elif total <= 4 * count:
            flat = torch.randperm(total, generator=generator)[:count]
        else:  # a position that is drawn twice does no harm
            flat = torch.randint(total, (count,), generator=generator)
        return torch.div(flat, max(positions, 1), rounding_mode="floor"), flat % max(positions, 1)

    def inputs(self, x: torch.Tensor, index: Index) -> torch.Tensor:
        """Return the input vectors at `index`, [G, R, K]."""
        layer, (sample, position) = self.layer, index
        if layer.op == "Conv":
            where = np.unravel_index(position.numpy(), self._steps(x))
            # the axis of channels last, so that the others can be indexed together
            windows = self._windows(x).movedim(1, -1)
            rows = windows[(sample, *(torch.from_numpy(np.asarray(axis)) for axis in where))].movedim(-1, 1)
            return rows.reshape(len(rows), layer.groups, layer.inputs).transpose(0, 1).contiguous()
        if layer.op == "ConvTranspose":
            rows = x.flatten(2)[sample, :, position]
            return rows.reshape(len(rows), layer.groups, layer.inputs).transpose(0, 1).contiguous()
        if layer.op == "Gemm":
            return (x.T if layer.transposed[0] else x)[sample][None]
        return (x if x.ndim > 1 else x[None]).reshape(self.sizes(x)[0], -1, layer.inputs)[sample, position][None]

    def outputs(self, y: torch.Tensor, index: Index) -> torch.Tensor:
        """Return what an output tensor of the layer holds at `index`, [G, R, C]; not for ConvTranspose, which sums."""
        layer, (sample, position) = self.layer, index
        if layer.op == "Conv":
            rows = y.flatten(2)[sample, :, position]
            return rows.reshape(len(rows), layer.groups, -1).transpose(0, 1).contiguous()
        if layer.op == "Gemm":
            return y[sample][None]
        wide = y if y.ndim > 1 else y[None]
        return wide.reshape(len(wide), -1, wide.shape[-1])[sample, position][None]

    def _steps(self, x: torch.Tensor) -> list[int]:
        """Return how many windows there are along each axis of an image."""
        layer, rank = self.layer, len(self.layer.strides)
        kernel = layer.weight_shape[2:]
        sizes = [x.shape[2 + i] + layer.pads[i] + layer.pads[rank + i] for i in range(rank)]
        axes = zip(sizes, kernel, layer.dilations, layer.strides, strict=True)
        return [max((size - (k - 1) * dilation - 1) // stride + 1, 0) for size, k, dilation, stride in axes]

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """Return a view [N, C, steps..., kernel...] of the padded input."""
        layer, rank = self.layer, len(self.layer.strides)
        if any(layer.pads):
            ends = [(layer.pads[i], layer.pads[rank + i]) for i in reversed(range(rank))]
            x = torch.nn.functional.pad(x, [p for pair in ends for p in pair])
        own = x.stride()
        steps = [own[2 + i] * layer.strides[i] for i in range(rank)]
        taps = [own[2 + i] * layer.dilations[i] for i in range(rank)]
        size = (*x.shape[:2], *self._counted(x), *layer.weight_shape[2:])
        return x.as_strided(size, (own[0], own[1], *steps, *taps))

    def _counted(self, padded: torch.Tensor) -> list[int]:
        layer = self.layer
        axes = zip(padded.shape[2:], layer.weight_shape[2:], layer.dilations, layer.strides, strict=True)
        return [max((size - (k - 1) * dilation - 1) // stride + 1, 0) for size, k, dilation, stride in axes]


def weights_from_rows(layer: Layer, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows [G, C, T, K] as the weight that `Layer.weight_rows` takes apart."""
    if layer.op == "Conv":
        return rows.reshape(layer.weight_shape)
    if layer.op == "ConvTranspose":
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2)).reshape(layer.weight_shape)
    matrix = rows[0, :, 0]
    return np.ascontiguousarray(matrix if layer.op == "Gemm" and layer.transposed[1] else matrix.T)
