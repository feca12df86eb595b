"""Smoothing: the difficulty of quantizing what a normalization gives is shared with the weights that read it.

For y = x W with x = n * gamma + beta: gamma / s and beta / s give x / s, and rows of W times s give the same y. With
s_j = max|x_j|^alpha / max|W_j|^(1 - alpha) outlier channels of the activation shrink, and the weights take them up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.passes.base import Declined, FloatArray, constant, constant_shape, is_constant, is_onnx, set_constant
from fewbits.graph.shapes import infer_shapes
from fewbits.improvement.chains import check_arrival, value_readers
from fewbits.improvement.channel_path import Place, move
from fewbits.improvement.layer_blocks import blocks_of, is_layer, multiply_inputs
from fewbits.improvement.result import Improved

_NORMS = ("LayerNormalization", "RMSNormalization")
_SMALLEST, _LARGEST = 1e-3, 1e3
_DEAD = 1e-5  # of the largest of all channels
_WORSE = 1e-9
_NOTHING = "no normalization, and no Mul by a constant per channel, in the model"


@dataclass(frozen=True, slots=True)
class _Smoothable:
    """A node that scales channels by constants: `parameters` are the positions of what is divided by s."""

    node: ir.Node
    place: Place
    parameters: tuple[int, ...]
    readers: tuple[tuple[ir.Node, int], ...]
    """Each layer that reads it, and how many of its inputs belong to one channel."""


def tops_to_observe(model: ir.Model) -> dict[str, int]:
    """Return tensor -> channel axis of the activations whose largest magnitudes `smooth` needs."""
    work = model.clone()
    infer_shapes(work)
    found, _ = _find(work.graph)
    return {str(item.place.value.name): item.place.axis for item in found}


def smooth(model: ir.Model, tops: Mapping[str, npt.NDArray[np.generic]], *, alpha: float = 0.5) -> Improved:
    """Return `model` with the ranges of normalized activations evened out at the cost of weights; it computes the same.

    Smoothed are LayerNormalization, RMSNormalization and Mul by a constant per channel of the last axis (gamma of a
    normalization written out), where all that reads them are layers with constant weights.

    Args:
        model: a prepared float graph; left as it is.
        tops: tensor -> largest magnitude of each channel on the data; which ones says `tops_to_observe`.
        alpha: share of the difficulty that the weights take: 0 none, 1 all.

    Returns:
        `errors` has for each normalization 1 - mean_j (x_j / max x) (w_j / max w), x_j and w_j being the largest
        magnitudes of channel j in the activation and in the weights. What would get worse is declined.

    Raises:
        SpecError: alpha is not in [0, 1], or an array in `tops` does not have one value per channel.
        ModelError: the shapes of the graph contradict each other.
    Source: Xiao et al. 2023, SmoothQuant, equation 4. Scales lie in [0.001, 1000].
    """
    if not 0 <= alpha <= 1:
        raise SpecError(f"alpha must lie between 0 and 1, not {alpha!r}.")
    work = model.clone()
    infer_shapes(work)
    found, declined = _find(work.graph)
    errors, names = dict[str, tuple[float, float]](), set[str]()
    for item in found:
        name = str(item.node.name)
        try:
            scale, errors[name] = _scale(item, tops, alpha)
        except Declined as reason:
            declined[name] = str(reason)
            continue
        _apply(work, item, scale)
        names.update((name, *(str(layer.name) for layer, _ in item.readers)))
    changed = tuple(str(node.name) for node in work.graph if node.name in names)
    notes = () if found or declined else (_NOTHING,)
    return Improved(work, changed=changed, declined=declined, errors=errors, notes=notes)


def _find(graph: ir.Graph) -> tuple[list[_Smoothable], dict[str, str]]:
    """Return what can be smoothed, and node -> reason for the normalizations that cannot."""
    found, declined = list[_Smoothable](), dict[str, str]()
    for node in graph:
        if is_onnx(node, *_NORMS) or _is_gamma(node):
            try:
                found.append(_smoothable(node))
            except Declined as reason:
                declined[str(node.name)] = str(reason)
    return found, declined


def _is_gamma(node: ir.Node) -> bool:
    """Whether `node` multiplies what is computed by constants along the last axis."""
    if not is_onnx(node, "Mul") or len(node.inputs) != 2:
        return False
    shapes = [constant_shape(value) for value in node.inputs if is_constant(value)]
    out = node.outputs[0]
    if len(shapes) != 1 or not shapes[0] or out.shape is None or len(out.shape) < 2:
        return False
    return shapes[0][-1] == out.shape[-1] != 1 and set(shapes[0][:-1]) <= {1} and len(shapes[0]) <= len(out.shape)


def _smoothable(node: ir.Node) -> _Smoothable:
    out = node.outputs[0]
    size = out.shape[-1] if out.shape is not None and len(out.shape) >= 2 else None
    if out.shape is None or not isinstance(size, int):
        raise Declined(f"the last dimension of {out.name!r} is not known")
    place = Place(out, len(out.shape) - 1, size)
    parameters = _parameters(node, place)
    readers = _readers(place)
    if not readers:
        raise Declined(f"nothing reads {out.name!r}")
    return _Smoothable(node, place, parameters, tuple(readers))


def _parameters(node: ir.Node, place: Place) -> tuple[int, ...]:
    if node.op_type == "Mul":
        return tuple(i for i, value in enumerate(node.inputs) if is_constant(value))
    if node.attributes.get_int("axis", -1) not in (-1, place.axis):
        raise Declined("it normalizes more than the last axis")
    found = tuple(i for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None)
    for i in found:
        shape = constant_shape(node.inputs[i])
        if shape is None:
            raise Declined("its scale or bias is not a constant")
        if int(np.prod(shape)) != place.channels or shape[-1] != place.channels:
            raise Declined(f"its scale or bias has the shape {list(shape)}, not one value per channel")
    return found


def _readers(place: Place) -> list[tuple[ir.Node, int]]:
    """Return the layers that read the channels of `place`, past nodes that only move them.

    Raises:
        Declined: something else reads them.
    """
    if place.value.is_graph_output():
        raise Declined(f"{place.value.name!r} is an output of the graph")
    found = list[tuple[ir.Node, int]]()
    for reader in value_readers(place.value):
        if is_layer(reader) and is_onnx(reader, "Conv", "Gemm", "MatMul"):
            check_arrival(reader, place)
            found.append((reader, place.repeat))
        elif is_onnx(reader, "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout"):
            found += _readers(move(reader, place))
        else:
            raise Declined(f"{reader.op_type} {reader.name!r} reads it too, which has no constant weight to scale")
    return found


def _scale(
    item: _Smoothable, tops: Mapping[str, npt.NDArray[np.generic]], alpha: float
) -> tuple[FloatArray, tuple[float, float]]:
    """Return s [C] and the error before and after."""
    name, size = str(item.place.value.name), item.place.channels
    if name not in tops:
        raise Declined(f"the largest magnitudes of {name!r} were not observed")
    top = np.asarray(tops[name], np.float64)
    if top.shape != (size,) or not (top >= 0).all():
        raise SpecError(
            f"The magnitudes of {name!r} have the shape {list(top.shape)}: it needs one for each of {size} channels."
        )
    if not np.isfinite(top).all():
        raise Declined(f"the largest magnitude of {name!r} is not finite")
    rows = np.max([_row_ranges(layer, repeat) for layer, repeat in item.readers], axis=0)
    alive = (top > _DEAD * top.max()) & (rows > _DEAD * rows.max())
    powers = np.where(alive, top, 1.0) ** alpha / np.where(alive, rows, 1.0) ** (1 - alpha)
    scale = np.where(alive, np.clip(powers, _SMALLEST, _LARGEST), 1.0)
    before, after = _error(top, rows), _error(top / scale, rows * scale)
    if after > before + _WORSE:
        raise Declined(f"it would not get better (error {before:.3f}, smoothed {after:.3f})")
    return scale, (before, after)


def _row_ranges(layer: ir.Node, repeat: int) -> FloatArray:
    """Return the largest absolute weight of each input channel, [C]."""
    ranges: FloatArray = np.abs(blocks_of(layer)).max(axis=(2, 3)).reshape(-1, repeat).max(axis=1)
    return ranges


def _error(top: FloatArray, rows: FloatArray) -> float:
    largest = float(top.max(initial=0.0)) * float(rows.max(initial=0.0))
    return 1.0 - float((top * rows).mean()) / largest if largest > 0 else 1.0


def _apply(model: ir.Model, item: _Smoothable, scale: FloatArray) -> None:
    for index in item.parameters:
        old = constant(item.node.inputs[index])
        assert old is not None
        set_constant(model, item.node, index, (old / scale).astype(np.float32), wanted=f"{item.node.name}_smooth")
    for layer, repeat in item.readers:
        multiply_inputs(model, layer, np.repeat(scale, repeat))
