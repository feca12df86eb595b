"""Stage adopt: (float graph, grids that someone chose) -> plan and encodings, without data or a target's rules.

What the source says is carried out as it is. An encodings file is completed with what follows from it: an operator that
passes values through hands on the grid that it reads, and the bias of a layer whose input and weight are integers is
int32 on the product of their scales, as every device stores it. A tensor without a grid stays float, with the reason.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.opset import QDQ_OPSET
from fewbits.graph.topology import channel_axis, constant, is_float32, op_rule
from fewbits.numerics.affine import bias_encoding
from fewbits.quantization.encode import Encoded
from fewbits.quantization.half import castable_inputs
from fewbits.spec.dtypes import DType, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.given import Edge, GivenGrids
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Grid, NodePlan, Plan, Role
from fewbits.spec.precision import FP16, FP32, WIDEST_BLOCKED, Precision

_INT32_MAX = 2**31 - 1
Weights = tuple[int, int | None]
"""Bits of weights and the size of their blocks, None where they have none."""
_NAMED = 3  # tensors that a note names


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """A plan that carries out given grids.

    Attributes:
        plan: the grids, who reads them, and the reasons of what has none.
        encoded: their encodings, those that follow from them included.
        notes: sentences for the user: what was added, and what could not be used.
    """

    plan: Plan
    encoded: Encoded
    notes: tuple[str, ...]


def adopt(model: ir.Model, given: GivenGrids, target: str, *, is_complete: bool = False) -> Adopted:
    """Return the plan that carries out `given` on a float graph whose shapes and types are known.

    Args:
        model: the float graph; tensors are found by name.
        given: the grids.
        target: name of the device that the plan is noted under.
        is_complete: `given` is all there is, as in a QDQ model; nothing is added.

    Raises:
        SpecError: none of the grids belongs to a float tensor of the graph.
    """
    work = _Adopter(model.graph, given)
    work.run(is_complete=is_complete)
    nodes = work.precisions()
    # float operators need no edge of their own: whoever reads a tensor that is written on its grid sees it so
    edges = {e: key for e, key in work.inputs.items() if not nodes[e[0]].precision.is_float or key not in work.outputs}
    reasons = {name: _reason(value, nodes) for name, value in work.values.items() if work.is_bare(name)}
    plan = Plan(target, nodes, work.grids, edges, work.outputs, reasons)
    return Adopted(plan, Encoded(work.encodings, {}), (*work.notes(), *_bare_notes(model.graph, nodes, work.inputs)))


@dataclass
class _Adopter:
    graph: ir.Graph
    given: GivenGrids
    grids: dict[str, Grid] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    inputs: dict[tuple[str, int], str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)
    overflowing: list[str] = field(default_factory=list)
    named: dict[tuple[str, int], str] = field(default_factory=dict)

    def run(self, *, is_complete: bool) -> None:
        graph = self.graph
        found = (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))
        self.values = {str(value.name): value for value in found if is_float32(value)}
        for key, encoding in self.given.encodings.items():
            self._take(key, encoding)
        if self.lost and not self.grids:
            raise SpecError(
                f"None of the {len(self.lost)} grids of {self.given.source} belongs to a float tensor of this model "
                f"({self.lost[0]!r} is the first): give the model that they were made for."
            )
        self.named = {edge: key for key, edges in self.given.readers.items() if key in self.grids for edge in edges}
        for node in graph:
            if not is_complete:
                self._pass_on(node)
            self._read(node)
            self._note_bias(node, is_complete)

    def _take(self, key: str, encoding: Encoding) -> None:
        tensor = self.given.tensor(key)
        value = self.values.get(tensor)
        if value is None:
            self.lost.append(key)
            return
        readers = self.given.readers.get(key)
        role = Role.ACTIVATION if constant(value) is None else _stored_role(value, encoding, readers)
        if role is Role.ACTIVATION and key == tensor and readers is None and value.producer() is not None:
            self.outputs[tensor] = key
        converts = tensor if key in self.given.conversions and tensor in self.given.encodings else None
        self.grids[key] = Grid(tensor, encoding.spec, role, converts=converts)
        self.encodings[key] = encoding

    def _pass_on(self, node: ir.Node) -> None:
        rule, source = op_rule(node), node.inputs[0] if node.inputs else None
        if rule is None or rule.kind is not Kind.PASS or source is None:
            return
        key = self._seen(node, 0, source)
        for value in node.outputs:
            name = str(value.name)
            if key is None or name not in self.values or name in self.grids or name in self.given.halves:
                continue
            self.grids[name] = Grid(name, self.encodings[key].spec, Role.ACTIVATION, shares=key)
            self.encodings[name], self.outputs[name] = self.encodings[key], name
            self.passed.append(name)

    def _read(self, node: ir.Node) -> None:
        for position, value in enumerate(node.inputs):
            key = None if value is None else self._seen(node, position, value)
            if key is not None:
                self.inputs[str(node.name), position] = key

    def _seen(self, node: ir.Node, position: int, value: ir.Value) -> str | None:
        """Return the key of the grid that an edge sees: one that names it, or else the tensor's own."""
        edge, name = (str(node.name), position), str(value.name)
        if edge in self.named:
            return self.named[edge]
        return name if name in self.grids and name not in self.given.readers else None

    def _note_bias(self, node: ir.Node, is_complete: bool) -> None:
        """Note what the bias of an integer layer is scaled by; give it its int32 grid where its source names none."""
        rule, name = op_rule(node), str(node.name)
        if rule is None or rule.weight is None or rule.bias is None or len(node.inputs) <= rule.bias:
            return
        value, edge = node.inputs[rule.bias], (name, rule.bias)
        tensor = constant(value)
        parents = self.inputs.get((name, 0)), self.inputs.get((name, rule.weight))
        if value is None or tensor is None or parents[0] is None or parents[1] is None:
            return
        scaled_by = (parents[0], parents[1])
        if edge in self.inputs:
            key = self.inputs[edge]
            grid = self.grids[key]
            self.grids[key] = Grid(grid.tensor, grid.spec, Role.BIAS, scaled_by=scaled_by, node=name)
            return
        if is_complete:
            return
        encoding = self._bias_encoding(node, rule.weight, scaled_by)
        if encoding is None:
            return
        if np.any(np.abs(tensor.numpy().astype(np.float64)) / encoding.scale > _INT32_MAX):
            self.overflowing.append(str(value.name))
            return
        key = str(value.name)
        while key in self.grids or (key in self.values and key != str(value.name)):
            key += "'"
        self.grids[key] = Grid(str(value.name), encoding.spec, Role.BIAS, scaled_by=scaled_by, node=name)
        self.encodings[key], self.inputs[edge] = encoding, key
        self.biases.append(key)

    def _bias_encoding(self, node: ir.Node, position: int, parents: tuple[str, str]) -> Encoding | None:
        source, weight = (self.encodings[key] for key in parents)
        tensor = constant(node.inputs[position])
        is_single = isinstance(source.spec.granularity, PerTensor)
        if not is_single or isinstance(weight.spec.granularity, PerBlock) or np.any(weight.zero_point) or not tensor:
            return None
        granularity, rank = weight.spec.granularity, len(tensor.shape)
        if isinstance(granularity, PerChannel) and granularity.axis % rank != channel_axis(node, rank):
            return None
        return bias_encoding(source.scale, weight.scale)

    def precisions(self) -> dict[str, NodePlan]:
        """Return the precision that every node runs in, as its grids show it."""
        opset = self.graph.opset_imports.get("", QDQ_OPSET)
        usual = self._usual_weights()
        found: dict[str, NodePlan] = {}
        for node in reversed(list(self.graph)):
            found[str(node.name)] = self._precision(node, opset, usual, found)
        return {str(node.name): found[str(node.name)] for node in self.graph}

    def _precision(self, node: ir.Node, opset: int, usual: Weights, below: Mapping[str, NodePlan]) -> NodePlan:
        floats = [str(value.name) for value in node.outputs if is_float32(value)]
        if floats and all(name in self.given.halves for name in floats) and castable_inputs(node, opset):
            return NodePlan(node.op_type, FP16)
        keys = [self.outputs[name] for name in floats if name in self.outputs]
        weights = self._weights(node)
        if keys:
            bits, size = weights or usual
            return NodePlan(node.op_type, Precision(bits, self.grids[keys[0]].spec.bits, block_size=size))
        uses = list(node.outputs[0].uses()) if node.outputs else []
        is_read = any((str(node.name), i) in self.inputs for i in range(len(node.inputs)))
        follower = below.get(str(uses[0].node.name)) if len(uses) == 1 and is_read else None
        if follower is not None and not follower.precision.is_float:
            bits, size = weights or usual
            return NodePlan(node.op_type, replace(follower.precision, weight_bits=bits, block_size=size))
        reason = "it computes no float32 values" if not floats else f"{self.given.source} has no grid for its output"
        return NodePlan(node.op_type, FP32, reason)

    def _weights(self, node: ir.Node) -> Weights | None:
        """Return the bits and the size of blocks of a node's stored weight."""
        rule = op_rule(node)
        key = None if rule is None or rule.weight is None else self.inputs.get((str(node.name), rule.weight))
        return None if key is None or self.grids[key].role is not Role.WEIGHT else _weights_of(self.grids[key].spec)

    def _usual_weights(self) -> Weights:
        counts = Counter(_weights_of(grid.spec) for grid in self.grids.values() if grid.role is Role.WEIGHT)
        return counts.most_common(1)[0][0] if counts else (8, None)

    def is_bare(self, name: str) -> bool:
        """Whether a tensor has no grid."""
        return name not in self.grids

    def notes(self) -> list[str]:
        """Return what was added and what could not be used."""
        said = []
        if self.lost:
            said.append(
                f"{len(self.lost)} of {len(self.given.encodings)} grids of {self.given.source} belong to no float "
                f"tensor of this model and were left out: {_some(self.lost)}."
            )
        if self.passed:
            said.append(f"{len(self.passed)} tensors have no grid of their own and take that of what they pass on.")
        if self.biases:
            said.append(f"{len(self.biases)} biases got their int32 grid from the scales of input and weight.")
        if self.overflowing:
            said.append(
                f"{len(self.overflowing)} biases do not fit int32 on the scales of input and weight and stay float: "
                f"{_some(self.overflowing)}."
            )
        return said


def _stored_role(value: ir.Value, encoding: Encoding, readers: tuple[tuple[str, int], ...] | None) -> Role:
    if encoding.spec.dtype is DType.INT32:
        return Role.BIAS
    for use in value.uses():
        if readers is not None and (str(use.node.name), use.idx) not in readers:
            continue
        rule = op_rule(use.node)
        is_linear = rule is not None and rule.kind is Kind.LINEAR
        if is_linear or (use.node.op_type == "PRelu" and use.idx == 1):
            return Role.WEIGHT
    return Role.CONSTANT


def _weights_of(spec: QuantSpec) -> Weights:
    is_named = isinstance(spec.granularity, PerBlock) and spec.bits <= WIDEST_BLOCKED  # no precision names wider ones
    return spec.bits, spec.granularity.size if is_named else None  # type: ignore[union-attr]


def _reason(value: ir.Value, nodes: Mapping[str, NodePlan]) -> str:
    """Say why a tensor has no grid."""
    producer = value.producer()
    if producer is not None:
        plan = nodes[str(producer.name)]
        if not plan.precision.is_float:
            return f"inside the fused group {producer.op_type} {producer.name!r} + its activation"
        return plan.reason or f"{producer.op_type} runs in {plan.precision}"
    for use in value.uses():
        mine = nodes.get(str(use.node.name))
        if mine is None:
            return "it is read inside a control-flow body"
        return f"it is read by {use.node.op_type} {use.node.name!r} as a float"
    return "nothing reads it"


def _bare_notes(graph: ir.Graph, nodes: Mapping[str, NodePlan], inputs: Mapping[Edge, str]) -> tuple[str, ...]:
    """Name the operators that read integers and write a float that no grid covers: a converter would calibrate it."""
    bare = [
        str(node.outputs[0].name)
        for node in graph
        if nodes[str(node.name)].precision == FP32
        and any((str(node.name), i) in inputs for i in range(len(node.inputs)))
        and is_float32(node.outputs[0])
        and not node.outputs[0].is_graph_output()
    ]
    if not bare:
        return ()
    what = f"{len(bare)} tensors between integer operators have no grid and stay float"
    return (f"{what}, where a converter may calibrate them on its own: {_some(bare)}.",)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
