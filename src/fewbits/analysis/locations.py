"""Where quantizing a group adds noise: the edges that it reads, the tensors that it writes, its parameters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.graph.topology import constant, data_positions, is_float32, op_rule
from fewbits.quantization.groups import Group
from fewbits.quantization.half import FLOAT16_MAX
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

Edge = tuple[str, int]
"""(node, input position)."""

# Of values that are float16 already they hand on some, and compute none: nothing is left to be rounded. The leaky ones
# scale values too, small ones, and the rounding of those counts once with what they read.
_SELECTING = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Min", "Max", "Where", "Abs", "Neg", "Floor", "Ceil",
     "Round"}
)  # fmt: skip


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
class Whole:
    """A group computed with all its grids at once: they may fall together (x and c x), and add no noise twice."""

    head: str
    follower: str

    @property
    def names(self) -> tuple[str, ...]:
        """Its nodes."""
        return (self.head, self.follower) if self.follower else (self.head,)


@dataclass(frozen=True, slots=True)
class Noisy:
    """Places of one group that a plan changes; grid key None stands for rounding to float16.

    Attributes:
        edges: what the group reads -> grid key.
        outputs: what it writes -> grid key, without what `whole` writes.
        layers: nodes whose constants change.
        whole: head and follower, where they can be computed at once.
    """

    edges: Mapping[Edge, str | None]
    outputs: Mapping[str, str | None]
    layers: tuple[str, ...]
    whole: Whole | None


def noisy_places(graph: ir.Graph, plan: Plan, place: Locations) -> Noisy:
    """Return the places of a group where a plan changes values."""
    half = {name for name in place.group.nodes if plan.nodes[name].precision == FP16}
    nodes = [node for node in graph if str(node.name) in place.group.nodes]
    whole = None if half else _whole(nodes, plan)
    at_once = {str(value.name) for node in nodes if whole and str(node.name) in whole.names for value in node.outputs}
    edges: dict[Edge, str | None] = {**read_anew(plan, place), **{e: None for e in place.edges if e[0] in half}}
    outputs: dict[str, str | None] = {
        **{name: key for name, key in written_anew(graph, plan, place).items() if name not in at_once},
        **dict.fromkeys(_rounded_anew(nodes, half)),
    }
    changed = half | {name for name, _ in plan.inputs}
    return Noisy(edges, outputs, tuple(name for name in place.layers if name in changed), whole)


def _rounded_anew(nodes: Sequence[ir.Node], half: Collection[str]) -> list[str]:
    """Return what the fp16 nodes of a group round to float16 that is not float16 already."""
    floats = {value for node in nodes if str(node.name) not in half for value in node.outputs}
    found = []
    for node in nodes:
        hands_on = _selects(node) and not any(value in floats for value in node.inputs)
        if str(node.name) in half and not hands_on:
            found += [str(value.name) for value in node.outputs if value.name and is_float32(value)]
    return found


def _selects(node: ir.Node) -> bool:
    """Whether what a node writes is float16 where its data is: it hands values on, within bounds that are float16."""
    rule = op_rule(node)
    if rule is None or not (rule.kind in (Kind.PASS, Kind.CONCAT) or node.op_type in _SELECTING):
        return False
    data = data_positions(node, rule)
    bounds = [constant(value) for i, value in enumerate(node.inputs) if i not in data and is_float32(value)]
    return all(bound is not None and _is_half(bound.numpy()) for bound in bounds)


def _is_half(values: npt.NDArray[np.float32]) -> bool:
    """Whether float16 holds the values; those beyond its range mean "no bound"."""
    within = np.clip(values, -FLOAT16_MAX, FLOAT16_MAX)
    return bool(np.array_equal(within, within.astype(np.float16)))


def _whole(nodes: Sequence[ir.Node], plan: Plan) -> Whole | None:
    """Return head and follower of a group without weights to multiply by, which is computed with its grids at once."""
    head = nodes[0]
    rule = op_rule(head)
    is_gridded = any(name == head.name for name, _ in plan.inputs)
    if not is_gridded or rule is None or rule.kind is Kind.LINEAR or len(head.outputs) != 1:
        return None
    out = head.outputs[0]
    is_fused = len(nodes) > 1 and str(out.name) not in plan.outputs and nodes[1].inputs[0] is out
    return Whole(str(head.name), str(nodes[1].name) if is_fused else "")
