"""Networks whose costs can be counted by hand, laid out as cost models see them."""

import numpy as np
import onnx_ir as ir
from onnx import numpy_helper, parser

from fewbits.analysis.cost_layout import Layout, layout_of
from fewbits.graph.load import load_model
from fewbits.graph.shapes import infer_shapes
from fewbits.quantization.groups import find_groups
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.target import load_target

PRECISIONS = ("w8a8", "w4a8", "w8a16", "w4a16", "fp16", "fp32")

# two layers: 4 x 3 weights, 3 x 5 weights, tensors of 4, 3 and 5 elements
CHAIN = "g (float[N, 4] x) => (float y) { h = Gemm (x, w, b) r = Relu (h) y = Gemm (r, v, c) }"
CHAIN_SHAPES = {"w": (4, 3), "b": (3,), "v": (3, 5), "c": (5,)}

NETWORKS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "chain": (CHAIN, CHAIN_SHAPES),
    "attention": (
        """g (float[N, T, 8] x) => (float y) {
            n = LayerNormalization (x, gamma, beta)
            q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
            t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t) p = Softmax (s)
            o = MatMul (p, v) y = Add (o, x) }""",
        {"gamma": (8,), "beta": (8,), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8)},
    ),
    "residual": (
        """g (float[N, 4, 6, 6] x) => (float y) {
            a = Conv <pads = [1,1,1,1]> (x, w) r = Relu (a) d = Conv <group = 4, pads = [1,1,1,1]> (r, dw, b)
            s = Add (d, r) u = ConvTranspose <strides = [2,2]> (s, t) e = Erf (u) y = Relu (e) }""",
        {"w": (4, 4, 3, 3), "dw": (4, 1, 3, 3), "b": (4,), "t": (4, 5, 3, 3)},
    ),
    "computed weight": (
        """g (float[N, 4, 6, 6] x, float[4, 4, 1, 1] k) => (float y) {
            w = Mul (k, k) c = Conv (x, w, b) f = Flatten (c) y = Gemm (f, v) }""",
        {"b": (4,), "v": (144, 7)},
    ),
    "split": (
        """g (float[N, 6] x) => (float y, float z) {
            h = Gemm (x, w) p, q = Split <axis = 1, num_outputs = 2> (h) r = Relu (p) s = Add (q, r)
            y = Concat <axis = 1> (r, s, q) z = Gemm (s, v) }""",
        {"w": (6, 4), "v": (2, 2)},
    ),
    "control flow": (
        """g (float[N, 6] x) => (float y) {
            a = Gemm (x, w, b) s = ReduceMax <keepdims = 0> (a) c = Greater (s, zero)
            z = If (c) <then_branch = t () => (float[N, 6] t1) { t1 = MatMul (a, w) },
                        else_branch = e () => (float[N, 6] e1) { e1 = Mul (a, b) }>
            y = Gemm (z, w, b) }""",
        {"w": (6, 6), "b": (6,), "zero": ()},
    ),
}


def network(name: str) -> ir.Model:
    """Return a graph; its nodes are named by their first output."""
    text, shapes = NETWORKS[name]
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    for node in proto.graph.node:
        node.name = node.output[0]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(3)
    for initializer, shape in shapes.items():
        array = np.asarray(rng.standard_normal(shape), np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, initializer))
    model = load_model(proto)
    infer_shapes(model)
    return model


def layout(name: str, precisions=PRECISIONS, target="qnn-htp-v73", refused=None, sizes=None) -> Layout:
    """Return the layout of a network, with sequences of 5."""
    model, device = network(name), load_target(target)
    plans = {p: resolve(model, Profile.parse(p), device, half_refused=refused or {}) for p in precisions}
    sizes = {"T": 5} if sizes is None and name == "attention" else sizes or {}
    return layout_of(model, find_groups(model.graph, device), plans, sizes)
