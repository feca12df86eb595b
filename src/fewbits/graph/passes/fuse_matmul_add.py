"""MatMul + Add of a constant vector becomes one Gemm, whose bias is one int32 vector instead of an 8-bit Add.

Gemm knows rank 2 only. For x [..., K] of another rank: Reshape to [-1, K], Gemm, Reshape back.
"""

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import (
    Declined,
    PassResult,
    Skipped,
    add_initializer,
    constant_shape,
    is_constant,
    is_onnx,
    sole_reader,
    take_over,
)
from fewbits.graph.passes.rows import from_rows, leading_dims, row_shape, to_rows

NAME = "fuse-matmul-add"


def run(model: ir.Model) -> PassResult:
    """Fuse each pair that fits; the Gemm keeps the node name of the MatMul, its result the value name of the Add."""
    changed, declined = [], []
    for node in [node for node in model.graph if is_onnx(node, "MatMul") and is_constant(node.inputs[1])]:
        add, bias = next(
            ((use.node, b) for use in node.outputs[0].uses() if (b := _bias(node, use.node))), (None, None)
        )
        if add is None or bias is None:
            continue
        name = str(add.name)
        try:
            sole_reader(node.outputs[0])
            how = _fuse(model, node, add, bias)
        except Declined as reason:
            declined.append(Skipped(str(node.name), str(reason)))
            continue
        changed.append(f"MatMul {node.name!r} and Add {name!r} became Gemm {node.name!r}{how}")
    return PassResult(tuple(changed), tuple(declined))


def _bias(node: ir.Node, add: ir.Node) -> ir.Value | None:
    """Return the constant that `add` adds to the result of `node`, or None where there is nothing to fuse."""
    if not is_onnx(add, "Add") or add.graph is not node.graph:
        return None
    others = [value for value in add.inputs if value is not node.outputs[0]]
    return others[0] if len(others) == 1 and is_constant(others[0]) else None


def _fuse(model: ir.Model, node: ir.Node, add: ir.Node, bias: ir.Value) -> str:
    """Make `node` a Gemm that does the work of `add` too; return what had to be put around it."""
    source = node.inputs[0]
    assert source is not None
    columns = _columns(node)
    if is_constant(source):
        raise Declined("its input is a constant")
    if source.dtype is not None and not source.dtype.is_floating_point():
        raise Declined(f"its input has the type {source.dtype.name.lower()}, and runtimes know Gemm for floats")
    dims = leading_dims(source)
    vector = _vector(model, bias, columns, rank=len(dims) + 1)
    if len(dims) > 1:
        node.replace_input_with(0, to_rows(model, source))
    node.op_type = "Gemm"
    node.resize_inputs(3)
    node.replace_input_with(2, vector)
    if len(dims) == 1:
        take_over(add.outputs[0], node.outputs[0])
        return ""
    node.outputs[0].shape = row_shape(dims, columns)
    back = from_rows(model, node.outputs[0], dims, f"{node.name}_back")
    model.graph.insert_after(node, back)
    take_over(add.outputs[0], back.outputs[0])
    return " over rows"


def _columns(node: ir.Node) -> int:
    """Return N of the weight [K, N]."""
    shape = constant_shape(node.inputs[1])
    assert shape is not None
    if len(shape) != 2:
        raise Declined(f"its weight has rank {len(shape)}, and Gemm takes rank 2")
    return shape[1]


def _vector(model: ir.Model, bias: ir.Value, columns: int, *, rank: int) -> ir.Value:
    """Return `bias` [N] or [1, ..., N] as [N]."""
    assert bias.const_value is not None
    array = np.asarray(bias.const_value.numpy())
    if not 1 <= array.ndim <= rank or array.shape != (1,) * (array.ndim - 1) + (columns,):
        raise Declined(f"the constant {bias.name!r} it adds has the shape {list(array.shape)}, not [{columns}]")
    return bias if array.ndim == 1 else add_initializer(model, f"{bias.name}_flat", array.reshape(-1))
