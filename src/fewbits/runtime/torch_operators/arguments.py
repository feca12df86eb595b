"""Reading what a node gives: inputs that must be there, shapes as lists, tensors brought to one device."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch

from fewbits.errors import ModelError
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def lacks(call: Call, what: str) -> ModelError:
    """Return the error for a node that needs something its operator in torch does not do.

    Args:
        call: the node.
        what: what is not done, as the object of "does not support".
    """
    return ModelError(
        f"The torch executor's {call.op} does not support {what}, which node {call.name!r} needs: change the node, or "
        f"use the methods that run in onnxruntime."
    )


def needed(call: Call, inputs: Inputs, position: int = 0) -> torch.Tensor:
    """Return an input that the operator cannot do without.

    Raises:
        ModelError: it is left out.
    """
    found = optional(inputs, position)
    if found is None:
        raise ModelError(f"{call.op} {call.name!r} has no input {position}: the model is not valid; mend its export.")
    return found


def optional(inputs: Inputs, position: int) -> torch.Tensor | None:
    """Return an input, or None where it is left out."""
    return inputs[position] if position < len(inputs) else None


def together(call: Call, inputs: Inputs) -> list[torch.Tensor]:
    """Return all inputs on one device: that of the accelerator where any of them is there.

    Raises:
        ModelError: an input is left out.
    """
    found = [needed(call, inputs, position) for position in range(len(inputs))]
    device = next((t.device for t in found if t.device.type != "cpu"), None)
    return found if device is None else [t.to(device) for t in found]


def ints(tensor: torch.Tensor) -> list[int]:
    """Return the elements of a shape, of axes or the like."""
    return [int(element) for element in tensor.reshape(-1).tolist()]


def ints_at(call: Call, inputs: Inputs, position: int, attribute: str, *, until: int) -> list[int] | None:
    """Return integers that were an attribute before opset `until` and are an input since; None where left out."""
    if call.opset < until:
        found = call.attributes.get(attribute)
        return None if found is None else [int(element) for element in found]
    tensor = optional(inputs, position)
    return None if tensor is None else ints(tensor)


def positive(call: Call, axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        ModelError: a tensor of `rank` axes has no such axis.
    """
    if not -rank <= axis < rank:
        raise ModelError(f"{call.op} {call.name!r} has axis {axis}, but its tensor has {rank} axes: mend the model.")
    return axis % rank if rank else axis


def is_readable(tensor: torch.Tensor) -> bool:
    """Say whether the numbers of a tensor can be read without waiting for a device or losing a gradient."""
    return tensor.device.type == "cpu" and not tensor.requires_grad


def scalar(tensor: torch.Tensor) -> float | int | bool:
    """Return the one element of a tensor as Python holds it."""
    element: float | int | bool = tensor.reshape(-1)[0].item()
    return element


def to_tensor(call: Call, array: Any) -> torch.Tensor:
    """Return the tensor of an attribute.

    Raises:
        ModelError: torch has no such type.
    """
    values = np.array(array)
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(values)
    except TypeError as error:
        raise lacks(call, f"tensors of type {values.dtype}") from error


def of_one(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    """Return the operator that applies a function of one tensor."""

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        return function(needed(call, inputs))

    return operator


def of_two(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    """Return the operator that applies a function of two tensors, which broadcast."""

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        first, second = together(call, inputs)
        return function(first, second)

    return operator
