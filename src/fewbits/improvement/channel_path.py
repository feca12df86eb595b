"""How the channels of a tensor pass through one node: f(x / s) = f(x) / s channel by channel, and where they come out.

A place says where the channels of a layer are in a tensor: element e (row-major) belongs to channel (e // step) mod C.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import Declined, FloatArray, constant, constant_shape, is_constant
from fewbits.graph.topology import op_rule

RECTIFIERS = ("Relu", "LeakyRelu", "PRelu")
PRODUCTS = ("Mul", "Div")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_MOVED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_BOUNDED = ("Add", "Min", "Max")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the channels of a layer are.

    Attributes:
        value: the tensor.
        axis: not negative; the channels lie along it.
        channels: C.
        repeat: neighbours along the axis that belong to one channel (1 but behind a Flatten).
    """

    value: ir.Value
    axis: int
    channels: int
    repeat: int = 1

    @property
    def rank(self) -> int:
        """Rank of the tensor.

        Raises:
            Declined: it is not known.
        """
        if self.value.shape is None:
            raise Declined(f"the rank of {self.value.name!r} is not known")
        return len(self.value.shape)

    @property
    def step(self) -> int:
        """Elements, row-major, from the begin of a channel to that of the next one.

        Raises:
            Declined: a dimension behind the axis is not known.
        """
        return self.repeat * self._behind()

    def _behind(self) -> int:
        sizes = list(self.value.shape or ())[self.axis + 1 :] if self.rank else []
        if not all(isinstance(size, int) for size in sizes):
            raise Declined(f"{self.value.name!r} has the shape {self.value.shape}, which is not known well enough")
        return math.prod(size for size in sizes if isinstance(size, int))

    @property
    def spread_shape(self) -> tuple[int, ...]:
        """Shape in which one value for each element of the axis is broadcast over the tensor."""
        return (self.channels * self.repeat,) + (1,) * (self.rank - 1 - self.axis)


@dataclass(frozen=True, slots=True)
class Bound:
    """A constant that has to move with the channels: input `index` of an Add, Min, Max, or of a Clip of zero to it.

    Attributes:
        node: the operator.
        index: which of its inputs is the constant.
        place: the channels in its result.
    """

    node: ir.Node
    index: int
    place: Place


def follow(node: ir.Node, place: Place) -> tuple[Place, Bound | None]:
    """Return where the channels of `place` come out of `node`, which reads it, and the constant that moves with them.

    Raises:
        Declined: the node mixes channels, is not homogeneous, or what it does to them is not known.
    """
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise Declined(f"{_said(node)} has a second result that is used")
    out = Place(node.outputs[0], place.axis, place.channels, place.repeat)
    if node.domain not in ("", "ai.onnx"):
        raise Declined(f"{_said(node)} is not an operator of ONNX")
    if node.op_type in _BOUNDED:
        if out.rank != place.rank:
            raise Declined(f"{_said(node)} changes its rank")
        return out, Bound(node, _constant_index(node, out), out)
    if node.op_type in PRODUCTS:
        _check_product(node, place)
        return out, None
    if node.op_type == "Clip":
        _check_clip(node)
        return out, Bound(node, 2, out) if _has(node, 2) else None
    if node.op_type in RECTIFIERS:
        _check_slope(node, place)
        return out, None
    return move(node, place), None


def move(node: ir.Node, place: Place) -> Place:
    """Return where the channels come out of a node that passes on, picks or averages values inside each of them.

    Raises:
        Declined: it does something else.
    """
    if node.op_type == "Identity" or (node.op_type == "Dropout" and op_rule(node) is not None):
        return Place(node.outputs[0], place.axis, place.channels, place.repeat)
    if node.op_type in _POOLS and place.axis == 1:
        return Place(node.outputs[0], 1, place.channels, place.repeat)
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(place.rank))))
        return Place(node.outputs[0], list(order).index(place.axis), place.channels, place.repeat)
    if node.op_type in _MOVED and node.inputs[0] is place.value:
        return _reshaped(node, place)
    raise Declined(f"{_said(node)} stands between it and the next layer")


def _reshaped(node: ir.Node, place: Place) -> Place:
    """Find the axis whose span in elements is that of all channels: its elements then count channels in order."""
    step, out = place.step, node.outputs[0]
    shape = list(out.shape) if out.shape is not None else []
    behind = 1
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        if not isinstance(size, int) or behind > step:
            break
        if size * behind == place.channels * step and step % behind == 0:
            return Place(out, axis, place.channels, step // behind)
        behind *= size
    raise Declined(f"{_said(node)} takes its channels apart, or its shape is not known well enough")


def _constant_index(node: ir.Node, out: Place) -> int:
    """Return which input is the constant of one value per channel, or one value."""
    found = [i for i, value in enumerate(node.inputs) if is_constant(value)]
    if len(node.inputs) != 2 or len(found) != 1:
        raise Declined(f"{_said(node)} joins it with another tensor")
    shape, behind = constant_shape(node.inputs[found[0]]) or (), len(out.spread_shape)
    full = (1,) * (behind - len(shape)) + shape
    if math.prod(shape) != 1 and (full[-behind:] != out.spread_shape or math.prod(full[:-behind]) != 1):
        raise Declined(f"the constant of {_said(node)} has the shape {list(shape)}, not one value per channel")
    return found[0]


def _check_clip(node: ir.Node) -> None:
    """Check that a Clip is one of zero to nothing or to a positive constant."""
    low = constant(node.inputs[1]) if _has(node, 1) else None
    if low is None or low.size != 1:
        raise Declined(f"the lower bound of {_said(node)} is not known")
    if low.reshape(-1)[0] != 0:
        raise Declined(f"the lower bound of {_said(node)} is {low.reshape(-1)[0]:g}, not 0")
    if not _has(node, 2):
        return
    high = constant(node.inputs[2])
    if high is None or high.size != 1:
        raise Declined(f"the upper bound of {_said(node)} is not known")
    if not high.reshape(-1)[0] > 0:
        raise Declined(f"the upper bound of {_said(node)} is {high.reshape(-1)[0]:g}, not above 0")


def _check_product(node: ir.Node, place: Place) -> None:
    """Check that the other factor, constant or computed, leaves rank and channels as they are."""
    out = node.outputs[0]
    if node.op_type == "Div" and node.inputs[0] is not place.value:
        raise Declined(f"{_said(node)} divides by it")
    if out.shape is None or len(out.shape) != place.rank or out.shape[place.axis] != place.channels * place.repeat:
        raise Declined(f"{_said(node)} changes its shape")


def _check_slope(node: ir.Node, place: Place) -> None:
    if node.op_type != "PRelu":
        return
    shape = constant_shape(node.inputs[1])
    if shape is None or node.inputs[0] is not place.value:
        raise Declined(f"the slope of {_said(node)} is not a constant")


def _has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def spread(array: FloatArray, place: Place) -> FloatArray:
    """Return one value per channel [C] in the shape that is broadcast over the tensor of `place`."""
    return np.repeat(array, place.repeat).reshape(place.spread_shape)


def _said(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}"
