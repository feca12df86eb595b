"""Resize and Upsample: interpolation of axes, one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

import numpy as np
import torch

from fewbits.runtime.torch_operators.arguments import ints, lacks, needed, optional, positive
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator
from fewbits.runtime.torch_operators.interpolation import Axis, interpolate


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Resize is to make of the axes: one entry per axis of the tensor.

    Attributes:
        scales: output elements per input element.
        sizes: elements of the output.
        starts: where the region to resize begins, as a share of the axis.
        ends: where it ends.
    """

    scales: list[float]
    sizes: list[int]
    starts: list[float]
    ends: list[float]


def resize(call: Call, inputs: Inputs) -> torch.Tensor:
    """Interpolate: nearest, linear or cubic. Source: ONNX Resize-10, Resize-19."""
    if call.opset < 11:
        return upsample(call, inputs)
    x = needed(call, inputs)
    return interpolate(x, _axes(call, x, _wanted(call, inputs, x)))


def _axes(call: Call, x: torch.Tensor, wanted: Wanted) -> list[Axis]:
    read = call.attributes.get
    mode = read("mode", "nearest")
    if mode != "nearest" and not x.is_floating_point():
        raise lacks(call, f"{mode} interpolation of {x.dtype}")
    return [
        Axis(
            size=size,
            wanted=wanted.sizes[axis],
            scale=wanted.scales[axis],
            mode=mode,
            coordinates=read("coordinate_transformation_mode", "half_pixel"),
            rounding=read("nearest_mode", "round_prefer_floor"),
            cubic=read("cubic_coeff_a", -0.75),
            is_exclusive=bool(read("exclude_outside", 0)),
            is_smooth=bool(read("antialias", 0)),
            region=(wanted.starts[axis], wanted.ends[axis]),
            outside=read("extrapolation_value", 0.0),
        )
        for axis, size in enumerate(x.shape)
    ]


def _wanted(call: Call, inputs: Inputs, x: torch.Tensor) -> Wanted:
    """Read roi, scales and sizes, which may be given for some axes only."""
    named = call.attributes.get("axes")
    axes = list(range(x.ndim)) if named is None else [positive(call, axis, x.ndim) for axis in named]
    scales, sizes, starts, ends = [1.0] * x.ndim, list(x.shape), [0.0] * x.ndim, [1.0] * x.ndim
    region = _floats(inputs, 1)
    for place, axis in enumerate(axes) if region else ():
        starts[axis], ends[axis] = region[place], region[place + len(axes)]
    given = _floats(inputs, 2)
    if given:
        for axis, scale in zip(axes, given, strict=True):
            share = ends[axis] - starts[axis] if _crops(call) else 1.0
            scales[axis], sizes[axis] = scale, _scaled(x.shape[axis], scale, share)
        return Wanted(scales, sizes, starts, ends)
    goals = ints(needed(call, inputs, 3))
    ratios = [goal / x.shape[axis] for goal, axis in zip(goals, axes, strict=True)]
    policy = call.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)
        goals = [floor(ratio * x.shape[axis] + 0.5) for ratio, axis in zip(ratios, axes, strict=True)]
    for axis, ratio, goal in zip(axes, ratios, goals, strict=True):
        scales[axis], sizes[axis] = ratio, goal
    return Wanted(scales, sizes, starts, ends)


def _scaled(size: int, scale: float, share: float = 1.0) -> int:
    """Return how many elements an axis has after scaling; a float32 product, as ONNX Runtime forms it."""
    return floor(np.float32(size) * np.float32(share) * np.float32(scale))


def _crops(call: Call) -> bool:
    return bool(call.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize")


def _floats(inputs: Inputs, position: int) -> list[float]:
    tensor = optional(inputs, position)
    return [] if tensor is None else [float(element) for element in tensor.reshape(-1).tolist()]


def upsample(call: Call, inputs: Inputs) -> torch.Tensor:
    """Interpolate from the corner: nearest or linear. Source: ONNX Upsample-7 (attribute), Upsample-9, Resize-10."""
    x, mode = needed(call, inputs), call.attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear", "trilinear"):
        raise lacks(call, f"the mode {mode!r}")
    if mode != "nearest" and not x.is_floating_point():
        raise lacks(call, f"{mode} interpolation of {x.dtype}")
    scales = call.attributes["scales"] if call.opset < 9 else _floats(inputs, 1)
    axes = [
        Axis(
            size=size,
            wanted=_scaled(size, scale),
            scale=scale,
            mode="nearest" if mode == "nearest" else "linear",
            coordinates="asymmetric",
            rounding="floor",
        )
        for size, scale in zip(x.shape, scales, strict=True)
    ]
    return interpolate(x, axes)


OPERATORS: Mapping[str, Operator] = {"Resize": resize, "Upsample": upsample}
