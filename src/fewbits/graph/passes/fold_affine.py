"""Mul, Div, Add and Sub by a constant per channel are folded into the Conv, ConvTranspose or Gemm before them.

onnxslim has patterns for this too; they are switched off, because they round in float32 and match a constant along the
width of an image as if it were one per channel.
"""

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import (
    Declined,
    FloatArray,
    PassResult,
    Skipped,
    constant,
    constant_shape,
    is_constant,
    is_onnx,
    sole_reader,
    take_over,
)
from fewbits.graph.passes.linear import channels_of, fold_behind

NAME = "fold-affine"


def run(model: ir.Model) -> PassResult:
    """Fold each such node whose constant is a scalar or one value per output channel."""
    changed, declined = [], []
    for node in list(model.graph):
        home = _home(node)
        if home is None:
            continue
        name, op_type = str(node.name), node.op_type
        try:
            sole_reader(home.outputs[0])
            scale, shift = _affine(node, home)
            fold_behind(model, home, scale, shift)
        except Declined as reason:
            declined.append(Skipped(name, str(reason)))
            continue
        take_over(node.outputs[0], home.outputs[0])
        changed.append(f"{op_type} {name!r} folded into {home.op_type} {home.name!r}")
    return PassResult(tuple(changed), tuple(declined))


def _home(node: ir.Node) -> ir.Node | None:
    """Return the linear node whose result `node` combines with a constant, or None where there is nothing to fold."""
    if not is_onnx(node, "Mul", "Div", "Add", "Sub"):
        return None
    first, second = node.inputs
    if node.op_type in ("Mul", "Add") and is_constant(first):
        first, second = second, first
    home = first.producer() if first is not None and is_constant(second) else None
    if home is None or not is_onnx(home, "Conv", "ConvTranspose", "Gemm") or home.graph is not node.graph:
        return None
    return home


def _affine(node: ir.Node, home: ir.Node) -> tuple[FloatArray, FloatArray]:
    factor = next(array for value in reversed(node.inputs) if (array := constant(value)) is not None)
    channels = channels_of(home)
    rank = len(constant_shape(home.inputs[1]) or ())
    shape = (1,) * (rank - factor.ndim) + factor.shape
    if len(shape) != rank or shape not in ((1,) * rank, (1, channels) + (1,) * (rank - 2)):
        raise Declined(
            f"its constant has the shape {list(factor.shape)}, not one value for each of {channels} channels"
        )
    values = np.broadcast_to(factor.reshape(-1), (channels,))
    if node.op_type == "Div" and not values.all():
        raise Declined("it divides by zero")
    one, zero = np.ones(channels), np.zeros(channels)
    return {"Mul": (values, zero), "Div": (one / np.where(values == 0, 1, values), zero), "Add": (one, values)}.get(
        node.op_type, (one, -values)
    )
