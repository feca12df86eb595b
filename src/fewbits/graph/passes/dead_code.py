"""Nodes and initializers that no output depends on are removed."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from fewbits.graph.naming import all_nodes
from fewbits.graph.passes.base import PassResult

NAME = "dead-code"


def run(model: ir.Model) -> PassResult:
    """Remove what does not reach an output; the inputs and outputs of the model stay."""
    before = _parts(model)
    names = {value: value.name for node in all_nodes(model) for value in node.outputs}
    nodes = list(model.graph)
    while RemoveUnusedNodesPass()(model).modified and _release(nodes):
        pass
    for value in (value for node in all_nodes(model) for value in node.outputs):
        value.name = value.name or names[value]  # ONNX Runtime loads no LayerNormalization without its second of three
    after = set(_parts(model))
    return PassResult(tuple(f"removed {part}" for part in before if part not in after))


def _release(nodes: list[ir.Node]) -> bool:
    """Let the bodies of removed nodes read nothing more: what they read would stay. Return whether one did."""
    gone = [node for node in nodes if node.graph is None]
    bodies = [a.as_graph() for node in gone for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    inner = [node for body in bodies for node in ir.traversal.RecursiveGraphIterator(body)]
    edges = [(node, i) for node in inner for i, value in enumerate(node.inputs) if value is not None]
    for node, position in edges:
        node.replace_input_with(position, None)
    handed = sum(len(body.outputs) for body in bodies)
    for body in bodies:
        body.outputs.clear()
    return bool(edges or handed)


def _parts(model: ir.Model) -> list[str]:
    nodes = [f"{node.op_type} {node.name!r}" for node in all_nodes(model)]
    return nodes + [f"initializer {name!r}" for graph in model.graphs() for name in graph.initializers]
