"""Pools over windows, and over whole planes."""

from collections.abc import Mapping
from math import prod

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import needed, of_one
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator, Outputs
from fewbits.runtime.torch_operators.windows import Windows, windows_of

_MAX = (functional.max_pool1d_with_indices, functional.max_pool2d_with_indices, functional.max_pool3d_with_indices)
_MAX_ONLY = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)


def max_pool(call: Call, inputs: Inputs) -> Outputs:
    """Return the largest element of every window and, where wanted, its place. Source: ONNX MaxPool-22.

    Places are positions in the whole input [N, C, ...], counted along its rows, or its columns with storage_order 1.
    """
    x = needed(call, inputs)
    windows = windows_of(call, x, call.attributes["kernel_shape"])
    is_ceil = bool(call.attributes.get("ceil_mode", 0))
    values = x if x.is_floating_point() else x.to(torch.float32)  # 8-bit integers: exact
    kernel, strides, dilations, padding = windows.kernel, windows.strides, windows.dilations, windows.before
    if not _is_native(windows):
        values = windows.pad(values, -torch.inf, windows.counts(is_ceil=is_ceil))
        padding, is_ceil = (0,) * len(padding), False
    if not any(call.outputs[1:]):
        return _MAX_ONLY[x.ndim - 3](values, kernel, strides, padding, dilations, is_ceil).to(x.dtype)
    largest, places = _MAX[x.ndim - 3](values, kernel, strides, padding, dilations, is_ceil)
    before = (0,) * len(padding) if _is_native(windows) else windows.before
    return largest.to(x.dtype), _in_whole(call, x, places, before, tuple(values.shape[2:]))


def _in_whole(
    call: Call, x: torch.Tensor, places: torch.Tensor, before: tuple[int, ...], padded: tuple[int, ...]
) -> torch.Tensor:
    """Return positions in all of `x`, of positions in each padded plane."""
    sizes, axes = tuple(x.shape[2:]), range(len(padded))
    coordinates = [places // prod(padded[axis + 1 :]) % padded[axis] - before[axis] for axis in axes]
    is_rows = call.attributes.get("storage_order", 0) == 0
    weights = [prod(sizes[axis + 1 :]) if is_rows else prod(sizes[:axis]) for axis in axes]
    inside = torch.stack([c * w for c, w in zip(coordinates, weights, strict=True)]).sum(0)
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *(1 for _ in axes))
    return planes * prod(sizes) + inside


def average_pool(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the mean of every window, of what is inside `x` or with its padding. Source: ONNX AveragePool-22."""
    x = needed(call, inputs)
    windows = windows_of(call, x, call.attributes["kernel_shape"])
    is_ceil, with_pads = bool(call.attributes.get("ceil_mode", 0)), bool(call.attributes.get("count_include_pad", 0))
    if _is_native(windows) and max(windows.dilations) == 1:
        run = _AVERAGE[x.ndim - 3]
        return run(x, windows.kernel, windows.strides, windows.before, is_ceil, with_pads)
    counts = windows.counts(is_ceil=is_ceil)
    inside = torch.ones((1, 1, *windows.sizes), dtype=x.dtype, device=x.device)
    if with_pads:
        inside = windows.pad(inside, 1.0)
        ends = [c - p for c, p in zip(_padded(windows, counts), inside.shape[2:], strict=True)]
        divisor = _sums(windows, functional.pad(inside, [n for end in reversed(ends) for n in (0, end)]))
    else:
        divisor = _sums(windows, windows.pad(inside, 0.0, counts))
    return _sums(windows, windows.pad(x, 0.0, counts)) / divisor


def _padded(windows: Windows, counts: tuple[int, ...]) -> list[int]:
    return [(c - 1) * s + e for c, s, e in zip(counts, windows.strides, windows.extents, strict=True)]


def lp_pool(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return (sum |x|^p)^(1/p) of every window. Source: ONNX LpPool-22."""
    x, p = needed(call, inputs), call.attributes.get("p", 2)
    windows = windows_of(call, x, call.attributes["kernel_shape"])
    counts = windows.counts(is_ceil=bool(call.attributes.get("ceil_mode", 0)))
    return _sums(windows, windows.pad(x.abs().pow(p), 0.0, counts)).pow(1.0 / p)


def _sums(windows: Windows, x: torch.Tensor) -> torch.Tensor:
    """Return the sum of every window of `x`, already padded: a convolution with ones."""
    ones = torch.ones((1, 1, *windows.kernel), dtype=x.dtype, device=x.device)
    planes = x.reshape(-1, 1, *x.shape[2:])
    found = _CONV[x.ndim - 3](planes, ones, None, windows.strides, 0, windows.dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


def _is_native(windows: Windows) -> bool:
    """Say whether torch pads its pools so: both ends alike, by at most half a window."""
    return windows.is_symmetric and all(2 * p <= k for p, k in zip(windows.before, windows.kernel, strict=True))


def global_lp_pool(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return (sum |x|^p)^(1/p) of every plane. Source: ONNX GlobalLpPool-22."""
    x, p = needed(call, inputs), call.attributes.get("p", 2)
    return (x.abs().pow(p)).sum(_plane(x), keepdim=True).pow(1.0 / p)


def _plane(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


OPERATORS: Mapping[str, Operator] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalMaxPool": of_one(lambda x: x.amax(_plane(x), keepdim=True)),
    "GlobalAveragePool": of_one(lambda x: x.mean(_plane(x), keepdim=True)),
    "GlobalLpPool": global_lp_pool,
}
