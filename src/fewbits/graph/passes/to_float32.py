"""Models of float16, bfloat16 and double become float32 models: the one type that grids, analyses and fp16 start from.

    x: T -> Cast -> float32 ... float32 -> Cast -> y: T

Float16 and bfloat16 are exact in float32; double is rounded, and numbers beyond float32 become its largest ones.
Inputs and outputs keep float16 and double; bfloat16 ones become float32, because numpy cannot hold them. Operators that
are not ONNX's or ONNX Runtime's own keep the types that they were written for, between Casts. So does double arithmetic
on shapes, which would be rounded down to another size.
"""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fewbits.graph.naming import all_nodes, unique_name, value_names
from fewbits.graph.opset import QDQ_OPSET
from fewbits.graph.passes.base import PassResult, Skipped, is_onnx
from fewbits.graph.topology import data_values

NAME = "to-float32"

FLOAT = ir.DataType.FLOAT
_OTHER = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_FED = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_TYPE_ATTRIBUTES = (
    "to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type", "precision",
)  # fmt: skip
_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)


def is_wanted(model: ir.Model) -> bool:
    """Whether an input, a constant or an attribute has one of the other types; all others follow from those."""
    given = (v for graph in model.graphs() for v in (*graph.inputs, *graph.initializers.values()))
    return any(v.dtype in _OTHER for v in given) or any(_attributes(node) for node in all_nodes(model))


def run(model: ir.Model) -> PassResult:
    """Turn every float16, bfloat16 and double tensor into float32, in place; types must be known.

    Source: ONNX Cast, whose float16 -> float32 and bfloat16 -> float32 keep every value.
    """
    work = _Widener(model)
    if not work.finds_any():
        return PassResult()
    unknown = next((node for node in work.kept_nodes if any(v.name and v.dtype is None for v in node.outputs)), None)
    if unknown is not None:
        operator = f"{unknown.domain}::{unknown.op_type}"
        reason = f"the types that {operator} computes are not known, so that the model keeps its own types"
        return PassResult(declined=(Skipped(str(unknown.name), reason),))
    return PassResult(work.run())


@dataclass
class _Widener:
    """What is kept and what becomes float32, found before anything is edited."""

    model: ir.Model
    types: dict[ir.Value, ir.DataType] = field(init=False)
    kept_nodes: dict[ir.Node, None] = field(init=False)
    kept: set[ir.Value] = field(init=False)
    taken: set[str] = field(init=False)
    casts: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graphs = list(self.model.graphs())
        values = [v for g in graphs for v in (*g.inputs, *g.initializers.values())]
        values += [v for node in all_nodes(self.model) for v in node.outputs]
        self.types = {v: v.dtype for v in values if v.dtype in _OTHER}
        self.kept_nodes = dict.fromkeys(self._find_kept_nodes())
        self.kept = {v for v in self.model.graph.inputs if self._is_fed(v)}
        self.kept |= {v for node in self.kept_nodes for v in node.outputs if v in self.types}
        self.kept |= {v for v in values if v.is_initializer() and v in self.types and self._is_read_by_kept_only(v)}
        self.taken = value_names(self.model)

    def _find_kept_nodes(self) -> Iterable[ir.Node]:
        main = self.model.graph
        carried = data_values(main)
        for node in all_nodes(self.model):
            is_foreign = node.domain not in _KNOWN_DOMAINS or is_onnx(node, "BitCast")
            has_doubles = any(self.types.get(v) == ir.DataType.DOUBLE for v in _values(node))
            is_shape = node.graph is main and has_doubles and not any(v in carried for v in _values(node))
            if is_foreign or (is_shape and not _has_body(node)) or self._is_edge(node):
                yield node

    def _is_edge(self, node: ir.Node) -> bool:
        """Whether it is the Cast of an output that this pass, or the exporter, has put there."""
        out = node.outputs[0] if node.outputs else None
        is_last = is_onnx(node, "Cast") and node.graph is self.model.graph and out is not None and out.is_graph_output()
        return is_last and out is not None and not out.uses() and node.inputs[0] not in self.types and self._is_fed(out)

    def _is_fed(self, value: ir.Value) -> bool:
        return self.types.get(value) in _FED and isinstance(value.type, ir.TensorType)

    def _is_read_by_kept_only(self, value: ir.Value) -> bool:
        uses = list(value.uses())
        return bool(uses) and not value.is_graph_output() and all(use.node in self.kept_nodes for use in uses)

    def finds_any(self) -> bool:
        """Whether anything becomes float32."""
        nodes = (node for node in all_nodes(self.model) if node not in self.kept_nodes)
        return bool(set(self.types) - self.kept) or any(_attributes(node) for node in nodes)

    def run(self) -> tuple[str, ...]:
        """Edit the model; return a line per type, and one for its inputs and outputs."""
        main = self.model.graph
        counts = Counter(kind for value, kind in self.types.items() if value not in self.kept)
        constants = Counter(self.types[v] for v in self.types if v.is_initializer() and v not in self.kept)
        nodes = list(all_nodes(self.model))
        outputs = [v for v in main.outputs if self._is_fed(v) and v not in self.kept]
        for value in list(self.kept):
            self._widen_readers(value)
        for node in self.kept_nodes:
            self._feed(node)
        for node in (n for n in nodes if n not in self.kept_nodes):
            for attribute in _attributes(node):
                node.attributes[attribute.name] = _widened(attribute)
        for value in self.types:
            if value not in self.kept:
                _set_float(value)
        for value in dict.fromkeys(outputs):
            self._narrow_output(value)
        lines = [
            f"{kind.name.lower()}: {count} tensors ({constants[kind]} constants) are float32 now, "
            + ("rounded to 24 bits" if kind == ir.DataType.DOUBLE else "the same numbers")
            for kind, count in counts.items()
        ]
        return (*lines, *self._edges(outputs)) or ("attributes: types are float32 now",)

    def _edges(self, outputs: list[ir.Value]) -> list[str]:
        main = self.model.graph
        kept = [repr(v.name) for v in main.inputs if v in self.kept]
        kept += [repr(v.name) for v in main.outputs if v.dtype in _FED and v not in main.inputs]
        retyped = [repr(v.name) for v in (*main.inputs, *main.outputs) if v in self.types and v not in self.kept]
        lines = [f"{', '.join(kept)} keep their types, with Casts"] if kept else []
        return lines + ([f"{', '.join(retyped)} are float32 now, because numpy has no bfloat16"] if retyped else [])

    def _widen_readers(self, value: ir.Value) -> None:
        """Let all nodes that became float32 read a kept value through one Cast; a Cast reads any type."""
        readers = [u for u in value.uses() if u.node not in self.kept_nodes and not is_onnx(u.node, "Cast")]
        bodies = [g for g in self.model.graphs() if g is not self.model.graph and value in g.outputs]
        if not readers and not bodies:
            return
        producer = value.producer()
        cast = self._cast(value, FLOAT, f"{value.name}_float32")
        if producer is None:
            self.model.graph.insert_before(next(iter(self.model.graph)), cast)
        else:
            assert producer.graph is not None
            producer.graph.insert_after(producer, cast)
        for use in readers:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        for body in bodies:
            for i, out in enumerate(body.outputs):
                if out is value:
                    body.outputs[i] = cast.outputs[0]

    def _feed(self, node: ir.Node) -> None:
        """Give a kept node its inputs in the types that it was written for."""
        for position, value in enumerate(node.inputs):
            if value is None or value not in self.types or value in self.kept:
                continue
            if value not in self.casts:
                cast = self._cast(value, self.types[value], f"{value.name}_{self.types[value].name.lower()}")
                assert node.graph is not None
                node.graph.insert_before(node, cast)
                if node.graph is not self.model.graph:  # seen in this body only
                    node.replace_input_with(position, cast.outputs[0])
                    continue
                self.casts[value] = cast.outputs[0]
            node.replace_input_with(position, self.casts[value])

    def _narrow_output(self, value: ir.Value) -> None:
        """Hand out `value`, which became float32, in the type that the output had, under its name."""
        name, graph = str(value.name), self.model.graph
        value.name = unique_name(f"{name}_float32", self.taken)
        cast = self._cast(value, self.types[value], name, name)
        graph.append(cast)
        for i, out in enumerate(graph.outputs):
            if out is value:
                graph.outputs[i] = cast.outputs[0]

    def _cast(self, value: ir.Value, kind: ir.DataType, wanted: str, given: str = "") -> ir.Node:
        """Return a Cast of `value`; what it writes has the name `given`, or one like `wanted`."""
        name = given or unique_name(wanted, self.taken)
        to = ir.AttrInt64("to", int(kind))
        cast = ir.Node("", "Cast", [value], [to], num_outputs=1, name=unique_name(f"{name}_cast", self.taken))
        out = cast.outputs[0]
        out.name, out.type, out.shape = name, ir.TensorType(kind), value.shape
        self.model.opset_imports.setdefault("", QDQ_OPSET)  # absent where all operators are of other domains
        return cast


def _values(node: ir.Node) -> list[ir.Value]:
    return [v for v in (*node.inputs, *node.outputs) if v is not None]


def _has_body(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _attributes(node: ir.Node) -> list[ir.Attr]:
    """Return the attributes that name or hold one of the other types."""
    return [a for a in node.attributes.values() if _names_type(a) or _holds_type(a)]


def _names_type(attribute: ir.Attr) -> bool:
    if attribute.type == ir.AttributeType.TYPE_PROTO:
        return attribute.value.type.dtype in _OTHER
    is_number = attribute.type == ir.AttributeType.INT and attribute.name in _TYPE_ATTRIBUTES
    return is_number and attribute.value in [int(kind) for kind in _OTHER]


def _holds_type(attribute: ir.Attr) -> bool:
    if attribute.type not in _TENSORS:
        return False
    held = attribute.value if attribute.type == ir.AttributeType.TENSORS else [attribute.value]
    return any(tensor.dtype in _OTHER for tensor in held)


def _widened(attribute: ir.Attr) -> ir.Attr:
    match attribute.type:
        case ir.AttributeType.TENSOR:
            return ir.AttrTensor(attribute.name, _as_float32(attribute.value))
        case ir.AttributeType.TENSORS:
            return ir.AttrTensors(attribute.name, [_as_float32(tensor) for tensor in attribute.value])
        case ir.AttributeType.TYPE_PROTO:
            found = ir.TypeAndShape(_float_type(attribute.value.type), attribute.value.shape)
            return ir.Attr(attribute.name, ir.AttributeType.TYPE_PROTO, found)
    return ir.AttrInt64(attribute.name, int(FLOAT))


def _float_type(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    found = copy.deepcopy(kind)
    found.dtype = FLOAT
    return found


def _set_float(value: ir.Value) -> None:
    if value.const_value is not None:
        value.const_value = _as_float32(value.const_value)
    assert value.type is not None
    value.type = _float_type(value.type)


def _as_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the tensor in float32: now where it is in memory, when it is read where it lies in a file."""
    if tensor.dtype not in _OTHER:
        return tensor
    if isinstance(tensor, ir.ExternalTensor):
        shape = ir.Shape(tensor.shape.numpy())
        return ir.LazyTensor(lambda: _converted(tensor), dtype=FLOAT, shape=shape, name=tensor.name)
    return _converted(tensor)


def _converted(tensor: ir.TensorProtocol) -> ir.Tensor[np.typing.NDArray[np.float32]]:
    array, largest = np.asarray(tensor.numpy()), np.finfo(np.float32).max
    if tensor.dtype == ir.DataType.DOUBLE:
        array = np.where(np.isinf(array), array, np.clip(array, -largest, largest))
    return ir.Tensor(array.astype(np.float32), name=tensor.name)
