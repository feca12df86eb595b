"""fp16 nodes of a QDQ graph: float16 weights and tensors, Casts only where the precision changes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from fewbits.graph.topology import constant, is_float32
from fewbits.spec.optable import NEVER_HALF
from fewbits.spec.plan import Plan
from fewbits.spec.precision import FP16

FLOAT16_MAX = 65504.0


def castable_inputs(node: ir.Node, opset: int) -> tuple[int, ...]:
    """Return the input positions of `node` that may be float16, by its schema; none if it knows no float16."""
    schema = _schema(node, opset)
    if schema is None:
        return ()
    half = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    if schema.outputs[0].type_str not in half:
        return ()
    last = len(schema.inputs) - 1  # repeated where it is variadic
    positions = (i for i in range(len(node.inputs)) if schema.inputs[min(i, last)].type_str in half)
    return tuple(i for i in positions if (node.op_type, i) not in NEVER_HALF)


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


@dataclass
class HalfPrecision:
    """Turns the nodes that the plan puts in fp16 into float16 nodes, in place."""

    graph: ir.Graph
    plan: Plan
    unique: Callable[[str], str]
    halves: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def apply(self, nodes: Iterable[ir.Node]) -> None:
        """Rewrite `nodes` (in topological order) wherever the plan says fp16."""
        opset = self.graph.opset_imports.get("", 21)
        for node in nodes:
            plan = self.plan.nodes.get(str(node.name))
            if plan is None or plan.precision != FP16:
                continue
            positions = castable_inputs(node, opset)
            if not positions:
                continue
            for position in positions:
                value = node.inputs[position]
                if value is not None and is_float32(value):
                    node.replace_input_with(position, self._half(value))
            for value in node.outputs:
                if is_float32(value):
                    self._widen(value)

    def _half(self, value: ir.Value) -> ir.Value:
        if value not in self.halves:
            tensor = constant(value)
            self.halves[value] = self._cast_constant(value, tensor) if tensor is not None else self._cast(value)
        return self.halves[value]

    def _cast_constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        limit = np.float32(FLOAT16_MAX)

        def halved() -> ir.Tensor[Any]:
            return ir.Tensor(np.clip(tensor.numpy(), -limit, limit).astype(np.float16))

        stored: ir.Tensor[Any] | ir.LazyTensor = (  # what lies in a file is made when it is written
            ir.LazyTensor(halved, dtype=ir.DataType.FLOAT16, shape=ir.Shape(tensor.shape))
            if isinstance(tensor, ir.ExternalTensor)
            else halved()
        )
        stored.name = self.unique(f"{value.name}_fp16")
        half = ir.Value(
            name=stored.name, shape=ir.Shape(stored.shape), type=ir.TensorType(ir.DataType.FLOAT16), const_value=stored
        )
        self.graph.register_initializer(half)
        return half

    def _cast(self, value: ir.Value) -> ir.Value:
        node = self._cast_node(value, ir.DataType.FLOAT16, self.unique(f"{value.name}_fp16"))
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(next(iter(self.graph)), node)
        return node.outputs[0]

    def _widen(self, value: ir.Value) -> None:
        """`value` becomes float16 under a new name; a Cast gives back the float32 tensor under the old one."""
        name, node = str(value.name), value.producer()
        assert node is not None
        uses, is_output = list(value.uses()), value.is_graph_output()
        value.name = self.unique(f"{name}_fp16")
        value.type = ir.TensorType(ir.DataType.FLOAT16)  # never in place: clones share their types
        cast = self._cast_node(value, ir.DataType.FLOAT, name)
        back = cast.outputs[0]
        self.graph.insert_after(node, cast)
        for use in uses:
            use.node.replace_input_with(use.idx, back)
        if is_output:
            for i, out in enumerate(self.graph.outputs):
                if out is value:
                    self.graph.outputs[i] = back
        self.halves[back] = value

    def _cast_node(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
        node = ir.Node(
            "", "Cast", [value], [ir.AttrInt64("to", int(dtype))], num_outputs=1, name=self.unique(f"{name}_cast")
        )
        out = node.outputs[0]
        out.name, out.type, out.shape = name, ir.TensorType(dtype), value.shape
        return node

    def drop_unused(self) -> None:
        """Remove the Casts back to float32 that nothing reads."""
        for back, half in self.halves.items():
            node = back.producer()
            is_cast = node is not None and half.producer() is not node
            if node is not None and is_cast and not list(back.uses()) and not back.is_graph_output():
                self.graph.remove(node, safe=True)
