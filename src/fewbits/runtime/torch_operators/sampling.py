"""Reading images between their pixels."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import ints, lacks, needed
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(call: Call, inputs: Inputs) -> torch.Tensor:
    """Read x [N, C, ...] at the coordinates of a grid [N, ..., axes] in [-1, 1]. Source: ONNX GridSample-22."""
    x, grid = needed(call, inputs), needed(call, inputs, 1)
    mode = call.attributes.get("mode", "linear")
    mode = _MODES.get(mode, mode)
    if x.ndim not in (4, 5) or (x.ndim == 5 and mode == "bicubic"):
        raise lacks(call, f"mode {mode!r} for inputs of {x.ndim} axes")
    outside, is_aligned = call.attributes.get("padding_mode", "zeros"), bool(call.attributes.get("align_corners", 0))
    return functional.grid_sample(x, grid.to(x.device, x.dtype), mode, outside, is_aligned)


def affine_grid(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the grid of affine maps theta [N, 2, 3] or [N, 3, 4]. Source: ONNX AffineGrid-20."""
    theta, size = needed(call, inputs), ints(needed(call, inputs, 1))
    return functional.affine_grid(theta, size, bool(call.attributes.get("align_corners", 0)))


OPERATORS: Mapping[str, Operator] = {"GridSample": grid_sample, "AffineGrid": affine_grid}
