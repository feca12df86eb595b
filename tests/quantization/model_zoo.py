"""One small network per construct that planning and insertion must get right: name -> (graph, feeds)."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from qdq_models import Feeds, model, normal

N = 8
ZOO: dict[str, Callable[[], tuple[ir.Model, Feeds]]] = {}


def image(channels: int = 4, size: int = 6) -> Feeds:
    return {"x": normal(N, channels, size, size, seed=3)}


def add(name: str, text: str, feeds: Feeds, *, opset: int = 21, domains: str = "", **arrays: np.ndarray) -> None:
    ZOO[name] = lambda: (model(text, opset=opset, domains=domains, **arrays), feeds)


def conv(name: str, tail: str, out: str = "float", **arrays: np.ndarray) -> None:
    text = f"g (float[N, 4, 6, 6] x) => ({out} y) {{ c = Conv <pads = [1,1,1,1]> (x, w, b) {tail} }}"
    add(name, text, image(), w=normal(6, 4, 3, 3, seed=1), b=normal(6, seed=2), **arrays)


conv("conv_relu", "y = Relu (c)")
conv("conv_clip", "y = Clip (c, lo, hi)", lo=np.float32(0), hi=np.float32(6))
conv("conv_clip_open", "y = Clip (c, , hi)", hi=np.float32(1))
conv("conv_leaky", "y = LeakyRelu <alpha = 0.1> (c)")
conv("conv_prelu", "y = PRelu (c, slope)", slope=normal(6, 1, 1, seed=4))
conv("conv_prelu_one_slope", "y = PRelu (c, slope)", slope=np.float32([0.2]))
conv("conv_read_twice", "r = Relu (c) y = Add (r, c)")
conv("maxpool_flatten", "r = Relu (c) m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r) y = Flatten (m)")
conv("sigmoid", "y = Sigmoid (c)")
conv("tanh_swish", "t = Tanh (c) s = Sigmoid (t) y = Mul (c, s)")
conv("erf", "e = Erf (c) y = Mul (e, c)")
conv("resize_nearest", 'y = Resize <mode = "nearest"> (c, , scales)', scales=np.float32([1, 1, 2, 2]))
conv("resize_linear", 'y = Resize <mode = "linear"> (c, , scales)', scales=np.float32([1, 1, 2, 2]))
conv("pad_zero", "y = Pad (c, pads)", pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]))
conv("pad_one", "y = Pad (c, pads, one)", pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]), one=np.float32(1))
conv("pad_reflect", 'y = Pad <mode = "reflect"> (c, pads)', pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]))
conv("split_unused", "p, q, r = Split <axis = 1, num_outputs = 3> (c) y = Relu (q)")
conv("pow_div", "a = Abs (c) s = Add (a, one) p = Pow (s, two) y = Div (c, p)", one=np.float32(1), two=np.float32(2))
conv("min_max", "m = Min (c, hi) y = Max (m, lo)", lo=np.float32(-1), hi=np.float32(1))
conv("reduce", "y = ReduceMean <keepdims = 0> (c, axes)", axes=np.int64([2, 3]))
conv("topk_in_the_middle", "v, i = TopK <axis = 1> (c, k) y = Relu (v)", k=np.int64([2]))
conv(
    "group_norm", "n = GroupNormalization <num_groups = 2> (c, g, h) y = Relu (n)",
    "float[N, 6, 6, 6]",  # onnx's checker infers no shape here
    g=normal(6, seed=5), h=normal(6, seed=6),
)  # fmt: skip
conv("instance_norm", "y = InstanceNormalization (c, g, h)", g=normal(6, seed=5), h=normal(6, seed=6))
conv("concat", "r = Relu (c) s = Sigmoid (c) y = Concat <axis = 1> (r, s, x, r)")
conv("concat_pool", "m = MaxPool <kernel_shape = [1,1]> (c) y = Concat <axis = 1> (m, x)")
conv("gap_gemm", "p = GlobalAveragePool (c) f = Flatten (p) y = Gemm (f, v, d)", v=normal(6, 3, seed=7), d=normal(3))
conv("shape_arithmetic", """
    s = Shape (c) n = Gather (s, zero) u = Unsqueeze (n, axes) t = Concat <axis = 0> (u, minus)
    f = Reshape (c, t) y = Gemm <transB = 1> (f, v)
""", zero=np.int64(0), axes=np.int64([0]), minus=np.int64([-1]), v=normal(5, 216, seed=7))  # fmt: skip
add(
    "residual", """g (float[N, 4, 6, 6] x) => (float y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu (a) c = Conv <pads = [1,1,1,1]> (r, v, b)
    s = Add (c, r) y = Relu (s) }""",
    image(), w=normal(4, 4, 3, 3, seed=1), v=normal(4, 4, 3, 3, seed=2), b=normal(4),
)  # fmt: skip
add(
    "conv_without_bias", "g (float[N, 4, 6, 6] x) => (float y) { y = Conv (x, w) }", image(),
    w=normal(6, 4, 3, 3, seed=1),
)  # fmt: skip
add(
    "depthwise", """g (float[N, 4, 6, 6] x) => (float y) {
    c = Conv <group = 4, pads = [1,1,1,1]> (x, w, b) y = Clip (c, lo, hi) }""",
    image(), w=normal(4, 1, 3, 3, seed=1), b=normal(4), lo=np.float32(0), hi=np.float32(6),
)  # fmt: skip
add(
    "conv_transpose",
    "g (float[N, 4, 6, 6] x) => (float y) { c = ConvTranspose <strides = [2,2]> (x, w, b) y = Relu (c) }",
    image(), w=normal(4, 5, 3, 3, seed=1), b=normal(5),
)  # fmt: skip
add(
    "conv_transpose_depthwise",
    "g (float[N, 4, 6, 6] x) => (float y) { y = ConvTranspose <group = 4, strides = [2,2]> (x, w, b) }",
    image(), w=normal(4, 1, 3, 3, seed=1), b=normal(4),
)  # fmt: skip
add(
    "conv_1d", "g (float[N, 4, 9] x) => (float y) { c = Conv <strides = [2], dilations = [2]> (x, w, b) y = Relu (c) }",
    {"x": normal(N, 4, 9)}, w=normal(6, 4, 3, seed=1), b=normal(6),
)  # fmt: skip
add(
    "conv_computed_weight",
    "g (float[N, 4, 6, 6] x, float[4, 4, 1, 1] k) => (float y) { w = Mul (k, k) y = Conv (x, w, b) }",
    {**image(), "k": normal(4, 4, 1, 1)}, b=normal(4),
)  # fmt: skip
VECTOR = {"x": normal(N, 6, seed=3)}
add("gemm", "g (float[N, 6] x) => (float y) { h = Gemm (x, w, b) y = Relu (h) }", VECTOR, w=normal(6, 5), b=normal(5))
add(
    "gemm_scaled", "g (float[N, 6] x) => (float y) { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }", VECTOR,
    w=normal(6, 5), b=normal(5),
)  # fmt: skip
for kind, bias in {
    "row": normal(1, 5), "scalar": np.float32(2), "one": np.float32([2]), "column": normal(8, 1), "full": normal(8, 5),
}.items():  # fmt: skip
    add(f"gemm_{kind}_bias", "g (float[8, 6] x) => (float y) { y = Gemm (x, w, b) }", VECTOR, w=normal(6, 5), b=bias)
add(
    "gemm_trans", "g (float[6, 8] x) => (float y) { y = Gemm <transA = 1, transB = 1> (x, w, b) }",
    {"x": normal(6, 8)}, w=normal(5, 6), b=normal(5),
)  # fmt: skip
add(
    "gemm_two_activations", "g (float[8, 6] x) => (float y) { r = Relu (x) y = Gemm <transB = 1> (x, r, b) }",
    {"x": normal(8, 6)}, b=normal(8),
)  # fmt: skip
add("matmul", "g (float[N, 3, 6] x) => (float y) { y = MatMul (x, w) }", {"x": normal(N, 3, 6)}, w=normal(6, 5))
add("matmul_left", "g (float[N, 6, 3] x) => (float y) { y = MatMul (w, x) }", {"x": normal(N, 6, 3)}, w=normal(5, 6))
add(
    "matmul_stacked", "g (float[N, 2, 3, 6] x) => (float y) { y = MatMul (x, w) }", {"x": normal(N, 2, 3, 6)},
    w=normal(2, 6, 5),
)  # fmt: skip
add("matmul_vector", "g (float[6] x) => (float y) { y = MatMul (x, w) }", {"x": normal(6)}, w=normal(6, 5))
add("matmul_weight_vector", "g (float[N, 6] x) => (float y) { y = MatMul (x, w) }", VECTOR, w=normal(6))
ATTENTION = """g (float[N, 5, 8] x{more}) => (float y) {{
    n = LayerNormalization (x, gamma{beta})
    q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
    t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t) {mask} p = Softmax (m) o = MatMul (p, v) y = Add (o, x) }}"""
HEADS = {name: normal(8, 8, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
TOKENS = {"x": normal(N, 5, 8, seed=9)}
add(
    "attention", ATTENTION.format(more="", beta=", beta", mask="m = Mul (s, scale)"), TOKENS,
    scale=np.float32(0.35), gamma=normal(8), beta=normal(8, seed=1), **HEADS,
)  # fmt: skip
add(
    "attention_mask", ATTENTION.format(more=", bool[N, 1, 5] keep", beta="", mask="m = Where (keep, s, low)"),
    {**TOKENS, "keep": np.tile(np.array([[[True, True, True, False, False]]]), (N, 1, 1))},
    low=np.float32(-np.inf), gamma=normal(8), **HEADS,
)  # fmt: skip
add(
    "where", "g (float[N, 6] x) => (float y) { c = Greater (x, zero) y = Where (c, x, low) }", VECTOR,
    zero=np.float32(0), low=np.float32(-1),
)  # fmt: skip
add(
    "tied_embedding", """g (int64[N, 3] ids) => (float y) {
    e = Gather (table, ids) h = Relu (e) r = Reshape (h, rows) y = Gemm <transB = 1> (r, table) }""",
    {"ids": np.arange(24).reshape(8, 3) % 7}, table=normal(7, 6), rows=np.int64([-1, 6]),
)  # fmt: skip
add(
    "tied_linear", "g (float[N, 6] x) => (float y) { a = Gemm (x, w, b) r = Relu (a) y = Gemm (r, w, c) }", VECTOR,
    w=normal(6, 6), b=normal(6), c=normal(6, seed=2),
)  # fmt: skip
add(
    "output_with_readers", "g (float[N, 6] x) => (float h, float y) { h = Gemm (x, w, b) y = Relu (h) }", VECTOR,
    w=normal(6, 6), b=normal(6),
)  # fmt: skip
add(
    "input_is_output", "g (float[N, 6] x) => (float[N, 6] x, float y, float[6] b) { y = Gemm (x, w, b) }", VECTOR,
    w=normal(6, 6), b=normal(6),
)  # fmt: skip
add(
    "control_flow", """g (float[N, 6] x) => (float y) {
    a = Gemm (x, w, b) s = ReduceMax <keepdims = 0> (a) c = Greater (s, zero)
    z = If (c) <then_branch = t () => (float[N, 6] t1) { t1 = Relu (a) },
                else_branch = e () => (float[N, 6] e1) { e1 = Mul (a, b) }>
    y = Gemm (z, w, b) }""",
    VECTOR, w=normal(6, 6), b=normal(6), zero=np.float32(0),
)  # fmt: skip
add(
    "fed_by_shapes", """g (float[N, 6] x) => (float y) {
    s = Shape (x) o = ConstantOfShape <value = float[1] {2.0}> (s) a = Add (x, o) y = Gemm (a, w, b) }""",
    VECTOR, w=normal(6, 6), b=normal(6),
)  # fmt: skip
add(
    "custom_domain", """g (float[N, 6] x) => (float y) {
    a = Gemm (x, w, b) h = com.microsoft.Gelu (a) y = Gemm (h, w, b) }""",
    VECTOR, domains='"com.microsoft": 1', w=normal(6, 6), b=normal(6),
)  # fmt: skip
add(
    "custom_domain_of_known_type", """g (float[N, 6] x) => (float y) <float[N, 6] h> {
    a = Gemm (x, w, b) h = com.microsoft.Gelu (a) y = Gemm (h, w, b) }""",
    VECTOR, domains='"com.microsoft": 1', w=normal(6, 6), b=normal(6),
)  # fmt: skip
add(
    "two_inputs", "g (float[N, 6] x, float[N, 6] z) => (float y) { y = Add (x, z) }",
    {**VECTOR, "z": normal(N, 6, seed=8)},
)  # fmt: skip
add(
    "mask_is_computed", """g (float[N, 6] x, bool[N, 6] keep) => (float y) {
    low = Where (keep, zero, least) s = Add (x, low) y = Softmax (s) }""",
    {**VECTOR, "keep": np.tile([True, True, True, False, False, True], (N, 1))},
    zero=np.float32(0), least=np.float32(-np.inf),
)  # fmt: skip
add(
    "dynamic_shapes", """g (float[B, T, 6] x) => (float y) {
    s = Shape (x) h = MatMul (x, w) r = Relu (h) f = Reshape (r, s) y = Softmax (f) }""",
    {"x": normal(N, 3, 6)}, w=normal(6, 6),
)  # fmt: skip
add("no_nodes", "g (float[N, 6] x) => (float[N, 6] x) { }", VECTOR)
add("no_float", "g (int64[N, 6] x) => (int64 y) { y = Add (x, x) }", {"x": np.ones((N, 6), np.int64)})
