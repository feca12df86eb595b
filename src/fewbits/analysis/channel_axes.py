"""Which axis of a tensor holds its channels: read off the operators that make and use it, not off its shape alone."""

from collections.abc import Iterable

import onnx_ir as ir

from fewbits.graph.topology import constant, is_float32, op_rule
from fewbits.spec.optable import Kind

_SECOND = frozenset({
    "Conv", "ConvTranspose", "InstanceNormalization", "GroupNormalization", "MaxPool", "AveragePool", "LpPool",
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "DepthToSpace", "SpaceToDepth", "LRN", "GridSample",
})  # fmt: skip
_LAST = frozenset({"Gemm", "MatMul", "LayerNormalization", "RMSNormalization"})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_MIXING = frozenset({"Transpose", "Gather", "GatherND", "GatherElements", "Expand", "Tile", *_RESHAPING})

Axes = dict[ir.Value, int]


def channel_axes(graph: ir.Graph) -> dict[str, int]:
    """Return tensor name -> axis of its channels, for the float32 tensors where operators tell it.

    Convolutions, pools and their like have channels on axis 1, layers that multiply by a matrix or normalize the last
    axis have them there; what works element by element, transposes or reshapes carries the axis on, both ways. For the
    others the caller falls back on the shape (`numerics.channel_error.channel_axis_of`).
    """
    axes: Axes = {}
    nodes = list(graph)
    for sweep in (nodes, nodes[::-1], nodes):  # forwards, backwards for what comes before the first layer, and on
        for node in sweep:
            _visit(node, axes)
    return {str(value.name): axis for value, axis in axes.items()}


def _visit(node: ir.Node, axes: Axes) -> None:
    ins = [v for v in node.inputs if v is not None and is_float32(v) and constant(v) is None and v.shape is not None]
    outs = [v for v in node.outputs if is_float32(v) and v.shape is not None]
    if node.op_type in _SECOND:
        _set(axes, [v for v in (*ins[:1], *outs) if _rank(v) > 1], 1)
    elif node.op_type in _LAST and (node.op_type != "MatMul" or constant(node.inputs[1]) is not None):
        is_transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
        for value in (*(() if is_transposed else ins[:1]), *outs):
            _set(axes, [value], _rank(value) - 1)
    elif ins and node.op_type in ("Transpose", *_RESHAPING):
        _carry(node, ins[0], outs, axes)
    elif (rule := op_rule(node)) is not None and rule.kind is not Kind.LINEAR and node.op_type not in _MIXING:
        alike = [v for v in (*ins, *outs) if outs and _rank(v) == _rank(outs[0])]
        known = next((axes[v] for v in alike if v in axes), None)
        if known is not None:
            _set(axes, alike, known)


def _carry(node: ir.Node, source: ir.Value, outs: list[ir.Value], axes: Axes) -> None:
    """Carry the axis through one Transpose or Reshape, whichever side knows it."""
    if not outs:
        return
    result = outs[0]
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", ())) or list(range(_rank(source)))[::-1]
        if source in axes:
            _set(axes, [result], perm.index(axes[source]))
        elif result in axes:
            _set(axes, [source], perm[axes[result]])
        return
    for known, other in ((source, result), (result, source)):
        if known in axes and other not in axes and (axis := _same_axis(known, other, axes[known])) is not None:
            axes[other] = axis


def _same_axis(known: ir.Value, other: ir.Value, axis: int) -> int | None:
    """Return where `axis` of `known` is after a reshape: counted from the front or the back, if all up to it stays."""
    left, right = list(known.shape or ()), list(other.shape or ())
    if left[: axis + 1] == right[: axis + 1]:
        return axis
    if axis == len(left) - 1 and right and left[-1] == right[-1]:
        return len(right) - 1
    return None


def _set(axes: Axes, values: Iterable[ir.Value], axis: int) -> None:
    for value in values:
        if axis >= 0:
            axes.setdefault(value, axis)


def _rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 0
