"""What a graph is made of: inputs, outputs, operators, parameters and multiply-accumulates."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.naming import all_nodes
from fewbits.graph.shapes import fix_dims, infer_shapes, open_dims

MAC_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NOT_PARAMETERS = (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)  # axes, shapes, masks, vocabularies


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: its ONNX type name, and its dimensions, names for the open ones ("?" without a name)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class NodeMacs:
    """Multiply-accumulates of one node for one sample; None with the reason where a dimension is open."""

    name: str
    op_type: str
    macs: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What `inspect_graph` saw.

    Attributes:
        inputs: in the model's order.
        outputs: in the model's order.
        operators: operator (with its domain, where it is not ai.onnx) -> number of nodes, most frequent first.
        parameters: elements of all constants other than shapes, axes and masks.
        parameter_bytes: their size.
        macs: one row per Conv, ConvTranspose, Gemm and MatMul.
        opsets: domain -> version; ai.onnx is "".
        ir_version: of the file format.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    macs: tuple[NodeMacs, ...]
    opsets: Mapping[str, int]
    ir_version: int

    @property
    def total_macs(self) -> int | None:
        """Multiply-accumulates of one sample, or None where a node's are not known."""
        known = [row.macs for row in self.macs if row.macs is not None]
        return sum(known) if len(known) == len(self.macs) else None


def inspect_graph(model: ir.Model, dims: Mapping[str, int] | None = None) -> GraphSummary:
    """Return what `model` is made of; it is left as it is.

    Args:
        model: from `load_model` or `prepare`.
        dims: sizes of open dimensions, such as {"seq": 128}; the first dimension of an input, the batch, is 1 unless it
            is given.

    Raises:
        SpecError: `dims` names a dimension that no input has.
    """
    sized = model.clone()
    batch = {name: 1 for value in sized.graph.inputs if (name := _open_batch(value))}
    fix_dims(sized, {**batch, **(dims or {})}) if batch or dims else infer_shapes(sized)
    constants = _parameters(model)
    missing = open_dims(sized)
    counts = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in all_nodes(model))
    return GraphSummary(
        inputs=tuple(_info(value) for value in model.graph.inputs),
        outputs=tuple(_info(value) for value in model.graph.outputs),
        operators=dict(counts.most_common()),
        parameters=sum(tensor.size for tensor in constants),
        parameter_bytes=parameter_bytes(model),
        macs=tuple(_row(node, missing) for node in all_nodes(sized) if _counts(node)),
        opsets=dict(model.opset_imports),
        ir_version=model.ir_version,
    )


def parameter_bytes(model: ir.Model) -> int:
    """Return the bytes of all constants of `model` that are no shapes or indices."""
    return sum(tensor.nbytes for tensor in _parameters(model))


def _parameters(model: ir.Model) -> list[ir.TensorProtocol]:
    return [
        value.const_value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype not in _NOT_PARAMETERS
    ]


def node_macs(node: ir.Node, dims: Mapping[str, int] | None = None) -> int | None:
    """Return the multiply-accumulates of `node`, 0 for operators that have none, or None where its shapes are open.

    Conv [N, O, ...] with weight [O, I/g, k]: all outputs x I/g x k. ConvTranspose with weight [I, O/g, k]: all inputs x
    O/g x k. Gemm and MatMul: all outputs x the inner dimension.

    Args:
        node: its values carry shapes (`infer_shapes`).
        dims: sizes of open dimensions by name; an open first dimension is 1 unless it is given.
    """
    if not _counts(node):
        return 0
    first, weight, out = (_sizes(value, dims or {}) for value in (node.inputs[0], node.inputs[1], node.outputs[0]))
    match node.op_type:
        case "Conv":
            return None if out is None or weight is None else math.prod(out) * math.prod(weight[1:])
        case "ConvTranspose":
            return None if first is None or weight is None else math.prod(first) * math.prod(weight[1:])
    if not first or out is None:  # a scalar has no product, and onnxruntime refuses it
        return None
    inner = first[0 if node.attributes.get_int("transA", 0) else -1]
    return math.prod(out) * inner


def _counts(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in MAC_OPS


def _row(node: ir.Node, missing: list[str]) -> NodeMacs:
    macs, reason = node_macs(node), ""
    if macs is None:
        way_out = f"give {', '.join(missing)} a size" if missing else "its shapes depend on the data"
        reason = f"the shapes of {node.op_type} {node.name!r} are open: {way_out}"
    return NodeMacs(str(node.name), node.op_type, macs, reason)


def _sizes(value: ir.Value | None, dims: Mapping[str, int]) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    sizes = []
    for axis, dim in enumerate(value.shape):
        size = dim if isinstance(dim, int) else dims.get(dim.value or "", 1 if axis == 0 else None)
        if size is None:
            return None
        sizes.append(size)
    return tuple(sizes)


def _open_batch(value: ir.Value) -> str | None:
    first = value.shape[0] if value.shape else None
    return first.value if isinstance(first, ir.SymbolicDim) else None


def _info(value: ir.Value) -> TensorInfo:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    shape = None if value.shape is None else tuple(d if isinstance(d, int) else d.value or "?" for d in value.shape)
    return TensorInfo(str(value.name), dtype, shape)
