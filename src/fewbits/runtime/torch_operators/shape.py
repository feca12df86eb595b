"""Operators that rearrange elements, and leave their values."""

from collections.abc import Mapping
from itertools import pairwise
from math import ceil, prod

import numpy as np
import torch

from fewbits.errors import ModelError
from fewbits.runtime.torch_operators.arguments import (
    ints,
    ints_at,
    lacks,
    needed,
    of_one,
    optional,
    positive,
    scalar,
    together,
)
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator, Outputs


def reshape(call: Call, inputs: Inputs) -> torch.Tensor:
    """Give another shape; 0 keeps an axis as it is unless `allowzero`. Source: ONNX Reshape-14."""
    x, shape = needed(call, inputs), ints(needed(call, inputs, 1))
    if not call.attributes.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    if -1 in shape and x.numel() == 0:  # torch refuses to infer what ONNX infers: the rest of the elements
        rest = prod(size for size in shape if size != -1)
        shape = [(0 if rest == 0 else x.numel() // rest) if size == -1 else size for size in shape]
    return x.reshape(shape)


def transpose(call: Call, inputs: Inputs) -> torch.Tensor:
    """Reorder axes; without `perm`, reverse them. Source: ONNX Transpose-13."""
    x = needed(call, inputs)
    return x.permute(call.attributes.get("perm", tuple(reversed(range(x.ndim)))))


def flatten(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return a matrix: the axes before `axis`, the axes from it on. Source: ONNX Flatten-13."""
    x, axis = needed(call, inputs), call.attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def squeeze(call: Call, inputs: Inputs) -> torch.Tensor:
    """Drop axes of one element: the named, or all. Source: ONNX Squeeze-13.

    Raises:
        ModelError: a named axis has more elements.
    """
    x, axes = needed(call, inputs), ints_at(call, inputs, 1, "axes", until=13)
    if axes is None:
        return x.squeeze()
    dims = [positive(call, axis, x.ndim) for axis in axes]
    if any(x.shape[dim] != 1 for dim in dims):
        raise ModelError(
            f"Squeeze {call.name!r} drops axes {axes} of shape {list(x.shape)}: they need one element each."
        )
    return x.squeeze(dims)


def unsqueeze(call: Call, inputs: Inputs) -> torch.Tensor:
    """Insert axes of one element, counted in the result. Source: ONNX Unsqueeze-13."""
    x, axes = needed(call, inputs), ints_at(call, inputs, 1, "axes", until=13) or []
    for axis in sorted(positive(call, axis, x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def expand(call: Call, inputs: Inputs) -> torch.Tensor:
    """Broadcast to a shape, in both directions. Source: ONNX Expand-13."""
    x, shape = needed(call, inputs), ints(needed(call, inputs, 1))
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape)))


def tile(call: Call, inputs: Inputs) -> torch.Tensor:
    """Repeat along every axis. Source: ONNX Tile-13."""
    return needed(call, inputs).repeat(ints(needed(call, inputs, 1)))


def concat(call: Call, inputs: Inputs) -> torch.Tensor:
    """Join along an axis. Source: ONNX Concat-13."""
    return torch.cat(together(call, inputs), call.attributes["axis"])


def split(call: Call, inputs: Inputs) -> Outputs:
    """Cut along an axis: into the sizes given, or into equal parts, the last smaller. Source: ONNX Split-18."""
    x, sizes = needed(call, inputs), ints_at(call, inputs, 1, "split", until=13)
    axis = positive(call, call.attributes.get("axis", 0), x.ndim)
    if sizes is None:
        parts = len(call.outputs)
        bounds = [min(ceil(x.shape[axis] / parts) * part, x.shape[axis]) for part in range(parts + 1)]
        sizes = [end - begin for begin, end in pairwise(bounds)]
    return tuple(torch.split(x, sizes, axis))


def depth_to_space(call: Call, inputs: Inputs) -> torch.Tensor:
    """Move blocks of channels into the plane: [N, C b b, H, W] -> [N, C, H b, W b]. Source: ONNX DepthToSpace-13."""
    x, size = needed(call, inputs), call.attributes["blocksize"]
    if call.attributes.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    blocks = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // size**2, h * size, w * size)


def space_to_depth(call: Call, inputs: Inputs) -> torch.Tensor:
    """Move blocks of the plane into channels: [N, C, H b, W b] -> [N, C b b, H, W]. Source: ONNX SpaceToDepth-28."""
    x, size = needed(call, inputs), call.attributes["blocksize"]
    if call.attributes.get("mode", "DCR") == "CRD":
        return torch.pixel_unshuffle(x, size)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * size**2, h // size, w // size)


def dropout(call: Call, inputs: Inputs) -> Outputs:
    """Return the input, and a mask that drops nothing. Source: ONNX Dropout-13, inference.

    Raises:
        ModelError: in training mode with a ratio above zero.
    """
    x, ratio, training = needed(call, inputs), optional(inputs, 1), optional(inputs, 2)
    share = 0.5 if ratio is None else scalar(ratio)
    if call.opset >= 12 and training is not None and scalar(training) and share:
        raise lacks(call, "training mode")
    if len(call.outputs) == 1:
        return x
    return x, torch.ones_like(x, dtype=torch.bool if call.opset >= 10 else x.dtype)


OPERATORS: Mapping[str, Operator] = {
    "Identity": of_one(lambda x: x),
    "Reshape": reshape,
    "Transpose": transpose,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Dropout": dropout,
}
