"""Models of kinds that make tools stumble, one function each: the model and feeds for it."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

Feeds = Mapping[str, np.ndarray]
Kind = tuple[onnx.ModelProto, Feeds]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written(text: str, *, head: str = "", opset: int = 21, domains: str = "", **arrays: np.ndarray) -> onnx.ModelProto:
    """Return the model of ONNX text; `arrays` become initializers."""
    imports = f'"": {opset}' + (f", {domains}" if domains else "")
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> {text} {head}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    return model


LAYERS = {"w": normal(4, 3, 3, 3), "b": normal(4, seed=1), "m": normal(4, 5, seed=2)}
IMAGES = {"x": normal(2, 3, 8, 8, seed=3)}
AXES = np.array([2, 3], np.int64)


def if_on_shape() -> Kind:
    """Both bodies read an outer tensor and an outer weight by name; which one runs depends on the batch."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c = Conv (x, w, b)  r = Relu (c)  p = ReduceMean <keepdims = 0> (r, axes)
        s = Size (x)  big = Greater (s, limit)
        z = If (big) <
            then_branch = t () => (float[N, 4] tz) { t1 = Mul (p, v)  tz = Relu (t1) },
            else_branch = e () => (float[N, 4] ez) { e1 = Add (p, v)  ez = Sigmoid (e1) }
        >
        y = MatMul (z, m) }"""
    extra = {"axes": AXES, "v": normal(4, seed=4), "limit": np.array(100, np.int64)}
    return written(text, **LAYERS, **extra), IMAGES


def if_hands_out_outer() -> Kind:
    """A body hands out an outer tensor as it is, and an outer tensor is an output, too."""
    text = """g (float[N, 4] x, bool flag) => (float[N, 5] y, float[N, 4] h) {
        h = Relu (x)
        z = If (flag) <
            then_branch = t () => (float[N, 4] tz) { tz = Identity (h) },
            else_branch = e () => (float[N, 4] ez) { ez = Neg (h) }
        >
        y = MatMul (z, m) }"""
    return written(text, m=LAYERS["m"]), {"x": normal(2, 4), "flag": np.array(True)}


def loop_carrying() -> Kind:
    """A Loop with a state, a scan output and an outer weight."""
    text = """g (float[N, 4] x) => (float[N, 4] y, float[K, N, 4] every) {
        h = MatMul (x, u)
        y, every = Loop (count, yes, h) <
            body = b (int64 i, bool on, float[N, 4] s) => (bool again, float[N, 4] n, float[N, 4] seen) {
                again = Identity (on)  p = MatMul (s, u)  n = Tanh (p)  seen = Add (n, h) }
        > }"""
    weights = {"u": normal(4, 4, seed=5), "count": np.array(3, np.int64), "yes": np.array(True)}
    return written(text, **weights), {"x": normal(2, 4)}


def scan_sum() -> Kind:
    """A Scan over time."""
    text = """g (float[T, 4] x) => (float[4] last, float[T, 4] y) {
        h = MatMul (x, u)
        last, sums = Scan <num_scan_inputs = 1,
            body = b (float[4] s, float[4] t) => (float[4] n, float[4] o) { n = Add (s, t)  o = Identity (n) }
        > (zero, h)
        y = MatMul (sums, u) }"""
    return written(text, u=normal(4, 4, seed=5), zero=np.zeros(4, np.float32)), {"x": normal(6, 4)}


def nms_tail() -> Kind:
    """A detector's tail: boxes and scores, NonMaxSuppression, Gather of what it selects."""
    text = """g (float[1, 3, 8, 8] x) => (int64[K, 3] chosen, float[1, K, 4] kept) {
        c = Conv (x, w, b)  f = Reshape (c, flat)  boxes = Transpose <perm = [0, 2, 1]> (f)
        s = Sigmoid (f)  scores = ReduceMax (s, one)
        chosen = NonMaxSuppression (boxes, scores, most, overlap, least)
        at = Gather <axis = 1> (chosen, two)  kept = Gather <axis = 1> (boxes, at) }"""
    extra = {
        "flat": np.array([1, 4, -1], np.int64), "one": np.array([1], np.int64), "two": np.array(2, np.int64),
        "most": np.array(5, np.int64), "overlap": np.array(0.5, np.float32), "least": np.array(0.1, np.float32),
    }  # fmt: skip
    return written(text, w=LAYERS["w"], b=LAYERS["b"], **extra), {"x": normal(1, 3, 8, 8)}


def topk_tail() -> Kind:
    """The best three of a head, with their indices, and what is gathered by them."""
    text = """g (float[N, 4] x) => (float[N, 3] best, int64[N, 3] at, float[N, 3] twice) {
        h = MatMul (x, m)  best, at = TopK (h, three)  g = GatherElements <axis = 1> (h, at)  twice = Add (g, g) }"""
    return written(text, m=LAYERS["m"], three=np.array([3], np.int64)), {"x": normal(2, 4)}


def nonzero_shapes() -> Kind:
    """How many rows there are depends on the data: NonZero and Compress."""
    text = """g (float[N, 4] x) => (float[K] y, float[J, 5] z) {
        h = MatMul (x, m)  r = Relu (h)  at = NonZero (r)  pairs = Transpose <perm = [1, 0]> (at)
        g = GatherND (r, pairs)  y = Mul (g, g)
        s = ReduceSum <keepdims = 0> (x, one)  on = Greater (s, zero)  picked = Compress <axis = 0> (x, on)
        z = MatMul (picked, m) }"""
    extra = {"one": np.array([1], np.int64), "zero": np.array(0, np.float32)}
    return written(text, m=LAYERS["m"], **extra), {"x": normal(6, 4)}


def open_everywhere() -> Kind:
    """Batch, height, width and sequence are open, and Reshape asks for them at run time."""
    text = """g (float[N, 3, H, W] x, float[N, S, 4] q) => (float[N, M, 5] y, float[N, S, 5] z) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)  s = Shape <start = 0, end = 2> (c)  t = Concat <axis = 0> (s, rest)
        f = Reshape (c, t)  r = Transpose <perm = [0, 2, 1]> (f)  y = MatMul (r, m)
        p = Softmax (q)  z = MatMul (p, m) }"""
    feeds = {"x": normal(2, 3, 7, 9), "q": normal(2, 5, 4)}
    return written(text, **LAYERS, rest=np.array([-1], np.int64)), feeds


def shared_conv_weight() -> Kind:
    """Two Convs with one weight, at different inputs."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w, b)  y = Add (c, x) }"""
    return written(text, w=normal(3, 3, 3, 3), b=normal(3)), IMAGES


def tied_embedding() -> Kind:
    """One table: embedded by Gather, and through a Transpose read by two MatMuls (a tied head)."""
    text = """g (int64[N, S] ids) => (float[N, S, 9] y, float[N, S, 9] z) {
        e = Gather (table, ids)  back = Transpose <perm = [1, 0]> (table)
        y = MatMul (e, back)  t = Tanh (e)  z = MatMul (t, back) }"""
    return written(text, table=normal(9, 4)), {"ids": np.arange(6, dtype=np.int64).reshape(2, 3)}


def constant_outputs() -> Kind:
    """A weight is an output of the model, too; and so is an input."""
    text = """g (float[N, 4] x) => (float[N, 5] y, float[4, 5] m) { y = MatMul (x, m) }"""
    model = written(text, m=LAYERS["m"])
    return model, {"x": normal(2, 4)}


def unused_parts() -> Kind:
    """An input, a node and an initializer that nothing reads."""
    text = """g (float[N, 4] x, float[N, 7] idle) => (float[N, 5] y) { y = MatMul (x, m)  lost = Relu (idle) }"""
    return written(text, m=LAYERS["m"], nobody=normal(3)), {"x": normal(2, 4), "idle": normal(2, 7)}


def empty_optional_inputs() -> Kind:
    """Resize without roi and scales, Clip without a lower bound, Gemm without a bias by an empty name."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c = Conv (x, w, b)  k = Clip (c, , six)  u = Resize <mode = "linear", axes = [2, 3]> (k, , , size)
        p = ReduceMean <keepdims = 0> (u, axes)  y = Gemm (p, m, ) }"""
    extra = {"axes": AXES, "six": np.array(6, np.float32), "size": np.array([12, 12], np.int64)}
    return written(text, **LAYERS, **extra), IMAGES


def functions() -> Kind:
    """Functions of the model that call each other and hand their attributes on."""
    head = """
        <domain: "my", opset_import: ["": 21, "my": 1]> leaky <slope>(v) => (o) {
            o = LeakyRelu <alpha: float = @slope> (v) }
        <domain: "my", opset_import: ["": 21, "my": 1]> block <slope>(v, k) => (o) {
            h = MatMul (v, k)  o = my.leaky <slope: float = @slope> (h) }"""
    text = """g (float[N, 4] x) => (float[N, 5] y) {
        a = my.block <slope = 0.3> (x, u)  s = my.leaky <slope = 0.1> (a)  y = MatMul (s, m) }"""
    model = written(text, head=head, domains='"my": 1', u=normal(4, 4), m=LAYERS["m"])
    return model, {"x": normal(2, 4)}


def sequences_inside() -> Kind:
    """A sequence and an optional between float operators."""
    text = """g (float[N, 4] x) => (float[N, 5] y) {
        h = MatMul (x, u)  r = Relu (h)  o = Optional (r)  t = OptionalGetElement (o)
        s = SequenceConstruct (h, t)  f = SequenceAt (s, one)  y = MatMul (f, m) }"""
    weights = {"u": normal(4, 4, seed=5), "m": LAYERS["m"], "one": np.array(1, np.int64)}
    return written(text, **weights), {"x": normal(2, 4)}


def several_domains() -> Kind:
    """Operators of ONNX, ONNX-ML and of ONNX Runtime's own."""
    text = """g (float[N, 4] x) => (float[N, 5] y) {
        s = ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.3, 0.4], scale = [1.0, 2.0, 0.5, 1.0]> (x)
        h = MatMul (s, u)  g = com.microsoft.QuickGelu <alpha = 1.7> (h)  y = MatMul (g, m) }"""
    model = written(text, domains='"ai.onnx.ml": 3, "com.microsoft": 1', u=normal(4, 4), m=LAYERS["m"])
    return model, {"x": normal(2, 4)}


def any_names() -> Kind:
    """Names with spaces, slashes, quotes, dots and other scripts; nodes without names, and two of one name."""
    model = shared_conv_weight()[0]
    names = {"x": "bild/eingang 0:0", "a": "größe \"a\" <b>&'c'", "r": "层.1", "c": "../../etc", "y": "sortie é\\n"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = "same" if node.op_type == "Conv" else ""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    return model, {names["x"]: IMAGES["x"]}


def in_type(kind: int, array_type: type, made: Kind) -> Kind:
    """Return a float32 model with all its tensors in another type."""
    model = onnx.ModelProto()
    model.CopyFrom(made[0])
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64).ravel().tolist()
            tensor.CopyFrom(helper.make_tensor(tensor.name, kind, tensor.dims, values))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    feeds = {n: a.astype(array_type) if a.dtype == np.float32 else a for n, a in made[1].items()}
    return model, feeds


def convolutions() -> Kind:
    """Conv, Relu, mean, MatMul: nothing special."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c = Conv (x, w, b)  r = Relu (c)  p = ReduceMean <keepdims = 0> (r, axes)  y = MatMul (p, m) }"""
    return written(text, **LAYERS, axes=AXES), IMAGES


def float16_model() -> Kind:
    """All in float16, inputs and outputs included."""
    return in_type(TensorProto.FLOAT16, np.float16, convolutions())


def bfloat16_model() -> Kind:
    """All in bfloat16: numpy has no such type, so that its input is fed as float32."""
    return in_type(TensorProto.BFLOAT16, np.float32, convolutions())


def double_model() -> Kind:
    """All in double."""
    return in_type(TensorProto.DOUBLE, np.float64, convolutions())


def mixed_types() -> Kind:
    """Float32 at the edges, float16 inside, between Casts; one layer in double."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        h = Cast <to = 10> (x)  c = Conv (h, w, b)  r = Relu (c)  d = Cast <to = 11> (r)
        p = ReduceMean <keepdims = 0> (d, axes)  e = MatMul (p, m)  y = Cast <to = 1> (e) }"""
    weights = {"w": LAYERS["w"].astype(np.float16), "b": LAYERS["b"].astype(np.float16)}
    return written(text, **weights, m=LAYERS["m"].astype(np.float64), axes=AXES), IMAGES


KINDS: tuple[Callable[[], Kind], ...] = (
    if_on_shape, if_hands_out_outer, loop_carrying, scan_sum, nms_tail, topk_tail, nonzero_shapes, open_everywhere,
    shared_conv_weight, tied_embedding, constant_outputs, unused_parts, empty_optional_inputs, functions,
    sequences_inside, several_domains, any_names, float16_model, bfloat16_model, double_model, mixed_types,
)  # fmt: skip
