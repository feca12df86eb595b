"""A network as cost models see it: its groups, their nodes in every precision, and what passes between groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import onnx_ir as ir

from fewbits.analysis.costs import Pair, activation_type
from fewbits.analysis.locations import Locations, locate
from fewbits.errors import SpecError
from fewbits.graph.shapes import fix_dims, open_dims, static_shape
from fewbits.quantization.groups import Group
from fewbits.spec.plan import Plan
from fewbits.spec.precision import FP32, Precision

_BATCH = 1  # costs are per sample


@dataclass(frozen=True, eq=False)
class Layout:
    """A network as cost models see it.

    Attributes:
        model: the prepared float graph, its open dimensions fixed.
        groups: in the graph's order.
        plans: precision name -> plan of the whole network in it.
    """

    model: ir.Model
    groups: tuple[Group, ...]
    plans: Mapping[str, Plan]

    def precisions(self, group: Group) -> tuple[str, ...]:
        """Return the precisions that a group can have: those in which its first node runs where all ask for them."""
        return tuple(name for name, plan in self.plans.items() if str(plan.nodes[group.name].precision) == name)

    def precision_of(self, node: str, wanted: str) -> Precision:
        """Return what a node runs in where its group is to run in `wanted`; what is in no group runs in fp32."""
        return self.plans[wanted].nodes[node].precision if node in self.owners else FP32

    @cached_property
    def nodes(self) -> dict[str, ir.Node]:
        """The nodes by name."""
        return {str(node.name): node for node in self.model.graph}

    @cached_property
    def places(self) -> dict[str, Locations]:
        """Group name -> what it reads and writes."""
        return {place.group.name: place for place in locate(self.model.graph, self.groups)}

    @cached_property
    def owners(self) -> dict[str, str]:
        """Node name -> name of its group, for nodes that are in one."""
        return {node: group.name for group in self.groups for node in group.nodes}

    @cached_property
    def ungrouped(self) -> tuple[ir.Node, ...]:
        """The nodes that are in no group: they stay in float32."""
        return tuple(node for name, node in self.nodes.items() if name not in self.owners)

    @cached_property
    def passed(self) -> dict[Pair, dict[str, ir.Value]]:
        """(writer group, reader group) -> the tensors, by name, that pass between the two."""
        found: dict[Pair, dict[str, ir.Value]] = {}
        for name, place in self.places.items():
            for node, position in place.edges:
                value = self.nodes[node].inputs[position]
                writer = self.writer(value)
                if value is not None and writer and writer != name:
                    found.setdefault((writer, name), {})[str(value.name)] = value
        return found

    def writer(self, value: ir.Value | None) -> str:
        """Return the group that computes `value`; "" where none does."""
        producer = value.producer() if value is not None else None
        return self.owners.get(str(producer.name), "") if producer is not None else ""


def layout_of(model: ir.Model, groups: Sequence[Group], plans: Mapping[str, Plan], sizes: Mapping[str, int]) -> Layout:
    """Return the layout of a network.

    Args:
        model: the prepared float graph; it is left as it is.
        groups: of it.
        plans: precision name -> plan of the whole network in it.
        sizes: open dimension -> size, see `cost.sizes_of`; the batch is one sample.

    Raises:
        SpecError: no input has an open dimension of that name.
    """
    sized = model.clone()
    first = [value.shape[0] for value in sized.graph.inputs if value.shape]
    batch = {dim.value: _BATCH for dim in first if isinstance(dim, ir.SymbolicDim) and dim.value}
    if open_dims(sized):
        fix_dims(sized, {**batch, **sizes})
    return Layout(sized, tuple(groups), plans)


def elements(value: ir.Value) -> int:
    """Return how many numbers a tensor holds.

    Raises:
        SpecError: its shape is not known.
    """
    shape = static_shape(value)
    if shape is None:
        raise SpecError(
            f"The size of tensor {str(value.name)!r} is not known, and costs depend on it: fix open dimensions with "
            f"--dim, or use a model whose shapes do not depend on the data."
        )
    return math.prod(shape)


def conversions_of(
    layout: Layout, cost: Callable[[Sequence[int], str, str], float]
) -> tuple[dict[Pair, float], dict[Pair, dict[Pair, float]]]:
    """Return what conversions cost: (pair of groups -> mean over the types, types -> pair of groups -> cost).

    Args:
        layout: the network; the types are those of its precisions.
        cost: of converting tensors of some sizes, in elements, from one type to another.

    Raises:
        SpecError: a shape is not known.
    """
    types = dict.fromkeys(activation_type(name) for name in layout.plans)
    sizes = {pair: [elements(value) for value in tensors.values()] for pair, tensors in layout.passed.items()}
    typed = {
        (written, read): {pair: cost(sizes[pair], written, read) for pair in sizes}
        for written, read in permutations(types, 2)
    }
    mean = {pair: sum(costs[pair] for costs in typed.values()) / len(typed) for pair in sizes} if typed else {}
    return mean, typed
