"""Small float models as ONNX text, quantized as the workflow does it, and facts about the QDQ graph that results."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from fewbits.graph.load import load_model
from fewbits.graph.passes import constants
from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes
from fewbits.graph.topology import is_float32
from fewbits.quantization.encode import Encoded, Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.observe import Statistics, observe, watchlist
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.runtime.processor import saturates
from fewbits.runtime.session import Runner, RunOptions, SessionPolicy, open_session
from fewbits.spec.plan import Plan
from fewbits.spec.target import load_target, target_names

ONE_THREAD = RunOptions(threads=1)
# Policies that compute what the graph says: on some processors a plain session saturates.
FAITHFUL = [p for p in SessionPolicy if not (p is SessionPolicy.PLAIN and saturates())]
Feeds = Mapping[str, np.ndarray]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def model(text: str, *, opset: int = 21, domains: str = "", **arrays: np.ndarray) -> ir.Model:
    """Return a graph with inferred shapes; nodes are named by their first output, `arrays` become initializers."""
    imports = f'"": {opset}' + (f", {domains}" if domains else "")
    proto = parser.parse_model(f"<ir_version: {10 if opset >= 21 else 8}, opset_import: [{imports}]> {text}")
    for node in proto.graph.node:
        node.name = node.name or next(name for name in node.output if name)
    for output in proto.graph.output:
        if not output.type.tensor_type.shape.dim:  # "float y" reads as a scalar; what is meant is "see for yourself"
            output.type.tensor_type.ClearField("shape")
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    loaded = load_model(proto)
    constants.run(loaded)
    infer_shapes(loaded)
    return loaded


def session(graph: ir.Model, policy: SessionPolicy = SessionPolicy.DEFAULT) -> Runner:
    return open_session(to_bytes(graph), policy=policy, options=ONE_THREAD)


def watched(graph: ir.Model, names) -> Runner:
    copy = graph.clone()
    present = {v.name for v in copy.graph.outputs}
    values = {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.extend(values[n] for n in names if n in values and n not in present)
    return session(copy)


def statistics(graph: ir.Model, feeds: Feeds, target: str = "qnn-htp-v73", batch: int = 64) -> Statistics:
    watch = watchlist(graph.graph, load_target(target))
    samples = len(next(iter(feeds.values()))) if feeds else 1
    parts = [
        ({k: v[i : i + batch] for k, v in feeds.items()}, min(batch, samples - i)) for i in range(0, samples, batch)
    ]
    return observe(watched(graph, watch.names).run, watch, parts)


@dataclass
class Made:
    """A quantized model with everything that led to it."""

    float_model: ir.Model
    feeds: Feeds
    plan: Plan
    stats: Statistics
    encoded: Encoded
    quantized: ir.Model
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, policy: SessionPolicy = SessionPolicy.EXACT) -> dict[str, np.ndarray]:
        return session(self.quantized, policy)(self.feeds)

    def float_run(self) -> dict[str, np.ndarray]:
        return session(self.float_model)(self.feeds)

    def encoding(self, key: str):
        return self.encoded.encodings[key]

    def proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.quantized)


def quantized(
    graph: ir.Model,
    feeds: Feeds,
    precision: str = "w8a8",
    nodes: Mapping[str, str] | None = None,
    *,
    target: str = "qnn-htp-v73",
    ranges: Ranges | None = None,
    pinned=None,
    half_refused=None,
) -> Made:
    """Return the model in `precision`, with `nodes` in theirs; checks that the float model was left alone."""
    before = to_bytes(graph)
    stats = statistics(graph, feeds, target)
    plan = resolve(graph, Profile.parse(precision, nodes), load_target(target), half_refused=half_refused)
    encoded = encode(graph.graph, plan, stats, ranges or Ranges(), pinned=pinned)
    result = insert_qdq(graph, plan, encoded)
    assert to_bytes(graph) == before, "the caller's model was changed"
    return Made(graph, feeds, plan, stats, encoded, result)


def uncovered(graph: ir.Graph, plan: Plan) -> set[str]:
    """Return the float32 tensors that have neither a grid nor a reason, and those that have both."""
    values = [*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]
    names = {str(v.name) for v in values if is_float32(v)}
    gridded = {g.tensor for g in plan.grids.values()}
    return (names - gridded - set(plan.reasons)) | (gridded & set(plan.reasons))


QDQ = ("QuantizeLinear", "DequantizeLinear")


def is_quantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "QuantizeLinear"


def is_dequantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def initializer(value: ir.Value) -> np.ndarray:
    return value.const_value.numpy()


def storage(node: ir.Node) -> tuple[ir.DataType, bytes, bytes]:
    """Return type, scale and zero point of a Q or DQ node."""
    return node.inputs[2].dtype, initializer(node.inputs[1]).tobytes(), initializer(node.inputs[2]).tobytes()


def is_left_float(node: ir.Node, plan: Plan) -> bool:
    return str(node.name) not in plan.nodes or plan.nodes[str(node.name)].precision.is_float


def breaches(graph: ir.Graph, plan: Plan) -> list[str]:
    """Return what no device can run as integers: pairs of one width in a row, operators that mix types.

    Operators that the plan leaves in float may read and write anything; of two 16-bit activations that are multiplied
    the second one has the type that the target names.
    """
    found = []
    second = load_target(plan.target).second_operand.value if plan.target in target_names() else "uint16"
    for node in graph:
        if is_quantize(node):
            above = node.inputs[0].producer()
            if is_dequantize(above) and above.inputs[0].dtype == node.inputs[2].dtype:
                found.append(f"two {node.inputs[2].dtype.name} pairs in a row at {node.name}")
            continue
        if is_dequantize(node) or is_left_float(node, plan):
            continue
        operands = list(node.inputs)
        if node.op_type in ("MatMul", "Gemm") and is_dequantize(operands[1].producer()):
            wide = (
                is_dequantize(operands[0].producer()) and operands[0].producer().inputs[0].dtype is ir.DataType.UINT16
            )
            if wide and operands[1].producer().inputs[0].dtype.name.lower() == second:
                del operands[1]
        types = {
            v.producer().inputs[0].dtype
            for v in operands
            if v is not None and is_dequantize(v.producer()) and is_quantize(v.producer().inputs[0].producer())
        }
        bare = [
            v.name for v in node.inputs
            if v is not None and v.dtype == ir.DataType.FLOAT and not v.is_initializer()
            and not is_dequantize(v.producer())
        ]  # fmt: skip
        outs = {u.node.inputs[2].dtype for v in node.outputs for u in v.uses() if is_quantize(u.node)}
        if len(types | outs) > 1 and outs:
            found.append(f"{node.op_type} {node.name} mixes {sorted(t.name for t in types | outs)}")
        if types and bare and outs:
            found.append(f"{node.op_type} {node.name} reads {bare} in float beside integers")
    return found
