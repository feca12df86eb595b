"""Pad: constants around a tensor, or its own elements repeated."""

from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import ints, lacks, needed, optional, positive, scalar
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator
from fewbits.runtime.torch_operators.windows import pad_ends


def pad(call: Call, inputs: Inputs) -> torch.Tensor:
    """Pad, or cut where an amount is negative. Source: ONNX Pad-2 (attributes), Pad-25."""
    x, mode = needed(call, inputs), call.attributes.get("mode", "constant")
    before, after = _amounts(call, inputs, x.ndim)
    if mode == "constant":
        return pad_ends(x, before, after, _value(call, inputs))
    for axis in range(x.ndim):
        if before[axis] or after[axis]:
            places = torch.arange(-before[axis], x.shape[axis] + after[axis], device=x.device)
            x = x.index_select(axis, _inside(call, mode, places, x.shape[axis]))
    return x


def _amounts(call: Call, inputs: Inputs, rank: int) -> tuple[list[int], list[int]]:
    """Return what is added in front of and after every axis."""
    pads = list(call.attributes["pads"]) if call.opset < 11 else ints(needed(call, inputs, 1))
    named = optional(inputs, 3)
    axes = range(rank) if named is None else [positive(call, axis, rank) for axis in ints(named)]
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    return before, after


def _value(call: Call, inputs: Inputs) -> float:
    if call.opset < 11:
        return float(call.attributes.get("value", 0.0))
    value = optional(inputs, 2)
    return 0 if value is None or value.numel() == 0 else scalar(value)


def _inside(call: Call, mode: str, places: torch.Tensor, size: int) -> torch.Tensor:
    """Return the element of an axis that stands for each place, which may be before or after it."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = places % period
        return torch.minimum(folded, period - folded).clamp(0, size - 1)
    raise lacks(call, f"the mode {mode!r}")


OPERATORS: Mapping[str, Operator] = {"Pad": pad}
