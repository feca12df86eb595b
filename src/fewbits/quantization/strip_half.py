"""float16 regions between Casts become float32 nodes: the inverse of `half`.

Inputs and outputs of the model keep float16 where Casts stand between them and the nodes.
"""

import re

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import unique_name, value_names
from fewbits.graph.topology import constant

_HALF = ir.DataType.FLOAT16
_STORED = "_fp16"


def widen_halves(model: ir.Model, source: str) -> list[ir.Value]:
    """Turn every float16 value inside the graph into a float32 one, in place; Casts between the two go.

    Args:
        model: its types are known.
        source: what messages call it.

    Returns:
        The values that were computed in float16.

    Raises:
        ModelError: a node reads a float16 input or writes a float16 output of the model without a Cast, or makes
            float16 values out of an attribute.
    """
    graph = model.graph
    ends = {value for value in (*graph.inputs, *graph.outputs) if value.dtype is _HALF}
    made = [v for n in graph if n.op_type != "Cast" for v in n.outputs if v.dtype is _HALF]
    _refuse(ends, made, source)
    casts = [n for n in graph if n.op_type == "Cast" and _is_between(n) and not ends & {n.inputs[0], n.outputs[0]}]
    names = value_names(model)
    for value in list(graph.initializers.values()):
        if value.dtype is _HALF:
            _widen_constant(graph, value, names)
    for node in casts:
        _drop(graph, node)
    for node in graph:
        for value in node.outputs:
            if value.dtype is _HALF and value not in ends:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    return made


def _refuse(ends: set[ir.Value], made: list[ir.Value], source: str) -> None:
    for value in sorted(ends, key=lambda value: str(value.name)):
        producer, readers = value.producer(), [use.node for use in value.uses()]
        is_stored = value.is_initializer() and not value.is_graph_input()  # its readers get a copy in float32
        nodes = ([] if producer is None else [producer]) + ([] if is_stored else readers)
        if any(node.op_type != "Cast" for node in nodes):
            raise ModelError(
                f"{source} computes with the float16 input or output {value.name!r} as it is, which is not read: put a "
                f"Cast between it and the nodes."
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
