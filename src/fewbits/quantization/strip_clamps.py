"""Activations that a tool left to the grids: a grid from zero on clips like a Relu, one from 0 to 6 like a ReLU6.

onnxruntime.quantization removes Relu and Clip where the grid behind them does the same. The float model behind such a
file would be another one without them.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from fewbits.graph.naming import unique_name, value_names
from fewbits.spec.encodings import Encoding

_SIGNED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "BatchNormalization"})
"""Operators that networks put activations behind."""
_CLAMPS = frozenset({"Relu", "Clip"})
_SIX_TOLERANCE = 1e-3


def restore_clamps(model: ir.Model, grids: Iterable[tuple[ir.Value, Encoding]]) -> int:
    """Put a Relu (a Clip to 6) behind operators whose grid starts at 0, where the file keeps no such activation at all.

    The new node gives out the tensor under its old name, so that its grid stays with it.

    Args:
        model: stripped; changed in place.
        grids: tensors that are written on a grid, with its encoding.

    Returns:
        How many were put back.
    """
    graph = model.graph
    if any(node.op_type in _CLAMPS for node in graph):
        return 0
    names, count = value_names(model), 0
    for value, encoding in grids:
        producer = value.producer()
        low, high = (float(np.min(end)) for end in encoding.range)
        if producer is None or producer.op_type not in _SIGNED or low != 0 or encoding.scale.ndim:
            continue
        count += 1
        name, uses = str(value.name), list(value.uses())
        value.name = unique_name(f"{name}_before_clamp", names)
        inputs = [value, *_bounds(graph, high, names)]
        op = "Clip" if len(inputs) > 1 else "Relu"
        node = ir.Node("", op, inputs, num_outputs=1, name=unique_name(f"{name}_clamp", names))
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
        graph.insert_after(producer, node)
        for use in uses:
            use.node.replace_input_with(use.idx, node.outputs[0])
        for i, out in enumerate(graph.outputs):
            if out is value:
                graph.outputs[i] = node.outputs[0]
    return count


def _bounds(graph: ir.Graph, high: float, names: set[str]) -> list[ir.Value]:
    if abs(high / 6 - 1) > _SIX_TOLERANCE:
        return []
    made = []
    for bound in (0.0, 6.0):
        tensor = ir.Tensor(np.array(bound, np.float32), name=unique_name(f"clamp_{bound:g}", names))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
        )
        graph.register_initializer(value)
        made.append(value)
    return made
