"""What a precision costs: bit operations per sample and bytes of weights, as the plan and the artifact have them."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.inspect import inspect_graph, parameter_bytes
from fewbits.graph.shapes import open_dims
from fewbits.graph.topology import constant
from fewbits.runtime.data.types import Array
from fewbits.spec.plan import Plan
from fewbits.spec.precision import FP32, Precision


@dataclass(frozen=True, slots=True)
class Cost:
    """Figures by which precisions of one model are compared.

    Attributes:
        bit_operations: multiply-accumulates x bits of one factor x bits of the other, for one sample; None where a
            node's shapes are not known.
        weight_bytes: all constants of the model file that are no shapes, scales and zero points included.
        latency_s: seconds per sample on the device; None until something estimates or measures them.
    """

    bit_operations: int | None
    weight_bytes: int
    latency_s: float | None = None


def cost_of(model: ir.Model, quantized: ir.Model, plan: Plan | None, sizes: Mapping[str, int]) -> Cost:
    """Return the cost of one precision of a model.

    Args:
        model: the prepared float graph.
        quantized: the QDQ graph derived from it, or `model` itself.
        plan: the precision of every node of `model`; None for the float model.
        sizes: open dimension -> size, see `sizes_of`; an open batch counts as one sample.
    """
    nodes = {str(node.name): node for node in model.graph}
    rows = inspect_graph(model, sizes).macs
    total: int | None = 0
    for row in rows:
        if row.macs is None or total is None:
            total = None
            break
        planned = plan.nodes.get(row.name) if plan is not None else None
        total += row.macs * product_bits(nodes.get(row.name), planned.precision if planned else FP32)
    return Cost(total, parameter_bytes(quantized))


def sizes_of(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the sizes that one sample gives to the open dimensions of the inputs; the batch is left out."""
    wanted, found = set(open_dims(model)), {}
    for value in model.graph.inputs:
        array = feeds.get(str(value.name))
        for axis, dim in enumerate(value.shape or ()):
            if axis and array is not None and isinstance(dim, ir.SymbolicDim) and dim.value in wanted:
                found[str(dim.value)] = array.shape[axis]
    return found


def product_bits(node: ir.Node | None, precision: Precision) -> int:
    """Return the product of the widths of the two factors of a node's products: 32 x 32 in float32."""
    if precision.float_bits is not None:
        return precision.float_bits**2
    has_weight = node is not None and any(constant(value) is not None for value in node.inputs[:2] if value)
    return precision.activation_bits * (precision.weight_bits if has_weight else precision.activation_bits)
