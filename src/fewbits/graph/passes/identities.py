"""Nodes that hand their input on unchanged are removed; the names of the graph's outputs are kept."""

import onnx_ir as ir

from fewbits.graph.passes.base import Declined, PassResult, Skipped, constant, take_over
from fewbits.graph.shapes import static_shape

NAME = "remove-identities"


def run(model: ir.Model) -> PassResult:
    """Remove Identity, idle Dropout, and each Cast, Transpose, Reshape, Pad and Concat that changes nothing."""
    changed, declined = [], []
    for node in list(model.graph):
        if not _is_identity(node):
            continue
        label = f"{node.op_type} {node.name!r}"
        try:
            _bypass(node)
        except Declined as reason:
            declined.append(Skipped(str(node.name), str(reason)))
            continue
        changed.append(f"removed {label}")
    return PassResult(tuple(changed), tuple(declined))


def _is_identity(node: ir.Node) -> bool:
    if not node.inputs or node.inputs[0] is None:
        return False
    source = node.inputs[0]
    match node.op_type if node.domain == "" else "":
        case "Identity":
            return True
        case "Dropout":
            return _is_idle_dropout(node)
        case "Cast":
            return source.dtype is not None and source.dtype == node.attributes.get_int("to", 0)
        case "Transpose":
            perm = node.attributes.get_ints("perm")
            return perm is not None and list(perm) == sorted(perm)
        case "Reshape":
            shape = static_shape(source)
            return shape is not None and shape == static_shape(node.outputs[0])
        case "Pad":
            pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            return pads is not None and not pads.any()
        case "Concat" | "Sum" | "Max" | "Min" | "Mean":
            return len(node.inputs) == 1
    return False


def _is_idle_dropout(node: ir.Node) -> bool:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = constant(node.inputs[2])
    return training is not None and not training.any()


def _bypass(node: ir.Node) -> None:
    """Let the input of `node` stand for its output."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if not result.is_graph_output():
        result.replace_all_uses_with(source)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        return
    if source.producer() is None or source.is_graph_output() or source.graph is not node.graph:
        kind = "another output" if source.is_graph_output() else "an input or constant"
        raise Declined(f"it hands out {kind} of the graph under the output name {result.name!r}")
    take_over(result, source)
