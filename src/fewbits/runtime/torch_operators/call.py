"""What an operator in torch is given and gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Inputs: TypeAlias = Sequence[torch.Tensor | None]
Outputs: TypeAlias = torch.Tensor | tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One node of a graph, ready to be computed again and again.

    Attributes:
        name: the node's name, for messages.
        op: operator.
        domain: "" for ONNX's own.
        opset: version of the domain that the graph imports.
        attributes: attribute -> int, float, str, tuple of these, or numpy array for tensors.
        outputs: for every output of the node, whether it is wanted (has a name).
    """

    name: str
    op: str
    domain: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: tuple[bool, ...]


Operator: TypeAlias = Callable[[Call, Inputs], Outputs]
"""(call, inputs in the node's order, None for those left out) -> the output, or one per entry of `call.outputs`.

Float tensors are on the module's device. Integer and boolean tensors may be anywhere: an operator that mixes them with
floats moves them to the floats' device. An operator never writes into what it was given.
"""
