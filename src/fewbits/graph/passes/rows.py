"""See a tensor [..., K] as rows [R, K], R the product of the other dimensions, and back: what Gemm needs for rank 3 on.

A Reshape that only undid the one before it is not made: rows are taken from where they came, past activations too.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fewbits.graph.naming import all_nodes, unique_name, value_names
from fewbits.graph.passes.base import Declined, add_initializer, is_constant, is_onnx

_ELEMENTWISE = (
    "Relu", "Clip", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Gelu", "Softplus", "Softsign", "Mish",
    "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs",
)  # fmt: skip


def leading_dims(x: ir.Value) -> tuple[int, ...]:
    """Return the dimensions of x [..., K] before the last as a Reshape takes them, -1 for the open one.

    Raises:
        Declined: the rank or K is not known, two dimensions are open, or one is 0.
    """
    if x.shape is None or len(x.shape) < 2:
        rank = "an unknown rank" if x.shape is None else f"rank {len(x.shape)}"
        raise Declined(f"its input has {rank}, and Gemm takes rank 2")
    *leading, last = x.shape
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in leading)
    if not isinstance(last, int):
        raise Declined(f"the last dimension of its input {x.name!r} is not known")
    if dims.count(-1) > 1:
        raise Declined(f"its input has the shape {x.shape}, and a Reshape can leave one dimension open, not more")
    if 0 in dims:
        raise Declined(f"its input has the shape {x.shape}, which is empty")
    return dims


def to_rows(model: ir.Model, x: ir.Value) -> ir.Value:
    """Return x [..., K] as [R, K]; all that ask for the rows of `x` get the same value."""
    assert x.shape is not None
    return _rows_before(x) or _rows_through(x) or _shared_reshape(model, x)


def from_rows(model: ir.Model, rows: ir.Value, dims: Sequence[int], name: str) -> ir.Node:
    """Return a new Reshape node, in no graph yet, that makes `rows` [R, N] a tensor [*dims, N]."""
    assert rows.shape is not None
    assert isinstance(rows.shape[1], int)
    return _reshape(model, rows, [*dims, rows.shape[1]], name)


def row_shape(dims: Sequence[int], last: int) -> ir.Shape:
    """Return the shape [R, last] for the leading dimensions `dims`, R open where one of them is."""
    return ir.Shape([None if -1 in dims else math.prod(dims), last])


def _rows_before(x: ir.Value) -> ir.Value | None:
    """Return the rows that a Reshape made `x` from, or None."""
    node = x.producer()
    if node is None or not is_onnx(node, "Reshape") or x.shape is None:
        return None
    rows = node.inputs[0]
    if rows is None or rows.shape is None or len(rows.shape) != 2 or rows.shape[1] != x.shape[-1]:
        return None
    return rows if isinstance(rows.shape[1], int) else None


def _rows_through(x: ir.Value) -> ir.Value | None:
    """Move the activations between a Reshape and `x` before it and return `x`; None where others need their rank."""
    path, at = list[ir.Node](), x
    while (node := at.producer()) is not None and is_onnx(node, *_ELEMENTWISE) and node.inputs[0] is not None:
        if at.is_graph_output() or len(at.uses()) != 1:
            return None
        path.append(node)
        at = node.inputs[0]
    rows = _rows_before(at) if path else None
    if rows is None:
        return None
    path[-1].replace_input_with(0, rows)
    for node in path:
        node.outputs[0].shape = rows.shape
    return x


def _shared_reshape(model: ir.Model, x: ir.Value) -> ir.Value:
    """Return what a Reshape to [-1, K], placed right behind `x`, gives; one that is there already is taken."""
    assert x.shape is not None
    last = x.shape[-1]
    assert isinstance(last, int)
    node = next((use.node for use in x.uses() if use.node.graph is model.graph and _gives_rows(use.node, last)), None)
    if node is None:
        node = _reshape(model, x, [-1, last], f"{x.name}_rows")
    else:
        model.graph.remove(node)  # it may stand behind the node that asks
    producer = x.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], node)
    else:
        model.graph.insert_after(producer, node)
    return node.outputs[0]


def _gives_rows(node: ir.Node, last: int) -> bool:
    return is_onnx(node, "Reshape") and _holds(node.inputs[1], [-1, last])


def _reshape(model: ir.Model, source: ir.Value, dims: list[int], name: str) -> ir.Node:
    """Return a new Reshape node; equal shapes share one constant, as onnxslim would have it."""
    target = next((value for value in model.graph.initializers.values() if _holds(value, dims)), None)
    if target is None:
        target = add_initializer(model, f"{name}_shape", np.array(dims, np.int64))
    node = ir.node("Reshape", [source, target], name=unique_name(name, {str(n.name) for n in all_nodes(model)}))
    node.outputs[0].name = unique_name(name, value_names(model))
    node.outputs[0].type = source.type
    return node


def _holds(value: ir.Value | None, numbers: list[int]) -> bool:
    tensor = value.const_value if value is not None and is_constant(value) else None
    if tensor is None or tensor.dtype != ir.DataType.INT64 or tuple(tensor.shape.numpy()) != (len(numbers),):
        return False
    return bool(tensor.numpy().tolist() == numbers)
