"""Grids narrower than their type: insert writes them as two pairs with a Clip between, strip reads them as one grid."""

import numpy as np
import onnx_ir as ir

from fewbits.graph.naming import value_names
from fewbits.graph.topology import constant
from fewbits.spec.dtypes import DType, QuantSpec

CODES = "_q"
"""What insert appends to the name of a tensor for its codes."""


def join_clipped(model: ir.Model) -> dict[ir.Node, int]:
    """Remove the Clip and the second pair of every narrow grid, in place.

    Where insert merged a Clip of the network with it, the tensor in front takes the name of what that Clip gave, which
    is the name of the grid.

    Only a Clip whose bounds are bit for bit the ends of a narrower grid with the scale and zero point of the pairs
    around it counts: any other is an operator of the network.

    Returns:
        The QuantizeLinear nodes that are left of them, and the bits of their grids.
    """
    found: dict[ir.Node, int] = {}
    names = value_names(model)
    for clip in [node for node in model.graph if node.op_type == "Clip" and len(node.inputs) == 3]:
        back = clip.inputs[0].producer() if clip.inputs[0] is not None else None
        first = _above(back, "DequantizeLinear")
        second = [use.node for use in clip.outputs[0].uses()]
        if back is None or first is None or len(second) != 1 or clip.outputs[0].is_graph_output():
            continue
        bits = _narrow_bits(first, clip)
        is_alone = len(list(back.outputs[0].uses())) == 1 and not back.outputs[0].is_graph_output()
        if not bits or not is_alone or second[0].op_type != "QuantizeLinear" or not _same_grid(first, second[0]):
            continue
        for use in list(second[0].outputs[0].uses()):
            use.node.replace_input_with(use.idx, first.outputs[0])
        model.graph.remove([second[0], clip, back], safe=True)
        found[first] = bits
        _rename(first, names)
    return found


def _rename(quantizer: ir.Node, names: set[str]) -> None:
    source, codes = quantizer.inputs[0], str(quantizer.outputs[0].name)
    name = codes.removesuffix(CODES)
    is_alone = source is not None and len(list(source.uses())) == 1 and source.producer() is not None
    if source is None or not is_alone or source.is_graph_output() or name == codes or name in names:
        return
    names.add(name)
    source.name = name


def _above(node: ir.Node | None, op: str) -> ir.Node | None:
    """Return the QuantizeLinear whose codes `node` reads, if it is an `op`."""
    if node is None or node.op_type != op or node.inputs[0] is None:
        return None
    above = node.inputs[0].producer()
    return above if above is not None and above.op_type == "QuantizeLinear" else None


def _same_grid(first: ir.Node, second: ir.Node) -> bool:
    return len(first.inputs) == len(second.inputs) == 3 and all(
        (a := constant(left)) is not None
        and (b := constant(right)) is not None
        and a.dtype == b.dtype
        and np.array_equal(a.numpy(), b.numpy())
        for left, right in zip(first.inputs[1:], second.inputs[1:], strict=True)
    )


def _narrow_bits(quantizer: ir.Node, clip: ir.Node) -> int:
    """Return the bits of the grid that `clip` cuts out of that of `quantizer`; 0 where it is none."""
    tensors = [constant(value) for value in (*quantizer.inputs[1:3], *clip.inputs[1:])]
    if len(tensors) != 4 or any(tensor is None or tensor.size != 1 for tensor in tensors):
        return 0
    scale, zero, low, high = (tensor.numpy().reshape(()) for tensor in tensors if tensor is not None)
    kind = tensors[1].dtype.name.lower() if tensors[1] is not None else ""
    if kind not in ("uint8", "int8", "uint16", "int16"):
        return 0
    dtype, zero_point = DType(kind), int(zero)
    for bits in range(2, dtype.bits):
        for is_symmetric in (False, True):
            spec = QuantSpec(dtype, bits, is_symmetric)
            ends = [np.float32(code - zero_point) * np.float32(scale) for code in (spec.qmin, spec.qmax)]
            if ends[0] == low and ends[1] == high:
                return bits
    return 0
