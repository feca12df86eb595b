"""Call the C++ parts of onnx on a graph without copying its weights: protobuf cannot hold more than 2 GB."""

from collections.abc import Callable

import onnx
import onnx_ir as ir

from fewbits.graph.naming import value_names

SMALL_BYTES = 1024  # axes, shapes and scales stay: converters and shape inference read their values


def without_weights(model: ir.Model, *, limit_bytes: int = SMALL_BYTES) -> tuple[onnx.ModelProto, dict[str, ir.Value]]:
    """Return `model` with each initializer above `limit_bytes` turned into a graph input, and those values by name.

    `model` is left as it is; keep it, because its tensors go back in by name.
    """
    copy = model.clone()
    weights: dict[str, ir.Value] = {}
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        if tensor.nbytes > limit_bytes:
            weights[name] = model.graph.initializers[name]
            del copy.graph.initializers[name]
            value.const_value = None
            copy.graph.inputs.append(value)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return ir.to_proto(copy), weights


def with_weights(proto: onnx.ModelProto, weights: dict[str, ir.Value]) -> ir.Model:
    """Return the graph of `proto` with the placeholders of `weights` turned back into initializers."""
    model = ir.from_proto(proto)
    inputs = [value for value in model.graph.inputs if value.name not in weights]
    placeholders = [value for value in model.graph.inputs if value.name in weights]
    model.graph.inputs.clear()
    model.graph.inputs.extend(inputs)
    for value in placeholders:
        value.const_value = weights[str(value.name)].const_value
        model.graph.register_initializer(value)
    return model


def rewrite(
    model: ir.Model, function: Callable[[onnx.ModelProto], onnx.ModelProto], *, limit_bytes: int = SMALL_BYTES
) -> ir.Model:
    """Return what `function` makes of `model`; weights above `limit_bytes` do not pass through it.

    Raises:
        ValueError: `function` dropped an input or output, or lost a tensor that a node still reads.
    """
    proto, weights = without_weights(model, limit_bytes=limit_bytes)
    result = with_weights(function(proto), weights)
    for kind, before, after in (
        ("inputs", model.graph.inputs, result.graph.inputs),
        ("outputs", model.graph.outputs, result.graph.outputs),
    ):
        if [value.name for value in before] != [value.name for value in after]:
            raise ValueError(f"the {kind} {[v.name for v in before]} became {[v.name for v in after]}")
    known = value_names(result)
    for node in ir.traversal.RecursiveGraphIterator(result.graph):
        for value in node.inputs:
            if value is not None and value.name not in known:
                raise ValueError(f"{value.name!r}, which {node.op_type} {node.name!r} reads, is lost")
    result.metadata_props.update(model.metadata_props)
    return result
