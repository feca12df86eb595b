"""Costs that are counted: bit operations, and bytes that weights and activations take up on their way."""

import math
from collections.abc import Iterable

import onnx_ir as ir

from fewbits.analysis.cost import product_bits
from fewbits.analysis.cost_layout import Layout, conversions_of, elements
from fewbits.analysis.costs import Costs, activation_type
from fewbits.errors import SpecError
from fewbits.graph.inspect import inspect_graph
from fewbits.graph.topology import constant, is_float32
from fewbits.numerics.affine import blocked_shape
from fewbits.quantization.groups import Group
from fewbits.quantization.half import castable_inputs
from fewbits.spec.dtypes import PerBlock, PerChannel, QuantSpec
from fewbits.spec.plan import Plan
from fewbits.spec.precision import FP16, FP32

_FLOAT_BYTES, _HALF_BYTES = 4, 2
_TYPE_BYTES = {"uint8": 1, "uint16": 2, "fp16": 2, "fp32": 4}
_TYPE_BITS = {name: 8 * size for name, size in _TYPE_BYTES.items()}


def bit_operation_costs(layout: Layout) -> Costs:
    """Return multiply-accumulates x bits of one factor x bits of the other; fp16 counts 16 x 16.

    A conversion counts as one multiplication per element, of what it reads by what it writes. Without conversions the
    total of a profile is `Cost.bit_operations` of the model in that profile.

    Raises:
        SpecError: shapes of the network are not known.
    """
    macs: dict[str, int] = {}
    for row in inspect_graph(layout.model).macs:
        if row.macs is None:
            raise SpecError(f"Bit operations cannot be counted: {row.reason}.")
        macs[row.name] = row.macs

    def of(names: Iterable[str], wanted: str) -> int:
        return sum(
            macs[name] * product_bits(layout.nodes.get(name), layout.precision_of(name, wanted))
            for name in names
            if name in macs
        )

    conversions, typed = conversions_of(
        layout, lambda sizes, written, read: float(sum(sizes) * _TYPE_BITS[written] * _TYPE_BITS[read])
    )
    return Costs(
        name="bitops",
        unit="bit operations",
        groups={g.name: {p: float(of(g.nodes, p)) for p in layout.precisions(g)} for g in layout.groups},
        conversions=conversions,
        fixed=float(of((name for name in macs if name not in layout.owners), str(FP32))),
        is_estimate=False,
        typed=typed,
    )


def byte_costs(layout: Layout) -> Costs:
    """Return the bytes that pass through memory once: stored weights, and activations that a group reads or writes.

    - Weights, biases and other constants count as they are stored: 4-bit codes in pairs, scales and zero points too.
    - A group reads every tensor from outside of it once, and writes what others read, or the network hands out, once.
      What passes between its own nodes stays inside.
    - A conversion reads what the writer wrote and writes what the reader reads.

    Raises:
        SpecError: shapes of the network are not known.
    """
    conversions, typed = conversions_of(
        layout, lambda sizes, written, read: sum(sizes) * (_TYPE_BYTES[written] + _TYPE_BYTES[read])
    )
    return Costs(
        name="bytes",
        unit="bytes",
        groups={g.name: {p: float(_group_bytes(layout, g, p)) for p in layout.precisions(g)} for g in layout.groups},
        conversions=conversions,
        fixed=float(sum(_float_bytes(node) for node in layout.ungrouped)),
        is_estimate=False,
        typed=typed,
    )


def _group_bytes(layout: Layout, group: Group, wanted: str) -> int:
    inside, stored, moved = set(group.nodes), dict[str, int](), dict[tuple[str, str], int]()
    for name in group.nodes:
        node, width = layout.nodes[name], _TYPE_BYTES[activation_type(str(layout.precision_of(name, wanted)))]
        stored |= _stored(node, layout.plans[wanted])
        moved |= {("written", str(v.name)): width * elements(v) for v in node.outputs if _leaves(v, inside)}
    for name, position in layout.places[group.name].edges:
        value, precision = layout.nodes[name].inputs[position], layout.precision_of(name, wanted)
        if value is not None:
            moved["read", str(value.name)] = _TYPE_BYTES[activation_type(str(precision))] * elements(value)
    return sum(stored.values()) + sum(moved.values())


def _leaves(value: ir.Value, inside: set[str]) -> bool:
    """Whether `value` is a float tensor that is read outside of some nodes, or handed out."""
    is_read = any(str(use.node.name) not in inside for use in value.uses())
    return is_float32(value) and (is_read or value.is_graph_output())


def _stored(node: ir.Node, plan: Plan) -> dict[str, int]:
    """Return constant -> bytes, for the constants of a node, as the artifact has them."""
    found, castable = {}, castable_inputs(node, node.graph.opset_imports.get("", 0) if node.graph else 0)
    for position, value in enumerate(node.inputs):
        if value is None or constant(value) is None or not is_float32(value):
            continue
        key, count = plan.inputs.get((str(node.name), position)), elements(value)
        if key is not None:
            found[key] = _coded(plan.grids[key].spec, value)
        elif plan.nodes[str(node.name)].precision == FP16 and position in castable:
            found[str(value.name)] = _HALF_BYTES * count
        else:
            found[str(value.name)] = _FLOAT_BYTES * count
    return found


def _coded(spec: QuantSpec, value: ir.Value) -> int:
    """Return the bytes of the codes, scales and zero points of a constant."""
    count, bits = elements(value), spec.dtype.bits
    match spec.granularity:
        case PerChannel(axis):
            scales = int(value.shape[axis])  # type: ignore[index, arg-type]
        case PerBlock() as blocks:
            scales = math.prod(blocked_shape(value.shape.numpy(), blocks))  # type: ignore[union-attr, arg-type]
        case _:
            scales = 1
    return math.ceil(count * bits / 8) + _FLOAT_BYTES * scales + math.ceil(scales * bits / 8)


def _float_bytes(node: ir.Node) -> int:
    """Return the bytes that a node in float32 reads and writes; integers, such as shapes, are left out."""
    values = dict.fromkeys([*node.inputs, *node.outputs])
    return _FLOAT_BYTES * sum(elements(value) for value in values if value is not None and is_float32(value))
