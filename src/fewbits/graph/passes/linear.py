"""Take a per-channel map into the weights of the node before it: W' = W * scale, b' = b * scale + shift, in float64."""

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import Declined, FloatArray, add_initializer, constant, constant_shape, set_constant


def fold_behind(model: ir.Model, node: ir.Node, scale: FloatArray, shift: FloatArray) -> None:
    """Let Conv, ConvTranspose, Gemm or MatMul compute y * scale + shift instead of y, in place.

    Args:
        model: holds `node`.
        node: its weight and bias are constants; a MatMul becomes a Gemm, so its input must have rank 2.
        scale: [C], one value per output channel.
        shift: [C].

    Raises:
        Declined: the weights cannot take it in; nothing was changed.
    """
    weight = weight_of(node)
    bias = bias_of(node, 1)
    if node.op_type in ("Conv", "ConvTranspose"):
        scaled = _scale_outputs(node, weight, scale)
        bias = np.broadcast_to(bias, scale.shape)
    else:
        scaled, bias = _scale_columns(node, weight, bias, scale)
    store(model, node, scaled, bias * scale + shift)
    if node.op_type == "MatMul":
        node.op_type = "Gemm"
    elif node.op_type == "Gemm":
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)


def weight_of(node: ir.Node) -> FloatArray:
    """Return the constant weight of a linear node.

    Raises:
        Declined: it is computed or fed.
    """
    weight = constant(node.inputs[1])
    if weight is None:
        raise Declined(f"the weight of {node.name!r} is not a constant")
    return weight


def bias_of(node: ir.Node, size: int) -> FloatArray:
    """Return the constant bias of a linear node, zeros of `size` where it has none.

    Raises:
        Declined: it is computed or fed.
    """
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(size)
    bias = constant(node.inputs[2])
    if bias is None:
        raise Declined(f"the bias of {node.name!r} is not a constant")
    return bias


def channels_of(node: ir.Node) -> int:
    """Return the output channels of a Conv, ConvTranspose, Gemm or MatMul.

    Raises:
        Declined: its weight is computed or fed.
    """
    shape = constant_shape(node.inputs[1])
    if shape is None:
        raise Declined(f"the weight of {node.name!r} is not a constant")
    match node.op_type:
        case "Conv":
            return shape[0]
        case "ConvTranspose":
            return shape[1] * node.attributes.get_int("group", 1)
        case "Gemm":
            return shape[0 if node.attributes.get_int("transB", 0) else 1]
    return shape[-1]


def store(model: ir.Model, node: ir.Node, weight: FloatArray, bias: FloatArray) -> None:
    """Write weight and bias, rounded once to the type of the old weight; tensors that other nodes share are copied.

    Raises:
        Declined: the new weights do not fit their type.
    """
    old = node.inputs[1]
    assert old is not None
    assert old.const_value is not None
    dtype = old.const_value.dtype.numpy()
    with np.errstate(over="ignore"):
        rounded_weight, rounded_bias = weight.astype(dtype), bias.astype(dtype)
    if not (np.isfinite(rounded_weight).all() and np.isfinite(rounded_bias).all()):
        raise Declined(f"the folded weights exceed {old.const_value.dtype.name}")
    set_constant(model, node, 1, rounded_weight, wanted=f"{old.name}_{node.name}")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        set_constant(model, node, 2, rounded_bias, wanted=f"{node.inputs[2].name}_{node.name}")
        return
    node.resize_inputs(3)
    node.replace_input_with(2, add_initializer(model, f"{node.name}_bias", rounded_bias))


def _scale_outputs(node: ir.Node, weight: FloatArray, scale: FloatArray) -> FloatArray:
    """Scale the output channels: Conv [O, I/g, ...] along axis 0, ConvTranspose [I, O/g, ...] along axis 1 by group."""
    if node.op_type == "Conv":
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = node.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    scaled: FloatArray = grouped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return scaled.reshape(weight.shape)


def _scale_columns(
    node: ir.Node, weight: FloatArray, bias: FloatArray, scale: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Scale the output features of Gemm or MatMul and return its bias as it is added, [N]."""
    if node.op_type == "MatMul":
        source = node.inputs[0]
        if source is None or source.shape is None or len(source.shape) != 2 or weight.ndim != 2:
            raise Declined("its input is not known to have rank 2, so the channel axis is not its last")
        return weight * scale, np.zeros_like(scale)
    if bias.size != 1 and bias.shape not in ((scale.size,), (1, scale.size)):
        raise Declined(f"its bias has the shape {list(bias.shape)}, not one value per output")
    bias = np.broadcast_to(bias.reshape(-1), scale.shape) * node.attributes.get_float("beta", 1.0)
    return weight * (scale[:, None] if node.attributes.get_int("transB", 0) else scale), bias
