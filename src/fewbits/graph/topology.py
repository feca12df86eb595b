"""Facts about a prepared graph that planning needs: which tensors carry data, which operators fuse, rules per node."""

from collections.abc import Container, Mapping

import numpy as np
import onnx_ir as ir

from fewbits.spec.optable import OP_TABLE, Kind, OpRule

_SHAPE_OPS = frozenset({"Shape", "Size"})


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a constant value (an initializer), or None when the value is computed or fed."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def is_float32(value: ir.Value | None) -> bool:
    """Whether `value` exists and is a float32 tensor (a value of unknown type is not)."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def data_values(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on what is fed into the graph, other than through its shapes."""
    carried: set[ir.Value] = set(graph.inputs)
    for node in graph:
        if node.op_type in _SHAPE_OPS:
            continue
        reads = [v for v in node.inputs if v is not None]
        if any(v in carried for v in reads) or any(v in carried for v in captured(node)):
            carried.update(node.outputs)
    return carried


def captured(node: ir.Node) -> set[ir.Value]:
    """Return the outer values that the bodies of a control-flow node read."""
    outer: set[ir.Value] = set()
    for attr in node.attributes.values():
        bodies = (
            [attr.value]
            if attr.type == ir.AttributeType.GRAPH
            else list(attr.value)
            if attr.type == ir.AttributeType.GRAPHS
            else []
        )
        for body in bodies:
            own: set[ir.Value] = set(body.inputs) | set(body.initializers.values())
            for inner in ir.traversal.RecursiveGraphIterator(body):
                own.update(inner.outputs)
            for inner in ir.traversal.RecursiveGraphIterator(body):
                outer.update(v for v in inner.inputs if v is not None and v not in own)
            outer.update(v for v in body.outputs if v not in own)
    return outer


def op_rule(node: ir.Node) -> OpRule | None:
    """Return the row of the op table for `node`, seen in its context; None when there is none.

    Resize is a pass-through only in nearest mode, Pad only when it pads zeros, Dropout only where it is switched off;
    AveragePool has no integer form with dilations.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    rule = OP_TABLE.get(node.op_type)
    if rule is None:
        return None
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "nearest":
        return OpRule(Kind.PASS, (0,))
    if node.op_type == "Pad" and not _pads_zeros(node):
        return OpRule(Kind.COMPUTE, (0,))
    return None if _is_float_form(node) else rule


def _is_float_form(node: ir.Node) -> bool:
    if node.op_type == "AveragePool":
        return any(step != 1 for step in node.attributes.get_ints("dilations", ()))
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        switch = constant(node.inputs[2])
        return switch is None or bool(np.any(switch.numpy()))
    return False


def _pads_zeros(node: ir.Node) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    value = constant(node.inputs[2])
    return value is not None and not np.any(value.numpy())


def data_positions(node: ir.Node, rule: OpRule) -> tuple[int, ...]:
    """Return the positions of float32 inputs that carry values through `node`."""
    positions = range(len(node.inputs)) if rule.data is None else rule.data
    found = [i for i in positions if i < len(node.inputs) and is_float32(node.inputs[i])]
    for position in (rule.weight, rule.bias):  # parameters that are computed are activations like any other
        if position is not None and position < len(node.inputs):
            value = node.inputs[position]
            if constant(value) is None and is_float32(value):
                found.append(position)
    return tuple(found)


def fusions(
    graph: ir.Graph, fused: Mapping[str, frozenset[str]], left_float: Container[str] = ()
) -> dict[ir.Node, ir.Node]:
    """Return follower -> head for every operator absorbed by the one before it.

    A follower is the only reader of its head's output, which is not an output of the graph; a chain has one follower.

    Args:
        graph: prepared.
        fused: operator -> operators that it absorbs.
        left_float: operators that absorb nothing and are not absorbed, since they stay in float.
    """
    found: dict[ir.Node, ir.Node] = {}
    for head in graph:
        allowed = fused.get(head.op_type, frozenset()) if _has_grids(head, left_float) else frozenset()
        out = head.outputs[0] if head.outputs else None
        if not allowed or out is None or head in found or out.is_graph_output():
            continue
        uses = list(out.uses())
        if len(uses) != 1 or uses[0].idx != 0 or not is_float32(out):
            continue
        follower = uses[0].node
        is_known = follower.graph is graph and _has_grids(follower, left_float)
        if is_known and follower.op_type in allowed and _bounds_constant(follower):
            found[follower] = head
    return found


def _has_grids(node: ir.Node, left_float: Container[str]) -> bool:
    return node.op_type not in left_float and op_rule(node) is not None


def _bounds_constant(node: ir.Node) -> bool:
    return all(v is None or constant(v) is not None for v in node.inputs[1:])


def channel_axis(node: ir.Node, weight_rank: int) -> int:
    """Return the axis of output channels in the weight of a LINEAR node.

    Conv [O, I, ...] -> 0; ConvTranspose [I, O / group, ...] -> 1; Gemm [K, N] -> 1, transposed 0; MatMul -> last.
    """
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return weight_rank - 1 if node.op_type == "MatMul" else 0


def input_axis(channel: int) -> int:
    """Return the axis of a LINEAR node's inputs in its weight, given that of its outputs (see `channel_axis`)."""
    return 1 if channel == 0 else channel - 1
