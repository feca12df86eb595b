"""High-bias absorption: what a channel always has before its Relu is moved from this bias into that of the next layer.

For y = W2 relu(z) + b2 with z = W1 x + b1 >= c > 0 on the data: relu(z - c) = relu(z) - c there, so that b1 - c and
b2 + W2 c compute the same, with activations of a smaller range. Exact where z >= c, and only there.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.naming import all_nodes, unique_name, value_names
from fewbits.graph.passes.base import Declined, FloatArray, add_initializer
from fewbits.graph.passes.linear import fold_behind
from fewbits.graph.shapes import infer_shapes
from fewbits.improvement.bounds import lower_by, rewrite_bound
from fewbits.improvement.chains import Pair, find_pairs
from fewbits.improvement.channel_path import PRODUCTS, RECTIFIERS, Place
from fewbits.improvement.layer_blocks import blocks_of
from fewbits.improvement.result import Improved

_RECTIFIERS = (*RECTIFIERS, "Clip")


def lows_to_observe(model: ir.Model) -> dict[str, int]:
    """Return tensor -> channel axis of the pre-activations whose minima `absorb_bias` needs."""
    work = model.clone()
    infer_shapes(work)
    found = {}
    for pair in find_pairs(work.graph)[0]:
        try:
            place = _pre_activation(pair)
        except Declined:
            continue
        found[str(place.value.name)] = place.axis
    return found


def absorb_bias(model: ir.Model, lows: Mapping[str, npt.NDArray[np.generic]]) -> Improved:
    """Return `model` with the always positive part of pre-activations moved into the bias of the next layer.

    Args:
        model: a prepared float graph; left as it is.
        lows: tensor -> smallest value of each channel on the data; which ones says `lows_to_observe`.

    Returns:
        On inputs whose pre-activations are not below `lows` the model computes the same. `errors` has for the first
        layer of each pair the mean over channels of the positive part of the minimum, before and after.

    Raises:
        SpecError: an array in `lows` does not have one value per channel.
        ModelError: the shapes of the graph contradict each other.
    Source: Nagel et al. 2019, Data-Free Quantization through Weight Equalization and Bias Correction, section 4.1.3;
        c is the observed minimum instead of beta - 3 gamma.
    """
    work = model.clone()
    infer_shapes(work)
    pairs, skipped = find_pairs(work.graph)
    declined = {item.name: item.reason for item in skipped}
    shifts = dict[Pair, FloatArray]()
    for pair in pairs:
        try:
            shifts[pair] = _shift(pair, lows)
        except Declined as reason:
            declined[pair.name] = str(reason)
    for pair, shift in shifts.items():
        _absorb(work, pair, shift)
    names = {str(layer.name) for pair in shifts for layer in (pair.first, pair.second)}
    errors = {pair.name: (float(shift.mean()), 0.0) for pair, shift in shifts.items()}
    if names:
        infer_shapes(work)
    notes = (
        "Biases were absorbed: the model is the same where pre-activations stay above the minima seen in the data.",
    )
    changed = tuple(str(node.name) for node in work.graph if node.name in names)
    return Improved(work, changed=changed, declined=declined, errors=errors, notes=notes if names else ())


def _pre_activation(pair: Pair) -> Place:
    """Return the channels in what the one rectifier of `pair` reads.

    Raises:
        Declined: the shift would not pass through to the next layer as a constant.
    """
    found = [(node, place) for node, place in pair.path if node.op_type in _RECTIFIERS]
    if len(found) != 1:
        kinds = ", ".join(repr(str(node.name)) for node, _ in found) or "no Relu"
        raise Declined(f"{kinds} stands between it and the next layer, and one Relu is needed")
    if pair.clips:
        raise Declined(f"Clip {pair.clips[0].node.name!r} bounds all channels alike")
    for node, _ in pair.path:
        _check_passes_shift(node)
    _check_pads(pair.second)
    return found[0][1]


def _check_passes_shift(node: ir.Node) -> None:
    if node.op_type in PRODUCTS:
        raise Declined(f"{node.op_type} {node.name!r} would scale what is moved")
    if node.op_type != "AveragePool":
        return
    padded = any(node.attributes.get_ints("pads", ())) or node.attributes.get_int("ceil_mode", 0) != 0
    if padded or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Declined(f"AveragePool {node.name!r} averages over its padding too")


def _check_pads(layer: ir.Node) -> None:
    name = repr(str(layer.name))
    if layer.op_type == "ConvTranspose":
        raise Declined(f"the next layer {name} is a ConvTranspose, whose borders see fewer inputs")
    if layer.op_type == "Conv" and (
        any(layer.attributes.get_ints("pads", ()))
        or layer.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        raise Declined(f"the next layer {name} pads with zeros, which are not shifted")


def _shift(pair: Pair, lows: Mapping[str, npt.NDArray[np.generic]]) -> FloatArray:
    """Return c [C], the positive part of the observed minima."""
    place = _pre_activation(pair)
    name, size = str(place.value.name), place.channels * place.repeat
    if name not in lows:
        raise Declined(f"the minimum of {name!r} was not observed")
    low = np.asarray(lows[name], np.float64)
    if low.shape != (size,):
        raise SpecError(
            f"The minima of {name!r} have the shape {list(low.shape)}: it needs one value for each of {size}."
        )
    shift: FloatArray = np.maximum(low.reshape(place.channels, place.repeat).min(axis=1), 0.0)
    if not np.isfinite(shift).all():
        raise Declined(f"the minimum of {name!r} is not finite")
    if not shift.any():
        raise Declined(f"no channel of {name!r} is always above zero")
    return shift


def _absorb(model: ir.Model, pair: Pair, shift: FloatArray) -> None:
    blocks = blocks_of(pair.second).sum(axis=3)
    inputs = np.repeat(shift, pair.repeat).reshape(blocks.shape[0], blocks.shape[1], 1)
    gain = pair.second.attributes.get_float("alpha", 1.0) if pair.second.op_type == "Gemm" else 1.0
    _add_to_result(model, pair.first, -shift)
    _add_to_result(model, pair.second, gain * (blocks * inputs).sum(axis=1).reshape(-1))
    for bound in pair.bounds:
        if bound.node.op_type != "Add":
            rewrite_bound(model, bound, lower_by(shift, bound))


def _add_to_result(model: ir.Model, layer: ir.Node, shift: FloatArray) -> None:
    """Let a layer compute y + shift, in place; one without a bias gets one."""
    source = layer.inputs[0]
    is_stacked = source is None or source.shape is None or len(source.shape) != 2
    if layer.op_type != "MatMul" or not is_stacked:
        fold_behind(model, layer, np.ones_like(shift), shift)
        return
    old, name = layer.outputs[0], layer.outputs[0].name
    vector = add_initializer(model, f"{layer.name}_bias", shift.astype(np.float32))
    add = ir.node("Add", [None, vector], name=unique_name(f"{layer.name}_add", {str(n.name) for n in all_nodes(model)}))
    new = add.outputs[0]
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    add.replace_input_with(0, old)
    model.graph.insert_after(layer, add)
    old.name = unique_name(f"{name}_product", value_names(model))
    new.name = name
