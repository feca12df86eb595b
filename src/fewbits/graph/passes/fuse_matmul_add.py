"""MatMul + Add of a constant vector becomes one Gemm, where the input has rank 2: Gemm knows no other rank."""

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

NAME = "fuse-matmul-add"


def run(model: ir.Model) -> PassResult:
    """Fuse each pair that fits; the Gemm keeps the node name of the MatMul and the value name of the Add."""
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
            _fuse(model, node, add, bias)
        except Declined as reason:
            declined.append(Skipped(str(node.name), str(reason)))
            continue
        changed.append(f"MatMul {node.name!r} and Add {name!r} became Gemm {node.name!r}")
    return PassResult(tuple(changed), tuple(declined))


def _bias(node: ir.Node, add: ir.Node) -> ir.Value | None:
    """Return the constant that `add` adds to the result of `node`, or None where there is nothing to fuse."""
    if not is_onnx(add, "Add") or add.graph is not node.graph:
        return None
    others = [value for value in add.inputs if value is not node.outputs[0]]
    return others[0] if len(others) == 1 and is_constant(others[0]) else None


def _fuse(model: ir.Model, node: ir.Node, add: ir.Node, bias: ir.Value) -> None:
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weight is not None
    assert bias.const_value is not None
    array = np.asarray(bias.const_value.numpy())
    columns = constant_shape(weight)
    assert columns is not None
    if source.shape is None or len(source.shape) != 2 or len(columns) != 2:
        rank = "an unknown rank" if source.shape is None else f"rank {len(source.shape)}"
        raise Declined(f"its input has {rank}, and Gemm takes rank 2 only")
    if array.shape not in ((columns[1],), (1, columns[1])):
        raise Declined(f"the constant {bias.name!r} it adds has the shape {list(array.shape)}, not [{columns[1]}]")
    if array.ndim == 2:
        bias = add_initializer(model, f"{bias.name}_flat", array.reshape(-1))
    node.op_type = "Gemm"
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    take_over(add.outputs[0], node.outputs[0])
