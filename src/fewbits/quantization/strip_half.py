"""float16 regions between Casts become float32 nodes: the inverse of `half`."""

import re

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import unique_name, value_names
from fewbits.graph.topology import constant

_HALF = ir.DataType.FLOAT16
_STORED = "_fp16"


def widen_halves(model: ir.Model, source: str) -> list[ir.Value]:
    """Turn every float16 value of the graph into a float32 one, in place; Casts between the two go.

    Args:
        model: its types are known.
        source: what messages call it.

    Returns:
        The values that were computed in float16.

    Raises:
        ModelError: an input or output of the model is float16, or a node makes float16 values out of an attribute.
    """
    graph = model.graph
    made = [v for n in graph if n.op_type != "Cast" for v in n.outputs if v.dtype is _HALF]
    _refuse(graph, made, source)
    casts = [node for node in graph if node.op_type == "Cast" and _is_between(node)]
    names = value_names(model)
    for value in list(graph.initializers.values()):
        if value.dtype is _HALF:
            _widen_constant(graph, value, names)
    for node in casts:
        _drop(graph, node)
    for node in graph:
        for value in node.outputs:
            if value.dtype is _HALF:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    return made


def _refuse(graph: ir.Graph, made: list[ir.Value], source: str) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype is _HALF:
            raise ModelError(
                f"{source} has the float16 input or output {value.name!r}: only models that take and give float32 can "
                f"be read. Put Casts at its ends."
            )
    for node in (value.producer() for value in made):
        if node is not None and any(a.type == ir.AttributeType.TENSOR for a in node.attributes.values()):
            raise ModelError(f"{source} makes float16 values in {node.op_type} {node.name!r}, which is not read.")


def _is_between(node: ir.Node) -> bool:
    source = node.inputs[0]
    kinds = {source.dtype if source is not None else None, node.outputs[0].dtype}
    return kinds == {_HALF, ir.DataType.FLOAT}


def _widen_constant(graph: ir.Graph, value: ir.Value, names: set[str]) -> None:
    tensor = constant(value)
    if tensor is None:
        return
    stem = str(value.name).removesuffix(_STORED)
    wide = ir.Tensor(tensor.numpy().astype(np.float32))
    name = stem if stem not in names else unique_name(f"{stem}_fp32", names)
    names.add(name)
    wide.name = name
    new = ir.Value(name=name, shape=ir.Shape(wide.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=wide)
    graph.register_initializer(new)
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, new)


def _drop(graph: ir.Graph, cast: ir.Node) -> None:
    """Let the readers of a Cast read what it casts; a Cast back to float32 leaves its name behind."""
    source, result = cast.inputs[0], cast.outputs[0]
    assert source is not None
    is_output = result.is_graph_output()
    if is_output and (source.producer() is None or source.is_graph_output()):
        return
    for use in list(result.uses()):
        use.node.replace_input_with(use.idx, source)
    was_renamed = re.fullmatch(rf"{re.escape(str(result.name))}{_STORED}(_\d+)?", str(source.name))  # _2: it was taken
    if is_output or (result.dtype is ir.DataType.FLOAT and was_renamed):
        name = str(result.name)
        for i, out in enumerate(graph.outputs):
            if out is result:
                graph.outputs[i] = source
        result.name = f"{name}_cast"
        source.name = name
    graph.remove(cast, safe=True)
