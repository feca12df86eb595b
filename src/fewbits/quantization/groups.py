"""Groups: the smallest sets of nodes that change precision together."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.topology import fusions, op_rule
from fewbits.quantization.profile import Profile, float_reasons
from fewbits.spec.optable import Kind
from fewbits.spec.precision import FP32, Precision
from fewbits.spec.target import Target


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that always have one precision: a head, what is fused with it, and what only passes its values on.

    Attributes:
        name: of its head.
        op: the head's operator.
        nodes: names of all its nodes, in the graph's order.
    """

    name: str
    op: str
    nodes: tuple[str, ...]


def find_groups(graph: ir.Graph, target: Target) -> tuple[Group, ...]:
    """Return the groups of a prepared graph in its order; nodes that stay in float32 anyway are in none of them."""
    fused = fusions(graph, target.fused, target.left_float)
    floats = float_reasons(graph, target)
    owners: dict[ir.Node, ir.Node] = {}
    members: dict[ir.Node, list[str]] = {}
    for node in graph:
        if node in floats or (node in fused and fused[node] not in owners):
            continue  # what follows a head that stays in float stays there with it
        head = _head(node, fused, owners)
        owners[node] = head
        members.setdefault(head, []).append(str(node.name))
    return tuple(Group(str(head.name), head.op_type, tuple(names)) for head, names in members.items())


def profile_of(groups: Mapping[Group, Precision], default: Precision = FP32) -> Profile:
    """Return the profile in which each of `groups` has its precision and everything else the default."""
    return Profile(default, {node: precision for group, precision in groups.items() for node in group.nodes})


def _head(node: ir.Node, fused: Mapping[ir.Node, ir.Node], owners: Mapping[ir.Node, ir.Node]) -> ir.Node:
    if node in fused:
        return owners[fused[node]]
    rule = op_rule(node)
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if rule is not None and rule.kind is Kind.PASS and source is not None:
        return owners.get(source, node)
    return node
