"""Normalizations."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import lacks, needed, optional, positive
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator, Outputs

_HALVES = (torch.float16, torch.bfloat16)


def layer_normalization(call: Call, inputs: Inputs) -> Outputs:
    """Normalize over the axes from `axis` on, scale and shift. Source: ONNX LayerNormalization-17.

    Mean and inverse deviation, where wanted, are float32 for halves.
    """
    x, scale, bias = needed(call, inputs), needed(call, inputs, 1), optional(inputs, 2)
    axis, epsilon = positive(call, call.attributes.get("axis", -1), x.ndim), call.attributes.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    if not any(call.outputs[1:]) and scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    axes, wide = tuple(range(axis, x.ndim)), _wide(x)
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    y = (centred * inverse).to(x.dtype) * scale
    y = y if bias is None else y + bias
    return y if len(call.outputs) == 1 else (y, mean, inverse)[: len(call.outputs)]


def rms_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Divide by the root mean square over the axes from `axis` on, scale. Source: ONNX RMSNormalization-23."""
    x, scale = needed(call, inputs), needed(call, inputs, 1)
    axis, epsilon = positive(call, call.attributes.get("axis", -1), x.ndim), call.attributes.get("epsilon", 1e-5)
    if scale.shape == x.shape[axis:]:
        return functional.rms_norm(x, x.shape[axis:], scale, epsilon)
    wide = _wide(x)
    power = (wide * wide).mean(tuple(range(axis, x.ndim)), keepdim=True)
    return (wide * torch.rsqrt(power + epsilon)).to(x.dtype) * scale


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float32) if x.dtype in _HALVES else x


def instance_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Normalize every channel of every sample, scale and shift. Source: ONNX InstanceNormalization-22."""
    x, scale, bias = needed(call, inputs), needed(call, inputs, 1), needed(call, inputs, 2)
    return torch.group_norm(x, x.shape[1], scale, bias, call.attributes.get("epsilon", 1e-5))


def group_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Normalize groups of channels, scale and shift. Source: ONNX GroupNormalization-18 (per group), -21."""
    x, scale, bias = needed(call, inputs), needed(call, inputs, 1), needed(call, inputs, 2)
    groups = call.attributes["num_groups"]
    if call.opset < 21:
        scale, bias = (p.repeat_interleave(x.shape[1] // groups) for p in (scale, bias))
    return torch.group_norm(x, groups, scale, bias, call.attributes.get("epsilon", 1e-5))


def batch_normalization(call: Call, inputs: Inputs) -> Outputs:
    """Normalize channels by stored statistics, scale and shift. Source: ONNX BatchNormalization-15, inference.

    Raises:
        ModelError: in training mode, or per element (`spatial` 0).
    """
    if call.attributes.get("training_mode", 0) or any(call.outputs[1:]):
        raise lacks(call, "training mode")
    if not call.attributes.get("spatial", 1):
        raise lacks(call, "statistics per element (spatial 0)")
    x, scale, bias, mean, variance = (needed(call, inputs, position) for position in range(5))
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, call.attributes.get("epsilon", 1e-5))


def local_response_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Divide by a power of the mean square over neighbouring channels. Source: ONNX LRN-13."""
    x, size = needed(call, inputs), call.attributes["size"]
    ends = [(size - 1) // 2, size - 1 - (size - 1) // 2]
    squares = functional.pad(x * x, [0, 0] * (x.ndim - 2) + ends).unfold(1, size, 1).sum(-1)
    alpha, beta = call.attributes.get("alpha", 1e-4), call.attributes.get("beta", 0.75)
    return x / torch.pow(squares * (alpha / size) + call.attributes.get("bias", 1.0), beta)


def lp_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Divide by the norm of order p along an axis; what has none stays zero. Source: ONNX LpNormalization-22."""
    x, axis = needed(call, inputs), call.attributes.get("axis", -1)
    norm = torch.linalg.vector_norm(x, call.attributes.get("p", 2), axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def mean_variance_normalization(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return (x - mean) / (deviation + 1e-9) over `axes`. Source: body of ONNX MeanVarianceNormalization-13."""
    x, axes = needed(call, inputs), tuple(call.attributes.get("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)


OPERATORS: Mapping[str, Operator] = {
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "BatchNormalization": batch_normalization,
    "LRN": local_response_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
