"""Convolutions over one, two or three axes."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import needed, optional
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator
from fewbits.runtime.torch_operators.windows import Windows, halves, pad_ends, windows_of

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def conv(call: Call, inputs: Inputs) -> torch.Tensor:
    """Convolve x [N, C, ...] with w [M, C / group, k...], add b [M]. Source: ONNX Conv-22."""
    x, weight, bias = needed(call, inputs), needed(call, inputs, 1), optional(inputs, 2)
    windows = windows_of(call, x, weight.shape[2:])
    padding = windows.before
    if not windows.is_symmetric:
        x, padding = windows.pad(x, 0.0), (0,) * len(padding)
    return _CONV[x.ndim - 3](
        x, weight, bias, windows.strides, padding, windows.dilations, call.attributes.get("group", 1)
    )


def conv_transpose(call: Call, inputs: Inputs) -> torch.Tensor:
    """Convolve transposed x [N, C, ...] with w [C, M / group, k...], add b [M]. Source: ONNX ConvTranspose-22."""
    x, weight, bias = needed(call, inputs), needed(call, inputs, 1), optional(inputs, 2)
    windows, group = windows_of(call, x, weight.shape[2:]), call.attributes.get("group", 1)
    extra = tuple(call.attributes.get("output_padding", (0,) * len(windows.sizes)))
    run = _TRANSPOSED[x.ndim - 3]
    if _is_plain(call, windows, extra):
        return run(x, weight, bias, windows.strides, windows.before, extra, group, windows.dilations)
    full = run(x, weight, None, windows.strides, 0, 0, group, windows.dilations)
    before, sizes = _cut(call, windows, extra)
    after = [size - have + cut for size, have, cut in zip(sizes, full.shape[2:], before, strict=True)]
    y = pad_ends(full, [-cut for cut in before], after)
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in sizes))


def _is_plain(call: Call, windows: Windows, extra: tuple[int, ...]) -> bool:
    """Say whether torch's own padding means the same."""
    is_given = "output_shape" in call.attributes or call.attributes.get("auto_pad", "NOTSET").startswith("SAME")
    limits = [max(s, d) for s, d in zip(windows.strides, windows.dilations, strict=True)]
    return windows.is_symmetric and not is_given and all(e < n for e, n in zip(extra, limits, strict=True))


def _cut(call: Call, windows: Windows, extra: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what is cut off in front, and the sizes of the output."""
    mode = call.attributes.get("auto_pad", "NOTSET")
    axes = zip(windows.sizes, windows.strides, windows.extents, extra, strict=True)
    reach = [(n - 1) * s + e + more for n, s, e, more in axes]
    if "output_shape" in call.attributes:
        sizes = tuple(call.attributes["output_shape"])[-len(reach) :]
    elif mode.startswith("SAME"):
        sizes = tuple(n * s for n, s in zip(windows.sizes, windows.strides, strict=True))
    else:
        ends = zip(reach, windows.before, windows.after, strict=True)
        return windows.before, tuple(r - b - a for r, b, a in ends)
    before, _ = halves([max(r - size, 0) for r, size in zip(reach, sizes, strict=True)], mode)
    return before, sizes


OPERATORS: Mapping[str, Operator] = {"Conv": conv, "ConvTranspose": conv_transpose}
