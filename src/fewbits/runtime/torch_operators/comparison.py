"""Operators whose result is true or false, and the choice by it."""

from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import needed, of_one, of_two, together
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def is_inf(call: Call, inputs: Inputs) -> torch.Tensor:
    """Say which elements are infinite, of the signs asked for. Source: ONNX IsInf-20."""
    x = needed(call, inputs)
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attributes.get("detect_positive", 1):
        found = found | torch.isposinf(x)
    if call.attributes.get("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found


def where(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take the second input where the first is true, else the third. Source: ONNX Where-16."""
    condition, chosen, other = together(call, inputs)
    return torch.where(condition, chosen, other)


OPERATORS: Mapping[str, Operator] = {
    "Equal": of_two(torch.eq),
    "Less": of_two(torch.lt),
    "LessOrEqual": of_two(torch.le),
    "Greater": of_two(torch.gt),
    "GreaterOrEqual": of_two(torch.ge),
    "And": of_two(torch.logical_and),
    "Or": of_two(torch.logical_or),
    "Xor": of_two(torch.logical_xor),
    "Not": of_one(torch.logical_not),
    "IsNaN": of_one(torch.isnan),
    "IsInf": is_inf,
    "Where": where,
}
