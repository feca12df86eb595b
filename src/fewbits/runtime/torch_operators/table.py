"""The operators that the torch executor has, by name, and how a node of a graph becomes a `Call`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.runtime.torch_operators import (
    activations,
    attention,
    casting,
    comparison,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    padding,
    pooling,
    recurrent,
    reduction,
    resize,
    sampling,
    scattering,
    selection,
    shape,
)
from fewbits.runtime.torch_operators.call import Call, Operator

_GROUPS = (
    elementwise, comparison, activations, linear, convolution, pooling, normalization, reduction, shape, creation,
    casting, padding, indexing, scattering, selection, resize, sampling, recurrent,
    attention,
)  # fmt: skip

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {op: run for group in _GROUPS for op, run in group.OPERATORS.items()}
)
"""Operator of ONNX's own domain -> how it is computed. All opsets from 7 on."""


def attributes_of(node: ir.Node) -> Mapping[str, Any]:
    """Return a node's attributes: numbers, text, tuples of these, numpy arrays for tensors.

    Raises:
        ModelError: an attribute is a graph, or refers to one of a surrounding function.
    """
    return {name: _value(node, attribute) for name, attribute in node.attributes.items()}


def call_of(node: ir.Node, opset: int) -> Call:
    """Return a node as its operator reads it.

    Args:
        node: of a graph.
        opset: the version of the node's domain that the graph imports.

    Raises:
        ModelError: see `attributes_of`.
    """
    return Call(
        name=node.name or f"{node.op_type} without a name",
        op=node.op_type,
        domain="" if node.domain == "ai.onnx" else node.domain,
        opset=opset,
        attributes=attributes_of(node),
        outputs=tuple(bool(value.name) for value in node.outputs),
    )


def _value(node: ir.Node, attribute: ir.Attr) -> Any:
    if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise ModelError(
            f"The torch executor cannot read the attribute {attribute.name!r} of {node.op_type} {node.name!r}: it runs "
            f"no control flow and no function bodies; inline them, or use the methods that run in onnxruntime."
        )
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    value = attribute.value
    return tuple(value) if isinstance(value, list | tuple) else value
