"""Move the constants between two layers along with the channels: bounds of Clip, Min and Max, summands of Add."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from fewbits.graph.naming import all_nodes, unique_name, value_names
from fewbits.graph.passes.base import FloatArray, add_initializer, constant, set_constant, take_over
from fewbits.improvement.channel_path import Bound, spread


def rewrite_bound(model: ir.Model, bound: Bound, change: Callable[[FloatArray], FloatArray]) -> None:
    """Replace a constant k by change(k), one value per channel, in place.

    A Clip of zero to k has one bound for all channels; it becomes a Relu and a Min, which is the same function.

    Args:
        model: holds the node of `bound`.
        bound: from `find_pairs`.
        change: [C * repeat] -> [C * repeat], in float64.
    """
    node, place = bound.node, bound.place
    old = constant(node.inputs[bound.index])
    assert old is not None
    count = place.channels * place.repeat
    values = change(np.broadcast_to(old.reshape(-1), (count,))).astype(np.float32).reshape(place.spread_shape)
    if node.op_type == "Clip":
        _split_clip(model, node, values)
    else:
        set_constant(model, node, bound.index, values, wanted=f"{node.name}_bound")


def replace_clip(model: ir.Model, clip: ir.Node) -> None:
    """Make a Clip of zero to a constant a Relu, in place: its upper bound is gone."""
    relu = _relu_before(model, clip)
    take_over(clip.outputs[0], relu.outputs[0])


def _split_clip(model: ir.Model, clip: ir.Node, high: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """Make a Clip of zero a Relu, which keeps the node name, and a Min, which keeps the name of the result."""
    relu = _relu_before(model, clip)
    out, value = clip.outputs[0], relu.outputs[0]
    value.name, value.shape, value.type = unique_name(f"{out.name}_relu", value_names(model)), out.shape, out.type
    bound = add_initializer(model, f"{clip.name}_high", high)
    name = unique_name(f"{clip.name}_min", {str(node.name) for node in all_nodes(model)})
    least = ir.node("Min", [value, bound], name=name)
    model.graph.insert_before(clip, least)
    take_over(out, least.outputs[0])


def _relu_before(model: ir.Model, clip: ir.Node) -> ir.Node:
    relu = ir.node("Relu", [clip.inputs[0]], name=clip.name)
    model.graph.insert_before(clip, relu)
    return relu


def divide_by(scale: FloatArray, bound: Bound) -> Callable[[FloatArray], FloatArray]:
    """Return the change that follows channels divided by `scale` [C]."""
    divisor = spread(scale, bound.place).reshape(-1)
    return lambda values: values / divisor


def lower_by(shift: FloatArray, bound: Bound) -> Callable[[FloatArray], FloatArray]:
    """Return the change that follows channels lowered by `shift` [C]."""
    lowered = spread(shift, bound.place).reshape(-1)
    return lambda values: values - lowered
