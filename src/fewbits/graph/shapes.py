"""Shapes: infer them, and fix the dimensions that a model leaves open."""

import logging
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from fewbits.errors import ModelError, SpecError
from fewbits.graph.bridge import without_weights
from fewbits.graph.naming import all_nodes

logger = logging.getLogger(__name__)


def infer_shapes(model: ir.Model) -> None:
    """Fill in dtype and shape of every value that onnx can infer, in place; weights of any size stay where they are.

    Known sizes win over open ones, names over nameless ones; what contradicts the model's own record replaces it for
    values inside the graph, and is dropped for its outputs.

    Raises:
        ModelError: the graph contradicts itself, such as a Conv whose weight does not fit its input.
    """
    proto, _ = without_weights(model)
    custom = {value.name for node in all_nodes(model) if node.domain for value in node.outputs}
    kept = [info for info in proto.graph.value_info if info.name in custom]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    _stand_in(proto.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except Exception as error:  # onnx raises InferenceError and RuntimeError
        raise ModelError(f"The shapes of the model contradict each other: {_tail(error)}.") from error
    source = ir.from_proto(inferred)
    for mine, theirs in zip(model.graphs(), source.graphs(), strict=True):
        found = {value.name: value for node in theirs for value in node.outputs if value.name}
        for value in (value for node in mine for value in node.outputs):
            if value.name in found:
                _merge(value, found[value.name])


def _stand_in(graph: onnx.GraphProto) -> None:
    """Let Identity stand for GroupNormalization, whose result onnx 1.23 does not infer: type and shape of its input."""
    for node in graph.node:
        if node.op_type == "GroupNormalization" and not node.domain:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]


def fix_dims(model: ir.Model, dims: Mapping[str, int]) -> None:
    """Give the named open dimensions of the inputs a size, wherever the names occur, in place.

    Args:
        model: its symbolic dimensions carry the names, such as "batch".
        dims: name -> size, at least 1.

    Raises:
        SpecError: no input has an open dimension of that name, or the size is not positive.
    """
    names = open_dims(model)
    for name, size in dims.items():
        if name not in names:
            have = f"it has {', '.join(names)}" if names else "all its input dimensions have a size or no name"
            raise SpecError(f"The model has no open dimension {name!r}: {have}.")
        if size < 1:
            raise SpecError(f"Dimension {name!r} must be at least 1, not {size}.")
    values = [*model.graph.inputs, *(value for node in all_nodes(model) for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([dims.get(_name(dim) or "", dim) for dim in value.shape])
    infer_shapes(model)


def open_dims(model: ir.Model) -> list[str]:
    """Return the names of the inputs' open dimensions, in order of appearance."""
    names = [_name(dim) for value in model.graph.inputs for dim in (value.shape or ())]
    return list(dict.fromkeys(name for name in names if name))


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of `value` where every dimension is known, else None."""
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(dim for dim in value.shape if isinstance(dim, int))


def _name(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else dim.value


def _merge(value: ir.Value, found: ir.Value) -> None:
    if found.type is not None and (value.type is None or not value.is_graph_output()):
        value.type = found.type
    if found.shape is None:
        return
    if value.shape is None or len(value.shape) != len(found.shape):
        if not value.is_graph_output() or value.shape is None:
            value.shape = ir.Shape(found.shape)
        return
    value.shape = ir.Shape([_merge_dim(old, new, value) for old, new in zip(value.shape, found.shape, strict=True)])


def _merge_dim(old: int | ir.SymbolicDim, new: int | ir.SymbolicDim, value: ir.Value) -> int | ir.SymbolicDim | None:
    if isinstance(new, int):
        return old if isinstance(old, int) and value.is_graph_output() else new
    if isinstance(old, int) or new.value is None or new.value.startswith("unk__"):
        return old
    return old if old.value is not None and not old.value.startswith("unk__") else new


def _tail(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else type(error).__name__
