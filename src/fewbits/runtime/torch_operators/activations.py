"""Activation functions."""

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import is_readable, needed, of_one, optional, positive, scalar, together
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def clip(call: Call, inputs: Inputs) -> torch.Tensor:
    """Limit to [min, max]; where min is above max, all becomes max. Source: ONNX Clip-6 (attributes), Clip-13."""
    x = needed(call, inputs)
    if call.opset < 11:
        lowest, highest = call.attributes.get("min"), call.attributes.get("max")
    else:
        low, high = optional(inputs, 1), optional(inputs, 2)
        if not all(bound is None or is_readable(bound) for bound in (low, high)):
            x = x if low is None else torch.maximum(x, low.to(x.device))
            return x if high is None else torch.minimum(x, high.to(x.device))
        lowest, highest = (None if bound is None else scalar(bound) for bound in (low, high))
    if lowest is not None and highest is not None and x.is_floating_point() and lowest <= highest:
        return functional.hardtanh(x, lowest, highest)  # as clamp, with a gradient in one pass instead of four
    return x if lowest is None and highest is None else torch.clamp(x, lowest, highest)


def leaky_relu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Scale what is negative by alpha. Source: ONNX LeakyRelu-16."""
    return functional.leaky_relu(needed(call, inputs), call.attributes.get("alpha", 0.01))


def prelu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Scale what is negative by a slope that broadcasts. Source: ONNX PRelu-16."""
    x, slope = together(call, inputs)
    return torch.where(x < 0, x * slope, x)


def thresholded_relu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Keep what is above alpha, else zero. Source: ONNX ThresholdedRelu-10."""
    return functional.threshold(needed(call, inputs), call.attributes.get("alpha", 1.0), 0.0)


def elu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return x, or alpha (e^x - 1) below zero. Source: ONNX Elu-6."""
    return functional.elu(needed(call, inputs), call.attributes.get("alpha", 1.0))


def celu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return x, or alpha (e^(x / alpha) - 1) below zero. Source: ONNX Celu-12."""
    return functional.celu(needed(call, inputs), call.attributes.get("alpha", 1.0))


def selu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return gamma times Elu. Source: ONNX Selu-6."""
    alpha: float = call.attributes.get("alpha", 1.67326319217681884765625)
    gamma: float = call.attributes.get("gamma", 1.05070102214813232421875)
    return functional.elu(needed(call, inputs), alpha) * gamma


def gelu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return x times the normal distribution's share below x, exact or by tanh. Source: ONNX Gelu-20."""
    return functional.gelu(needed(call, inputs), approximate=call.attributes.get("approximate", "none"))


def hard_sigmoid(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return alpha x + beta, limited to [0, 1]. Source: ONNX HardSigmoid-6."""
    slope, shift = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    return torch.clamp(needed(call, inputs) * slope + shift, 0.0, 1.0)


def swish(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return x sigmoid(alpha x). Source: ONNX Swish-24."""
    x, alpha = needed(call, inputs), call.attributes.get("alpha", 1.0)
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def shrink(call: Call, inputs: Inputs) -> torch.Tensor:
    """Move towards zero by bias what is beyond +-lambd, drop the rest. Source: ONNX Shrink-9."""
    x, bias, bound = needed(call, inputs), call.attributes.get("bias", 0.0), call.attributes.get("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, zero)).to(x.dtype)


def hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return 1 at the first maximum along an axis, else 0. Source: ONNX Hardmax-13."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _along_axis(function: Callable[[torch.Tensor, int], torch.Tensor]) -> Operator:
    """Return an operator along one axis (opset 13), or along all from `axis` on as one (before)."""

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        x = needed(call, inputs)
        if call.opset >= 13:
            return function(x, positive(call, call.attributes.get("axis", -1), x.ndim))
        axis = positive(call, call.attributes.get("axis", 1), x.ndim)
        return function(x.reshape(prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return operator


OPERATORS: Mapping[str, Operator] = {
    "Relu": of_one(torch.relu),
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "ThresholdedRelu": thresholded_relu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Gelu": gelu,
    "Softplus": of_one(functional.softplus),
    "Softsign": of_one(functional.softsign),
    "Mish": of_one(functional.mish),
    "Sigmoid": of_one(torch.sigmoid),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": of_one(functional.hardswish),
    "Swish": swish,
    "Tanh": of_one(torch.tanh),
    "Shrink": shrink,
    "Softmax": _along_axis(torch.softmax),
    "LogSoftmax": _along_axis(torch.log_softmax),
    "Hardmax": _along_axis(hardmax),
}
