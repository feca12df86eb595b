"""Where quantizing a group adds noise: the edges that it reads, the tensors that it writes, its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.topology import constant, is_float32, op_rule
from fewbits.quantization.groups import Group
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

Edge = tuple[str, int]
"""(node, input position)."""


@dataclass(frozen=True, slots=True)
class Locations:
    """Places of one group where a grid, or float16, changes values.

    Attributes:
        group: the group.
        edges: inputs of its nodes that carry data from outside of it.
        outputs: tensors that its nodes write.
        layers: nodes of it that read constants (weights, biases, other parameters).
    """

    group: Group
    edges: tuple[Edge, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]


def locate(graph: ir.Graph, groups: Sequence[Group]) -> tuple[Locations, ...]:
    """Return the locations of every group; which of them a precision quantizes is for its plan to say."""
    nodes = {str(node.name): node for node in graph}
    return tuple(_locate(group, [nodes[name] for name in group.nodes]) for group in groups)


def _locate(group: Group, nodes: Sequence[ir.Node]) -> Locations:
    own = {value for node in nodes for value in node.outputs}
    edges, layers = [], []
    for node in nodes:
        floats = [(i, v) for i, v in enumerate(node.inputs) if is_float32(v)]
        edges += [(str(node.name), i) for i, v in floats if v not in own and constant(v) is None]
        if any(constant(v) is not None for _, v in floats):
            layers.append(str(node.name))
    outputs = tuple(str(value.name) for value in own_in_order(nodes) if is_float32(value))
    return Locations(group, tuple(edges), outputs, tuple(layers))


def own_in_order(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """Return what `nodes` write, in their order."""
    return [value for node in nodes for value in node.outputs if value.name]


def written_anew(graph: ir.Graph, plan: Plan, place: Locations) -> dict[str, str]:
    """Return tensor -> grid key for what a group writes on a grid that its values are not on already.

    What passes values through (or joins them) onto the grid that it reads adds no noise of its own.
    """
    producers: Mapping[str, ir.Node] = {str(v.name): node for node in graph for v in node.outputs}
    found = {}
    for tensor in place.outputs:
        key = plan.outputs.get(tensor)
        if key is None:
            continue
        node = producers[tensor]
        rule = op_rule(node)
        passes = rule is not None and rule.kind in (Kind.PASS, Kind.CONCAT)
        read = {plan.source(k) for i in range(len(node.inputs)) if (k := plan.inputs.get((str(node.name), i)))}
        if not (passes and read == {plan.source(key)}):
            found[tensor] = key
    return found


def read_anew(plan: Plan, place: Locations) -> dict[Edge, str]:
    """Return edge -> grid key for the data that a group reads from outside."""
    keys = {edge: plan.inputs.get(edge) for edge in place.edges}
    return {edge: key for edge, key in keys.items() if key is not None and plan.grids[key].role is Role.ACTIVATION}


@dataclass(frozen=True, slots=True)
class Noisy:
    """Places of one group that a plan changes; grid key None stands for rounding to float16.

    Attributes:
        edges: what the group reads -> grid key.
        outputs: what it writes -> grid key.
        layers: nodes whose constants change.
        is_half: whether a node of it computes in float16.
    """

    edges: Mapping[Edge, str | None]
    outputs: Mapping[str, str | None]
    layers: tuple[str, ...]
    is_half: bool


def noisy_places(graph: ir.Graph, plan: Plan, place: Locations) -> Noisy:
    """Return the places of a group where a plan changes values."""
    half = {name for name in place.group.nodes if plan.nodes[name].precision == FP16}
    edges: dict[Edge, str | None] = {**read_anew(plan, place), **{e: None for e in place.edges if e[0] in half}}
    outputs: dict[str, str | None] = dict(written_anew(graph, plan, place))
    if half:
        outputs.update(dict.fromkeys(place.outputs))
    changed = half | {name for name, _ in plan.inputs}
    return Noisy(edges, outputs, tuple(name for name in place.layers if name in changed), bool(half))
