"""Stage resolve: (graph, profile, target) -> Plan. Pure bookkeeping; no data, no scales."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.naming import value_names
from fewbits.graph.topology import channel_axis, constant, data_positions, input_axis, is_float32, op_rule
from fewbits.quantization.profile import Profile, assign
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.optable import Kind, OpRule
from fewbits.spec.plan import Grid, NodePlan, Plan, Role
from fewbits.spec.precision import Precision
from fewbits.spec.target import Target


def resolve(
    model: ir.Model, profile: Profile, target: Target, *, half_refused: Mapping[str, str] | None = None
) -> Plan:
    """Return the plan for a prepared model: a grid, or a reason, for every float tensor.

    Args:
        model: prepared.
        profile: the precision wanted for each node.
        target: the device's rules.
        half_refused: node name -> reason why it may not run in fp16 (see overflow.half_overflows).

    Raises:
        SpecError: the profile names unknown nodes, or a precision that the target does not have.
    """
    nodes, fused = assign(model.graph, profile, target, half_refused or {})
    builder = _Builder(target, nodes, fused, frozenset(value_names(model)))
    for node in model.graph:
        builder.add_outputs(node)
    for node in model.graph:
        builder.add_inputs(node)
    builder.share_concats(model.graph)
    plan = builder.finish(model.graph)
    _check_types(model.graph, plan, target)
    return plan


def activation_spec(precision: Precision) -> QuantSpec:
    """Return the grid of activations: unsigned, asymmetric, one scale."""
    dtype = DType.container(precision.activation_bits, signed=False)
    # ONNX has 4-bit types, but no runtime carries 4-bit activations: they live in uint8.
    dtype = DType.UINT8 if dtype is DType.UINT4 else dtype
    return QuantSpec(dtype, precision.activation_bits, is_symmetric=False)


def _check_types(graph: ir.Graph, plan: Plan, target: Target) -> None:
    """Refuse a container type that the target lacks, naming the first node that needs it."""
    for node in graph:
        name = str(node.name)
        keys = [plan.inputs[name, i] for i in range(len(node.inputs)) if (name, i) in plan.inputs]
        keys += [plan.outputs[str(v.name)] for v in node.outputs if str(v.name) in plan.outputs]
        for grid in (plan.grids[key] for key in keys):
            if grid.role is Role.BIAS:
                continue
            is_weight = grid.role is Role.WEIGHT
            allowed = target.weight_types if is_weight else target.activation_types
            if grid.spec.dtype is target.second_operand is not DType.UINT16:
                continue  # see _operand
            if grid.spec.dtype not in allowed:
                names = ", ".join(sorted(d.value for d in allowed))
                raise SpecError(
                    f"Target {target.name!r} cannot run {node.op_type} {name!r} in {plan.nodes[name].precision}: its "
                    f"{'weights' if is_weight else 'activations'} are {names}, not {grid.spec.dtype.value}. Choose "
                    f"another precision or target."
                )


@dataclass
class _Builder:
    """Collects the plan while walking the graph twice: outputs first, then readers."""

    target: Target
    nodes: Mapping[str, NodePlan]
    fused: Mapping[ir.Node, ir.Node]
    names: frozenset[str]
    grids: dict[str, Grid] = field(default_factory=dict)
    inputs: dict[tuple[str, int], str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def add_outputs(self, node: ir.Node) -> None:
        precision = self.nodes[str(node.name)].precision
        if precision.is_float or node in self.fused.values():
            return
        fixed = self.target.fixed_ranges.get(node.op_type)
        for name in (str(value.name) for value in node.outputs if is_float32(value)):
            self.grids[name] = Grid(name, activation_spec(precision), Role.ACTIVATION, fixed_range=fixed)
            self.outputs[name] = name

    def add_inputs(self, node: ir.Node) -> None:
        precision = self.nodes[str(node.name)].precision
        rule = op_rule(node)
        if precision.is_float or rule is None or node in self.fused:
            self._add_follower_inputs(node)
            return
        spec = activation_spec(precision)
        for position in data_positions(node, rule):
            if rule.kind is Kind.LINEAR and position != rule.weight and constant(node.inputs[position]) is not None:
                self._add_weight(node, position, precision, PerTensor())
            else:
                self._read(node, position, self._operand(node, position, rule, spec))
        if rule.kind is Kind.PASS:
            self._share_passed(node)
        if rule.weight is not None and len(node.inputs) > rule.weight:
            self._add_parameters(node, rule, precision)

    def _add_follower_inputs(self, node: ir.Node) -> None:
        """A fused PRelu still has a slope to quantize."""
        plan = self.nodes[str(node.name)]
        if node in self.fused and node.op_type == "PRelu" and not plan.precision.is_float:
            slope = constant(node.inputs[1])
            is_fine = "PRelu" in self.target.per_channel and slope is not None and len(slope.shape) > 0
            self._add_weight(node, 1, plan.precision, PerChannel(0) if is_fine else PerTensor())

    def _read(self, node: ir.Node, position: int, spec: QuantSpec) -> None:
        value = node.inputs[position]
        assert value is not None
        name = str(value.name)
        role = Role.ACTIVATION if constant(value) is None else Role.CONSTANT
        first = self.grids.get(name)
        if first is None:
            key = name
            self.grids[key] = Grid(name, spec, role, headroom=self._headroom(spec))
        elif first.spec.dtype is spec.dtype:
            key = name  # of one container there is one grid: 4 and 8 bits both travel as uint8
        else:
            key = f"{name}@{spec.dtype.value}"
            while key in self.names or (key in self.grids and self.grids[key].tensor != name):
                key += "'"
            converts = name if name in self.outputs and role is Role.ACTIVATION else None
            room = self._headroom(spec)
            grid = Grid(name, spec, role, converts=converts, fixed_range=first.fixed_range, headroom=room)
            self.grids.setdefault(key, grid)
        self.inputs[str(node.name), position] = key

    def _operand(self, node: ir.Node, position: int, rule: OpRule, spec: QuantSpec) -> QuantSpec:
        """Return the grid on which an operand is read: the second of two activations may need a type of its own."""
        is_product = node.op_type in ("MatMul", "Gemm") and constant(node.inputs[0]) is None
        is_second = is_product and position == rule.weight
        other = self.target.second_operand
        if not is_second or spec.dtype is not DType.UINT16 or other is DType.UINT16:
            return spec
        return QuantSpec(other, min(spec.bits, other.bits), is_symmetric=other.is_signed)

    def _headroom(self, spec: QuantSpec) -> float:
        """Return by how much scales must exceed the range so that the device clips no int16 code."""
        is_wide = spec.dtype is DType.INT16 and spec.qmax > self.target.highest_int16
        return spec.qmax / self.target.highest_int16 if is_wide else 1.0

    def _share_passed(self, node: ir.Node) -> None:
        """What a pass-through hands out is on the grid that it reads."""
        key = self.inputs.get((str(node.name), 0))
        if key is None:
            return
        for value in node.outputs:
            grid, spec = self.grids.get(str(value.name)), self.grids[key].spec
            if grid is not None and grid.shares is None and grid.spec.dtype is spec.dtype:
                self.grids[grid.tensor] = Grid(grid.tensor, spec, grid.role, shares=key)

    def _add_parameters(self, node: ir.Node, rule: OpRule, precision: Precision) -> None:
        tensor = constant(node.inputs[rule.weight])  # type: ignore[index]
        if tensor is not None and rule.kind is Kind.NORM:
            self._add_gamma(node, rule, precision)
        elif tensor is not None:
            self._add_weight(node, rule.weight or 0, precision, self._granularity(node, tensor, precision))
        if rule.bias is not None and len(node.inputs) > rule.bias:
            self._add_bias(node, rule.bias, rule)

    def _granularity(self, node: ir.Node, tensor: ir.TensorProtocol, precision: Precision) -> Granularity:
        """Return how finely the weight of a LINEAR node shares its scales."""
        shape, size = tensor.shape.numpy(), precision.block_size
        grouped = node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1
        if grouped or len(shape) < 2:
            return PerTensor()
        axis = channel_axis(node, len(shape))
        inputs = input_axis(axis)
        # ONNX has blocks along one axis: those of a wide kernel would have scales for each of its positions, and those
        # of stacked matrices for each of them, for which encodings files have no place
        is_stack = len(shape) > 2 and (node.op_type == "MatMul" or math.prod(shape[2:]) > 1)
        if size is not None and node.op_type in self.target.per_block and not is_stack and shape[inputs] > size:
            return PerBlock(inputs, size)
        return PerChannel(axis) if node.op_type in self.target.per_channel else PerTensor()

    def _add_gamma(self, node: ir.Node, rule: OpRule, precision: Precision) -> None:
        if self.target.gamma_follows_activation:
            spec = activation_spec(precision)
            if spec.dtype.bits > self.target.widest_gamma:
                spec = QuantSpec(DType.UINT8, 8, is_symmetric=False)
            # beside an int32 bias, HTP rejects a 16-bit gamma whose zero point is 0 and takes one in the middle
            self._read(node, rule.weight or 1, replace(spec, is_symmetric=spec.dtype.bits == 16))
        else:
            self._add_weight(node, rule.weight or 1, precision, PerTensor())

    def _add_weight(self, node: ir.Node, position: int, precision: Precision, granularity: Granularity) -> None:
        value = node.inputs[position]
        tensor = constant(value)
        assert value is not None
        assert tensor is not None
        name = str(value.name)
        bits, dtype = precision.weight_bits, DType.container(precision.weight_bits, signed=True)
        has_one_scale = isinstance(granularity, PerTensor)
        if isinstance(granularity, PerChannel):  # as an output, the value itself may be said to be open
            has_one_scale = tensor.shape[granularity.axis] == 1
        if dtype is DType.INT4 and has_one_scale and not self.target.int4_per_tensor:
            dtype = DType.INT8
        spec = QuantSpec(dtype, bits, is_symmetric=True, granularity=granularity)
        grid = Grid(name, spec, Role.WEIGHT, headroom=self._headroom(spec))
        self._add_stored(node, position, grid)

    def _add_bias(self, node: ir.Node, position: int, rule: OpRule) -> None:
        value, name = node.inputs[position], str(node.name)
        tensor = constant(value)
        if value is None or tensor is None:
            return
        parents = (self.inputs[name, 0], self.inputs[name, rule.weight or 1])
        granularity = self.grids[parents[1]].spec.granularity
        if isinstance(granularity, PerBlock):
            return  # it has no one scale that a product with the input's would follow from
        fine = granularity != PerTensor()
        # one row of any rank is stored as a vector; only a Gemm knows biases [M, N]
        axis = 0 if math.prod(tensor.shape.numpy()[:-1]) == 1 else len(tensor.shape) - 1
        spec = QuantSpec(DType.INT32, 32, is_symmetric=True, granularity=PerChannel(axis) if fine else PerTensor())
        grid = Grid(str(value.name), spec, Role.BIAS, scaled_by=parents, node=name)
        self._add_stored(node, position, grid)

    def _add_stored(self, node: ir.Node, position: int, grid: Grid) -> None:
        """Add the grid of a constant under a key of its own: readers of a tied one may need different grids."""
        key = grid.tensor
        while self.grids.get(key, grid) != grid or (key in self.names and key != grid.tensor):
            key += "'"
        self.grids[key] = grid
        self.inputs[str(node.name), position] = key

    def share_concats(self, graph: ir.Graph) -> None:
        """Give the inputs of each Concat the grid of its output, where nothing else reads them."""
        if not self.target.concat_shares_grid:
            return
        for node in graph:
            rule = op_rule(node)
            if rule is None or rule.kind is not Kind.CONCAT or self.nodes[str(node.name)].precision.is_float:
                continue
            out = self.outputs.get(str(node.outputs[0].name))
            for position, value in enumerate(node.inputs):
                key = self.inputs.get((str(node.name), position))
                if out is None or key is None or value is None:
                    continue
                self._share_chain(value, key, out)

    def _share_chain(self, value: ir.Value, key: str, out: str) -> None:
        """Walk up pass-throughs to the origin; share only if the whole chain has this one reader."""
        while True:
            if len(list(value.uses())) != 1 or value.is_graph_output() or constant(value) is not None:
                return
            grid = self.grids[key]
            if grid.fixed_range is not None or grid.spec != self.grids[out].spec or key != str(value.name):
                return
            if grid.shares is None:
                break
            producer = value.producer()
            if producer is None or len(producer.outputs) != 1 or producer.inputs[0] is None:
                return
            value, key = producer.inputs[0], grid.shares
        self.grids[key] = Grid(grid.tensor, grid.spec, grid.role, shares=out)

    def finish(self, graph: ir.Graph) -> Plan:
        return Plan(
            target=self.target.name,
            nodes=dict(self.nodes),
            grids=self.grids,
            inputs=self.inputs,
            outputs=self.outputs,
            reasons=_reasons(graph, self),
        )


def _reasons(graph: ir.Graph, plan: "_Builder") -> dict[str, str]:
    """Say of every float32 tensor without a grid why it has none."""
    heads = set(plan.fused.values())
    reasons: dict[str, str] = {}
    gridded = {g.tensor for g in plan.grids.values()}
    for node in graph:
        mine = plan.nodes[str(node.name)]
        for value in node.outputs:
            if is_float32(value) and str(value.name) not in gridded:
                if node in heads and not mine.precision.is_float:
                    reasons[str(value.name)] = f"inside the fused group {node.op_type} {node.name!r} + its activation"
                else:
                    reasons[str(value.name)] = mine.reason or f"{node.op_type} runs in {mine.precision}"
    for value in (*graph.inputs, *graph.initializers.values()):
        if is_float32(value) and str(value.name) not in gridded:
            reasons[str(value.name)] = _unread_reason(value, plan)
    return reasons


def _unread_reason(value: ir.Value, plan: "_Builder") -> str:
    for use in value.uses():
        mine = plan.nodes.get(str(use.node.name))
        if mine is None:
            return "it is read inside a control-flow body"
        if not mine.precision.is_float:
            rule, name = op_rule(use.node), str(use.node.name)
            weight = None if rule is None or rule.bias != use.idx else plan.inputs.get((name, rule.weight or 1))
            if weight is not None and isinstance(plan.grids[weight].spec.granularity, PerBlock):
                return f"it is added in float: the weight of {use.node.op_type} {name!r} has scales per block"
            return f"it is a setting of {use.node.op_type} {use.node.name!r}"
        return mine.reason or f"{use.node.op_type} runs in {mine.precision}"
    return "nothing reads it"
