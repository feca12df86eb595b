"""The weight of any linear layer as blocks [G, I, O, T]: G groups, I inputs and O outputs of a group, T taps.

Input channel g * I + i and output channel g * O + o of the layer meet in block g. One scaling then serves Conv,
ConvTranspose, Gemm and MatMul, grouped and depthwise ones included.
"""

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import Declined, FloatArray, constant, is_constant, is_onnx, set_constant

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def check_layer(node: ir.Node) -> None:
    """Check that `node` is a layer whose weight and bias can be rewritten.

    Raises:
        Declined: its weight is computed, shared, not float32 or stacked; its bias is computed; or it transposes its
            input.
    """
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or not is_constant(weight):
        raise Declined("its weight is not a constant")
    if weight.const_value.dtype != ir.DataType.FLOAT:
        raise Declined(f"its weight has the type {weight.const_value.dtype.name.lower()}, not float32")
    if weight.is_graph_output():
        raise Declined(f"its weight {weight.name!r} is an output of the graph")
    if len(weight.uses()) > 1:
        users = ", ".join(sorted({repr(str(use.node.name)) for use in weight.uses()}))
        raise Declined(f"its weight {weight.name!r} is shared, read by {users}")
    if node.op_type in ("Gemm", "MatMul") and len(weight.const_value.shape) != 2:
        raise Declined(f"its weight has rank {len(weight.const_value.shape)}, not 2")
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        raise Declined("it transposes its input")
    _check_bias(node)


def _check_bias(node: ir.Node) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 and node.op_type != "MatMul" else None
    if bias is None:
        return
    if bias.const_value is None or not is_constant(bias):
        raise Declined("its bias is not a constant")
    shape = tuple(bias.const_value.shape.numpy())
    if bias.const_value.size not in (1, shape[-1] if shape else 1):
        raise Declined(f"its bias has the shape {list(shape)}, not one value per output")


def blocks_of(node: ir.Node) -> FloatArray:
    """Return the constant weight of a layer as [G, I, O, T], in float64."""
    weight = constant(node.inputs[1])
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":  # [G * O, I, ...]
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).transpose(0, 2, 1, 3)
    if node.op_type == "ConvTranspose":  # [G * I, O, ...]
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (weight.T if _is_turned(node) else weight)[None, :, :, None]


def store_blocks(model: ir.Model, node: ir.Node, blocks: FloatArray) -> None:
    """Write [G, I, O, T] back as the float32 weight of a layer, in place."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shape = tuple(weight.const_value.shape.numpy())
    if node.op_type == "Conv":
        blocks = blocks.transpose(0, 2, 1, 3)
    elif node.op_type != "ConvTranspose":
        blocks = blocks[0, :, :, 0].T if _is_turned(node) else blocks[0, :, :, 0]
    set_constant(model, node, 1, _float32(blocks).reshape(shape), wanted=f"{weight.name}_{node.name}")


def _float32(array: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(array, np.float32)


def _is_turned(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def divide_outputs(model: ir.Model, node: ir.Node, scale: FloatArray) -> None:
    """Let a layer compute y / scale instead of y, in place: weight and bias are divided.

    Args:
        model: holds `node`.
        node: passed `check_layer`.
        scale: [G * O], positive.
    """
    blocks = blocks_of(node)
    store_blocks(model, node, blocks / scale.reshape(blocks.shape[0], 1, -1, 1))
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None or not bias.any():
        return
    spread = np.broadcast_to(bias, (*bias.shape[:-1], scale.size))
    name = node.inputs[2].name if node.inputs[2] is not None else ""
    set_constant(model, node, 2, _float32(spread / scale), wanted=f"{name}_{node.name}")


def multiply_inputs(model: ir.Model, node: ir.Node, scale: FloatArray) -> None:
    """Let a layer compute its old result from x / scale instead of x, in place: weight rows are multiplied.

    Args:
        model: holds `node`.
        node: passed `check_layer`.
        scale: [G * I], positive.
    """
    blocks = blocks_of(node)
    store_blocks(model, node, blocks * scale.reshape(blocks.shape[0], -1, 1, 1))


def is_layer(node: ir.Node) -> bool:
    """Whether `node` is a linear layer with a constant weight."""
    return is_onnx(node, *LAYERS) and len(node.inputs) > 1 and is_constant(node.inputs[1])


def channels_in(node: ir.Node) -> int:
    """Return G * I, the input channels of a layer."""
    groups, inputs, _, _ = blocks_of(node).shape
    return int(groups * inputs)


def channels_out(node: ir.Node) -> int:
    """Return G * O, the output channels of a layer."""
    groups, _, outputs, _ = blocks_of(node).shape
    return int(groups * outputs)


def input_axis(node: ir.Node) -> int | None:
    """Return the axis of input channels in what a layer reads, not negative; None where the rank is not known."""
    if node.op_type != "MatMul":
        return 1
    source = node.inputs[0]
    return len(source.shape) - 1 if source is not None and source.shape is not None else None
