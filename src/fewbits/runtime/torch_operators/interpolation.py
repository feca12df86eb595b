"""Interpolation of a tensor along its axes: coordinates and weights as ONNX Resize defines them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isclose

import torch
from torch.nn import functional

_FEW = 4  # taps per element up to which elements are picked and weighed; with more, a matrix is faster


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis is resized. The words are those of ONNX Resize-19.

    Attributes:
        size: elements of the input.
        wanted: elements of the output.
        scale: output elements per input element; may differ from wanted / size.
        mode: "nearest", "linear" or "cubic".
        coordinates: coordinate_transformation_mode.
        rounding: nearest_mode.
        cubic: cubic_coeff_a.
        is_exclusive: exclude_outside: elements beyond the ends have no weight.
        is_smooth: antialias: when shrinking, average over all that becomes one element.
        region: begin and end of what is resized, as shares of the axis; for tf_crop_and_resize.
        outside: value beyond the ends; for tf_crop_and_resize.
    """

    size: int
    wanted: int
    scale: float
    mode: str
    coordinates: str
    rounding: str = "floor"
    cubic: float = -0.75
    is_exclusive: bool = False
    is_smooth: bool = False
    region: tuple[float, float] = (0.0, 1.0)
    outside: float = 0.0

    @property
    def is_same(self) -> bool:
        """Whether the axis stays as it is."""
        return self.size == self.wanted and self.scale == 1.0 and self.coordinates != "tf_crop_and_resize"

    @property
    def stretch(self) -> float:
        """How much wider the filter is than the one for growing."""
        return max(1.0 / self.scale, 1.0) if self.is_smooth else 1.0


def interpolate(x: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Return `x` resized; gradients flow to it.

    Args:
        x: any shape.
        axes: one per axis of `x`.
    """
    if _is_bilinear(axes):
        is_aligned = axes[2].coordinates == "align_corners"
        return functional.interpolate(x, [axis.wanted for axis in axes[2:]], mode="bilinear", align_corners=is_aligned)
    for dim, axis in enumerate(axes):
        if not axis.is_same:
            x = _nearest(x, dim, axis) if axis.mode == "nearest" else _weighed(x, dim, axis)
    return _fill_outside(x, axes)


def _is_bilinear(axes: Sequence[Axis]) -> bool:
    """Say whether torch's own bilinear interpolation of [N, C, H, W] means the same."""
    if len(axes) != 4 or not axes[0].is_same or not axes[1].is_same:
        return False
    height, width = axes[2:]
    return height.coordinates == width.coordinates and _is_linear_of_torch(height) and _is_linear_of_torch(width)


def _is_linear_of_torch(axis: Axis) -> bool:
    """Say whether torch interpolates an axis so: it knows two kinds of coordinates, and the sizes but no scale."""
    if axis.mode != "linear" or axis.is_smooth or axis.is_exclusive:
        return False
    if axis.coordinates == "align_corners":
        return True
    is_half = axis.coordinates == "half_pixel" or (axis.coordinates == "pytorch_half_pixel" and axis.wanted > 1)
    return is_half and isclose(axis.wanted, axis.size * axis.scale, rel_tol=1e-7)


def _nearest(x: torch.Tensor, dim: int, axis: Axis) -> torch.Tensor:
    places, copies = _nearest_places(axis)
    if copies:
        repeated = x.unsqueeze(dim + 1).expand(*x.shape[: dim + 1], copies, *x.shape[dim + 1 :])
        return repeated.reshape(*x.shape[:dim], axis.wanted, *x.shape[dim + 1 :])
    return x.index_select(dim, places.to(x.device))


def _weighed(x: torch.Tensor, dim: int, axis: Axis) -> torch.Tensor:
    places, weights = _taps(axis)
    if weights.shape[1] > _FEW:
        matrix = torch.zeros(axis.wanted, axis.size, dtype=weights.dtype).scatter_add(1, places, weights)
        return torch.movedim(torch.movedim(x, dim, -1) @ matrix.t().to(x.device, x.dtype), -1, dim)
    weights = weights.to(x.device, x.dtype).reshape(axis.wanted, -1, *(1 for _ in range(x.ndim - dim - 1)))
    picked = [x.index_select(dim, place.to(x.device)) * weights[:, tap] for tap, place in enumerate(places.unbind(1))]
    return functools.reduce(torch.add, picked)


def _fill_outside(x: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Return `x` with the elements whose source is beyond an end replaced, as tf_crop_and_resize wants it."""
    for dim, axis in enumerate(axes):
        if axis.coordinates == "tf_crop_and_resize":
            source = _sources(axis)
            is_out = ((source < 0) | (source > axis.size - 1)).to(x.device)
            x = torch.where(is_out.reshape(-1, *(1 for _ in range(x.ndim - dim - 1))), axis.outside, x).to(x.dtype)
    return x


def _sources(axis: Axis, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the coordinate in the input of every element of the output [wanted], counted in elements."""
    place, n, m = torch.arange(axis.wanted, dtype=dtype), axis.size, axis.wanted
    match axis.coordinates:
        case "asymmetric":
            return place / axis.scale
        case "align_corners":
            return place * (n - 1) / (m - 1) if m > 1 else torch.zeros_like(place)
        case "pytorch_half_pixel" if m <= 1:
            return torch.zeros_like(place)
        case "tf_half_pixel_for_nn":
            return (place + 0.5) / axis.scale
        case "tf_crop_and_resize":
            begin, end = axis.region
            if m > 1:
                return begin * (n - 1) + place * (end - begin) * (n - 1) / (m - 1)
            return place + 0.5 * (begin + end) * (n - 1)
        case "half_pixel_symmetric":
            shift = n / 2 * (1 - m / (axis.scale * n))
            return shift + (place + 0.5) / axis.scale - 0.5
    return (place + 0.5) / axis.scale - 0.5


@functools.lru_cache(maxsize=256)
def _nearest_places(axis: Axis) -> tuple[torch.Tensor, int]:
    """Return the element of the input for every element of the output [wanted]; and how often, where all alike, else 0.

    In float32, as ONNX Runtime does it: which of two elements is nearer hangs on the last bit.
    """
    source = _sources(axis, torch.float32)
    match axis.rounding:
        case "round_prefer_floor":
            rounded = torch.ceil(source - 0.5)
        case "round_prefer_ceil":
            rounded = torch.floor(source + 0.5)
        case "floor":
            rounded = torch.floor(source)
        case _:
            rounded = torch.ceil(source)
    places = rounded.to(torch.int64).clamp(0, axis.size - 1)
    copies = axis.wanted // axis.size
    return places, copies if torch.equal(places, torch.arange(axis.size).repeat_interleave(copies)) else 0


@functools.lru_cache(maxsize=256)
def _taps(axis: Axis) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which elements of the input make each of the output, and their weights: [wanted, taps] each."""
    source = _sources(axis)
    reach = (1 if axis.mode == "linear" else 2) * axis.stretch
    base = torch.ceil(source) - 1  # ONNX takes the left element of an exact hit as the one before it
    share = source - base  # in (0, 1]
    first = floor(-reach) + 1
    offsets = torch.arange(first, first + 2 - 2 * first, dtype=torch.float64)
    places = base[:, None] + offsets
    distances = (offsets - share[:, None]).abs() / axis.stretch
    weights = _linear(distances) if axis.mode == "linear" else _cubic(distances, axis.cubic)
    if axis.is_exclusive:
        weights = torch.where((places < 0) | (places >= axis.size), torch.zeros_like(weights), weights)
    if axis.is_exclusive or axis.is_smooth:
        weights = weights / weights.sum(1, keepdim=True)
    return places.clamp(0, axis.size - 1).to(torch.int64), weights


def _linear(distances: torch.Tensor) -> torch.Tensor:
    return (1 - distances).clamp(min=0)


def _cubic(d: torch.Tensor, a: float) -> torch.Tensor:
    """Return the weights of cubic convolution. Source: Keys 1981, equation 4 with a free."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
