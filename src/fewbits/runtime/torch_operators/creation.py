"""Operators that make tensors: of shapes, of numbers."""

from collections.abc import Mapping

import numpy as np
import torch

from fewbits.runtime.torch_operators.arguments import ints, lacks, needed, optional, scalar, to_tensor
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator
from fewbits.runtime.torch_operators.casting import dtype_of

_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def constant(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the tensor of an attribute. Source: ONNX Constant-13.

    Raises:
        ModelError: it is text, or sparse.
    """
    if "value" in call.attributes:
        return to_tensor(call, call.attributes["value"])
    for name, kind in _CONSTANTS.items():
        if name in call.attributes:
            return to_tensor(call, np.array(call.attributes[name], kind))
    raise lacks(call, f"the attribute {', '.join(call.attributes)}")


def constant_of_shape(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return a tensor of one value, float 0 where none is given. Source: ONNX ConstantOfShape-9."""
    value = to_tensor(call, call.attributes.get("value", np.zeros(1, np.float32)))
    return value.reshape(()).expand(ints(needed(call, inputs))).contiguous()


def shape_of(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the shape, or its entries from `start` to `end`, int64 on the CPU. Source: ONNX Shape-15."""
    part = slice(call.attributes.get("start", 0), call.attributes.get("end"))
    return torch.tensor(list(needed(call, inputs).shape)[part], dtype=torch.int64)


def size_of(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the number of elements, int64 on the CPU. Source: ONNX Size-13."""
    return torch.tensor(needed(call, inputs).numel(), dtype=torch.int64)


def number_range(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the numbers from start to limit by delta. Source: ONNX Range-11."""
    start, limit, delta = (needed(call, inputs, position) for position in range(3))
    return torch.arange(scalar(start), scalar(limit), scalar(delta), dtype=start.dtype, device=start.device)


def eye_like(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return ones on the k-th diagonal, in the shape of the input. Source: ONNX EyeLike-22."""
    x = needed(call, inputs)
    dtype = dtype_of(call, "dtype") if "dtype" in call.attributes else x.dtype
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return torch.eq(rows[:, None] + call.attributes.get("k", 0), columns).to(dtype)


def one_hot(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return `on` at the index along a new axis, else `off`; no index out of range is on. Source: ONNX OneHot-11."""
    indices, depth, values = needed(call, inputs), int(scalar(needed(call, inputs, 1))), needed(call, inputs, 2)
    axis = call.attributes.get("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    places = indices.to(values.device, torch.int64).unsqueeze(axis)
    places = torch.where(places < 0, places + depth, places)
    classes = torch.arange(depth, device=values.device).reshape(-1, *(1 for _ in range(indices.ndim - axis)))
    off, on = values.unbind()
    return torch.where(classes == places, on, off)


def trilu(call: Call, inputs: Inputs) -> torch.Tensor:
    """Keep the upper or lower triangle of matrices [..., N, M]. Source: ONNX Trilu-14."""
    x, k = needed(call, inputs), optional(inputs, 1)
    diagonal = 0 if k is None else int(scalar(k))
    return torch.triu(x, diagonal) if call.attributes.get("upper", 1) else torch.tril(x, diagonal)


OPERATORS: Mapping[str, Operator] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape_of,
    "Size": size_of,
    "Range": number_range,
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "Trilu": trilu,
}
