"""BatchNormalization is folded into the weights beside it: behind Conv, ConvTranspose, Gemm and MatMul, before Conv.

W x + b, then x * scale + shift:     W' = W * scale (per output channel)     b' = b * scale + shift
x * scale + shift, then W x + b:     W' = W * scale (per input channel)      b' = b + sum(W * shift)

The second holds where Conv pads nothing, or where shift is 0: padding is zeros *behind* the normalization. Sums run in
float64; the result is rounded once.
"""

import onnx_ir as ir

from fewbits.graph.passes.base import Declined, FloatArray, PassResult, Skipped, is_onnx, sole_reader, take_over
from fewbits.graph.passes.batchnorm import affine
from fewbits.graph.passes.linear import bias_of, fold_behind, store, weight_of

NAME = "fold-batchnorm"


def run(model: ir.Model) -> PassResult:
    """Fold every BatchNormalization that has an exact home; the reason is given for those that have none."""
    changed, declined = [], []
    for node in [node for node in model.graph if is_onnx(node, "BatchNormalization")]:
        name = str(node.name)
        try:
            home = _fold(model, node)
        except Declined as reason:
            declined.append(Skipped(name, str(reason)))
            continue
        changed.append(f"BatchNormalization {name!r} folded into {home.op_type} {home.name!r}")
    return PassResult(tuple(changed), tuple(declined))


def _fold(model: ir.Model, node: ir.Node) -> ir.Node:
    scale, shift = affine(node)
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    reasons = []
    if source is not None and producer is not None and is_onnx(producer, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        try:
            sole_reader(source)
            fold_behind(model, producer, scale, shift)
        except Declined as reason:
            reasons.append(f"behind {producer.op_type} {producer.name!r}: {reason}")
        else:
            take_over(node.outputs[0], producer.outputs[0])
            return producer
    try:
        return _fold_before(model, node, scale, shift)
    except Declined as reason:
        reasons.append(f"before its reader: {reason}")
    raise Declined("; ".join(reasons))


def _fold_before(model: ir.Model, node: ir.Node, scale: FloatArray, shift: FloatArray) -> ir.Node:
    conv = sole_reader(node.outputs[0])
    if not is_onnx(conv, "Conv") or conv.inputs[0] is not node.outputs[0]:
        raise Declined(f"{conv.op_type} {conv.name!r} reads it, and only Conv can take it in")
    if conv.graph is not node.graph:
        raise Declined(f"its reader {conv.name!r} is in a subgraph")
    weight = weight_of(conv)
    bias = bias_of(conv, weight.shape[0])
    if shift.any() and _pads(conv):
        raise Declined(f"Conv {conv.name!r} pads with zeros behind it, which is not exact with a shift")
    groups = conv.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    per_input = (groups, 1, -1, *[1] * (weight.ndim - 2))
    moved = (grouped * shift.reshape(per_input)).reshape(weight.shape[0], -1).sum(axis=1)
    store(model, conv, (grouped * scale.reshape(per_input)).reshape(weight.shape), bias + moved)
    source = node.inputs[0]
    assert source is not None
    assert node.graph is not None
    node.outputs[0].replace_all_uses_with(source)
    node.graph.remove(node, safe=True)
    return conv


def _pads(conv: ir.Node) -> bool:
    if conv.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return any(conv.attributes.get_ints("pads", ()))
