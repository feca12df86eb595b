"""Writing parts of a tensor: a new tensor, in which elements are replaced or combined."""

from collections.abc import Mapping
from math import prod

import torch

from fewbits.runtime.torch_operators.arguments import positive, together
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator
from fewbits.runtime.torch_operators.indexing import from_front

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(call: Call, inputs: Inputs) -> torch.Tensor:
    """Write single elements along an axis. Source: ONNX ScatterElements-18."""
    x, indices, updates = together(call, inputs)
    axis = positive(call, call.attributes.get("axis", 0), x.ndim)
    return _scatter(call, x, axis, from_front(indices, x.shape[axis], x.device), updates)


def scatter_nd(call: Call, inputs: Inputs) -> torch.Tensor:
    """Write slices at indices [..., k] into the first k axes. Source: ONNX ScatterND-18."""
    x, indices, updates = together(call, inputs)
    depth = indices.shape[-1]
    leading, rest = x.shape[:depth], x.shape[depth:]
    parts = [from_front(part, size, x.device) for part, size in zip(indices.unbind(-1), leading, strict=True)]
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for part, size in zip(parts, leading, strict=True):
        rows = rows * size + part
    values = updates.reshape(rows.numel(), prod(rest))
    places = rows.reshape(-1, 1).expand_as(values)
    return _scatter(call, x.reshape(prod(leading), prod(rest)), 0, places, values).reshape(x.shape)


def _scatter(call: Call, x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    reduction = call.attributes.get("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


OPERATORS: Mapping[str, Operator] = {
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
