import re

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.errors import SpecError
from fewbits.graph.prepare import prepare
from fewbits.graph.save import to_bytes
from fewbits.improvement.cle_scales import Boundary, even_out
from fewbits.improvement.equalize import equalize
from networks import SAME_DB, SHAPES, graph, least_db, network, normal, ops, outputs, plausible, uneven, weight

IMAGE = {"x": normal(2, 3, 8, 8, seed=9)}
ROWS = {"x": normal(5, 3, seed=9)}
C = 6

W1 = normal(C, 3, 3, 3, seed=1) * uneven(C, axis=0, rank=4)
B1 = normal(C, seed=2)
W2 = normal(4, C, 3, 3, seed=3)
FEEDS = (IMAGE, ROWS, {"x": normal(2, 5, 3, seed=9)})
BETWEEN = {
    "nothing": ("r = Identity (c)", {}),
    "relu": ("r = Relu (c)", {}),
    "leaky": ("r = LeakyRelu <alpha = 0.1> (c)", {}),
    "prelu": ("r = PRelu (c, slope)", {"slope": normal(C, 1, 1, seed=4)}),
    "prelu_one_slope": ("r = PRelu (c, slope)", {"slope": np.float32([0.3])}),
    "clip": ("r = Clip (c, lo, hi)", {"lo": np.float32(0), "hi": np.float32(1.5)}),
    "clip_of_one_element": ("r = Clip (c, lo, hi)", {"lo": np.zeros(1, np.float32), "hi": np.ones(1, np.float32)}),
    "clip_without_top": ("r = Clip (c, lo)", {"lo": np.float32(0)}),
    "clip_and_pool": ("p = Clip (c, lo, hi) r = MaxPool <kernel_shape = [2,2], pads = [1,1,1,1]> (p)",
                      {"lo": np.float32(0), "hi": np.float32(1.5)}),
    "add_min_max": ("a = Add (k, c) m = Min (a, k) r = Max (m, lo)",
                    {"k": normal(C, 1, 1, seed=4), "lo": np.float32(-0.5)}),
    "mul_div": ("a = Mul (k, c) p = Relu (a) r = Div (p, k)", {"k": np.abs(normal(C, 1, 1, seed=4)) + 0.5}),
    "average": ("p = Relu (c) r = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1]> (p)", {}),
    "dropout": ("p = Relu (c) r = Dropout (p)", {}),
    "read_for_its_shape": ("r = Relu (c) s = Shape (r)", {}),
    "transposed_twice": ("p = Transpose <perm = [1,0,3,2]> (c) q = Relu (p) r = Transpose <perm = [1,0,3,2]> (q)", {}),
}  # fmt: skip


def inputs(arrays: dict[str, np.ndarray]) -> str:
    return "".join(f", float[{','.join(map(str, np.shape(array)))}] {name}" for name, array in arrays.items())


def convs(between: str, arrays: dict[str, np.ndarray], *, second: str = "Conv", w2: np.ndarray = W2) -> ir.Model:
    text = f"""g (float[n,3,8,8] x{inputs({"w1": W1, "b1": B1, "w2": w2, **arrays})}) => (float y) {{
        [a] c = Conv <pads = [1,1,1,1]> (x, w1, b1) {between} [b] y = {second} (r, w2) }}"""
    return graph(text, w1=W1, b1=B1, w2=w2, **arrays)


def equalized(model: ir.Model, feeds: dict[str, np.ndarray], changed: tuple[str, ...] = ("a", "b"), **options):
    """Equalize, and check what holds for any model."""
    given = to_bytes(model)
    result = equalize(model, **options)
    assert to_bytes(model) == given
    assert result.changed == changed
    assert not result.pinned
    if options.get("clips") != "replace":
        assert least_db(model, result.model, feeds) >= SAME_DB
    assert all(after <= before + 1e-6 for before, after in result.errors.values())
    assert equalize(result.model, **options).changed == ()
    return result


def has_gained(result, *layers):
    """Say whether the objective of these layers really fell."""
    return all(result.errors[layer][1] < result.errors[layer][0] for layer in layers)


# --- what can stand between two layers


@pytest.mark.parametrize("name", BETWEEN)
def test_equalize_keeps_the_function(name):
    result = equalized(convs(*BETWEEN[name]), IMAGE, bound_limit=1e3)
    before, after = result.errors["a"]
    assert after < before - 0.05
    first, second = (np.abs(weight(result.model, layer)) for layer in "ab")
    r1, r2 = first.max(axis=(1, 2, 3)), second.max(axis=(0, 2, 3))
    np.testing.assert_allclose(r1 / r1.max(), r2 / r2.max(), rtol=1e-5)


def test_equalize_conv_transpose():
    w2 = normal(C, 4, 3, 3, seed=3)
    result = equalized(convs("r = Relu (c)", {}, second="ConvTranspose <strides = [2,2]>", w2=w2), IMAGE)
    # one channel has the largest range in both layers here: shares become equal, and the mean of their products stays
    r1, r2 = (np.abs(weight(result.model, layer)).max(axis=(1, 2, 3)) for layer in "ab")
    np.testing.assert_allclose(r1 / r1.max(), r2 / r2.max(), rtol=1e-5)
    text = "g (float[n,3,8,8] x, float[3,6,3,3] w, float[6] b, float[4,6,3,3] v) => (float y) {"
    text += "[a] c = ConvTranspose (x, w, b) r = Relu (c) [b] y = Conv (r, v) }"
    w = normal(3, C, 3, 3, seed=1) * uneven(C, axis=1, rank=4)
    result = equalized(graph(text, w=w, b=B1, v=W2), IMAGE)
    r1, r2 = (np.abs(weight(result.model, layer)).max(axis=(0, 2, 3)) for layer in "ab")
    np.testing.assert_allclose(r1 / r1.max(), r2 / r2.max(), rtol=1e-5)


def test_equalize_grouped_layers():
    text = """g (float[n,4,8,8] x, float[6,2,3,3] w, float[6] b, float[6,2,3,3] v, float[6,2,1,1] u) => (float y) {
        [a] c = Conv <group = 2> (x, w, b) r = Relu (c) [b] d = Conv <group = 3> (r, v)
        [t] y = ConvTranspose <group = 2> (d, u) }"""
    w = normal(6, 2, 3, 3, seed=1) * uneven(6, axis=0, rank=4)
    v = normal(6, 2, 3, 3, seed=2) * uneven(6, axis=0, rank=4, seed=6)
    model = graph(text, w=w, b=B1, v=v, u=normal(6, 2, 1, 1, seed=3))
    assert has_gained(equalized(model, {"x": normal(2, 4, 8, 8)}, ("a", "b", "t")), "a", "b")


def test_equalize_depthwise_triple():
    text = """g (float[n,3,8,8] x, float[6,3,1,1] w, float[6] b, float[6,1,3,3] d, float[6] e, float[4,6,1,1] p,
        float lo, float hi) => (float y) {
        [a] s = Conv (x, w, b) t = Clip (s, lo, hi) [dw] u = Conv <group = 6, pads = [1,1,1,1]> (t, d, e)
        v = Clip (u, lo, hi) [pw] y = Conv (v, p) }"""
    model = graph(
        text, w=normal(6, 3, 1, 1), b=B1, d=normal(6, 1, 3, 3, seed=1) * uneven(6, axis=0, rank=4), e=normal(6, seed=6),
        p=normal(4, 6, 1, 1, seed=2), lo=np.float32(0), hi=np.float32(2),
    )  # fmt: skip
    result = equalized(model, IMAGE, ("a", "dw", "pw"))
    assert set(result.errors) == {"a", "dw"}
    depthwise = np.abs(weight(result.model, "dw")).max(axis=(1, 2, 3))
    planted = uneven(6, axis=0, rank=4)
    assert depthwise.max() / depthwise.min() < 0.01 * planted.max() / planted.min()


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", ["6", "1,6", "1", ""])
def test_equalize_gemm(turned, bias):
    text = f"""g (float[n,3] x, float[3,6] w, float[{bias}] b, float[6,4] v) => (float y) {{
        [a] c = Gemm <alpha = 0.5, beta = 2.0, transB = {turned}> (x, w, b) r = Relu (c)
        [b] y = Gemm <transB = {turned}> (r, v) }}"""
    w, v = normal(3, C, seed=1) * uneven(C, axis=1, rank=2), normal(C, 4, seed=2)
    shape = tuple(map(int, bias.split(","))) if bias else ()
    if turned:
        w, v = np.ascontiguousarray(w.T), np.ascontiguousarray(v.T)
        text = text.replace("[3,6] w", "[6,3] w").replace("[6,4] v", "[4,6] v")
    bias = normal(6, seed=3)[: int(np.prod(shape))].reshape(shape)
    assert has_gained(equalized(graph(text, w=w, b=bias, v=v), ROWS), "a")


@pytest.mark.parametrize("prepared", [False, True])
def test_equalize_matmul_of_rank_3(prepared):
    text = """g (float[n,5,3] x, float[3,6] w, float[6] b, float[6,4] v, float[4] d) => (float[n,5,4] y) {
        [a] c = MatMul (x, w) s = Add (c, b) r = Relu (s) [b] e = MatMul (r, v) y = Add (e, d) }"""
    w = normal(3, C, seed=1) * uneven(C, axis=1, rank=2)
    model = graph(text, w=w, b=B1, v=normal(C, 4, seed=2), d=normal(4))
    if prepared:
        model = prepare(model).model
        assert ops(model).count("Gemm") == 2
    equalized(model, FEEDS[2])


def test_equalize_past_a_gate():
    text = """g (float[n,5,3] x, float[3,6] w, float[3,6] u, float[6,4] v) => (float[n,5,4] y) {
        [g] c = MatMul (x, u) s = Sigmoid (c) [a] d = MatMul (x, w) m = Mul (s, d) [b] y = MatMul (m, v) }"""
    w = normal(3, C, seed=1) * uneven(C, axis=1, rank=2)
    result = equalized(graph(text, w=w, u=normal(3, C, seed=3), v=normal(C, 4, seed=2)), FEEDS[2])
    assert "Sigmoid" in result.declined["g"]


@pytest.mark.parametrize(
    ("tail", "features"),
    [
        ("f = Flatten (r)", 6 * 16),
        ("g = GlobalAveragePool (r) f = Reshape (g, rows)", 6),
        ("g = GlobalAveragePool (r) f = Flatten (g)", 6),
        ("t = Clip (r, lo, hi) g = Flatten (t) f = Clip (g, lo, hi)", 6 * 16),
        ("p = Transpose <perm = [0,2,3,1]> (r) f = Reshape (p, pixels)", 6),
    ],
)
def test_equalize_into_gemm_behind_a_reshape(tail, features):
    text = f"""g (float[2,3,8,8] x, float[6,3,3,3] w, float[6] b, float[{features},4] v, float lo, float hi,
        int64[2] rows, int64[2] pixels) => (float y) {{ [a] c = Conv <strides = [2,2], pads = [1,1,1,1]> (x, w, b)
        r = Relu (c) {tail} [b] y = Gemm (f, v) }}"""
    model = graph(
        text, w=W1, b=B1, v=normal(features, 4, seed=4), lo=np.float32(0), hi=np.float32(1),
        rows=np.int64([2, 6]), pixels=np.int64([-1, 6]),
    )  # fmt: skip
    assert has_gained(equalized(model, IMAGE), "a")


# --- Clip


def test_equalize_exact_gives_each_channel_its_bound():
    result = equalized(convs(*BETWEEN["clip"]), IMAGE, clips="exact")
    assert ops(result.model) == ["Conv", "Relu", "Min", "Conv"]
    high = result.model.graph[2].inputs[1].const_value.numpy()
    assert high.shape == (C, 1, 1)
    assert "hi" not in result.model.graph.initializers
    np.testing.assert_allclose(high.reshape(-1) * np.abs(W1).max(axis=(1, 2, 3)),
                               1.5 * np.abs(weight(result.model, "a")).max(axis=(1, 2, 3)), rtol=1e-5)  # fmt: skip
    assert "1 Clip became Relu and Min" in result.notes[0]


def test_equalize_exact_keeps_a_clip_that_needs_no_scale():
    even = np.ones((C, 3, 3, 3), np.float32)
    model = graph("""g (float[n,3,8,8] x, float[6,3,3,3] w, float[4,6,1,1] v, float lo, float hi) => (float y) {
        [a] c = Conv (x, w) r = Clip (c, lo, hi) [b] y = Conv (r, v) }""",
        w=even, v=np.ones((4, C, 1, 1), np.float32), lo=np.float32(0), hi=np.float32(6))  # fmt: skip
    result = equalized(model, IMAGE, ())
    assert ops(result.model) == ["Conv", "Clip", "Conv"]
    assert result.notes == ()


def test_equalize_decline_leaves_clips_alone():
    result = equalized(convs(*BETWEEN["clip"]), IMAGE, (), clips="decline")
    assert "bounds all channels alike" in result.declined["a"]
    assert "Clip" in ops(result.model)
    equalized(convs(*BETWEEN["clip_without_top"]), IMAGE, clips="decline")


def test_equalize_replace_says_which_clips_it_replaced():
    model = convs("[six] r = Clip (c, lo, hi)", BETWEEN["clip"][1])
    result = equalized(model, IMAGE, clips="replace")
    assert ops(result.model) == ["Conv", "Relu", "Conv"]
    assert result.notes == ("1 Clip became Relu, which changes the function above their bounds: 'six'.",)
    relu = convs("r = Relu (c)", {})
    assert least_db(relu, result.model, IMAGE) >= SAME_DB
    assert least_db(model, result.model, IMAGE) < 60


@pytest.mark.parametrize(
    ("between", "arrays", "reason"),
    [
        ("r = Clip (c, lo, hi)", {"lo": np.float32(-1), "hi": np.float32(1)}, "lower bound of Clip '.*' is -1, not 0"),
        ("r = Clip (c, , hi)", {"hi": np.float32(1)}, "lower bound of Clip '.*' is not known"),
        ("z = ReduceMax <keepdims = 0> (x) r = Clip (c, lo, z)", {"lo": np.float32(0)}, "upper bound .* is not known"),
        ("r = Clip (c, lo, hi)", {"lo": np.float32(0), "hi": np.float32(0)}, "is 0, not above 0"),
        ("r = Sigmoid (c)", {}, "Sigmoid .* stands between"),
        ("r = Div (k, c)", {"k": normal(C, 1, 1)}, "Div .* divides by it"),
        ("r = Add (c, k)", {"k": normal(1, 1, 1, 8)}, r"constant of Add '.*' has the shape \[1, 1, 1, 8\]"),
        ("d = Relu (c) r = Add (c, d)", {}, "'c' is read by 2 inputs"),
        ("d = Relu (c) r = Mul (d, d)", {}, "'d' is read by 2 inputs"),
    ],
)
def test_equalize_names_what_it_declines(between, arrays, reason):
    result = equalized(convs(between, arrays), IMAGE, ())
    assert set(result.declined) == {"a", "b"}
    assert re.search(reason, result.declined["a"]), result.declined["a"]
    assert "'y' is an output of the graph" in result.declined["b"]


# --- which layers


TWO = "g (float[n,6] x, float[6,6] w, float[6,6] v) => (float[n,6] y{out}) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "out", "reason"),
    [
        ("[a] c = MatMul (x, w) [b] y = MatMul (c, w)", "", "weight 'w' is shared"),
        (
            "[a] c = MatMul (x, v) [b] d = MatMul (c, w) e = Transpose (w) y = MatMul (d, e)",
            "",
            "next layer 'b': .*shared",
        ),
        ("[a] c = MatMul (x, w) [b] y = MatMul (c, v)", ", float[n,6] c", "'c' is an output of the graph"),
        ("[a] c = MatMul (x, w) t = Transpose (c) [b] y = MatMul (t, v)", "", "the channels of the next layer 'b'"),
        ("[a] c = MatMul (x, w) [b] y = Gemm <transA = 1> (c, v)", "", "it transposes its input"),
        ("[a] c = MatMul (x, w) [b] y = Gemm (x, v, c)", "", "takes it for a weight or a bias"),
    ],
)
def test_equalize_declines_a_layer(body, out, reason):
    w = normal(6, 6) * uneven(6, axis=1, rank=2)
    model = graph(TWO.format(body=body, out=out), w=w, v=normal(6, 6, seed=1))
    result = equalize(model)
    assert result.changed == ()
    assert re.search(reason, result.declined["a"]), result.declined["a"]
    assert to_bytes(result.model) == to_bytes(equalize(result.model).model)


@pytest.mark.parametrize(("op", "reason"), [("Mul", "Mul .* changes its shape"), ("Add", "Add .* changes its rank")])
def test_equalize_declines_what_changes_the_rank(op, reason):
    text = f"""g (float[6,6] x, float[6,6] w, float[6,6] v, float[1,1,6] k) => (float[1,6,6] y) {{
        [a] c = MatMul (x, w) m = {op} (c, k) [b] y = MatMul (m, v) }}"""
    result = equalized(graph(text, w=normal(6, 6), v=normal(6, 6, seed=1), k=normal(1, 1, 6)), {"x": normal(6, 6)}, ())
    assert re.search(reason, result.declined["a"]), result.declined["a"]


def test_equalize_copies_a_bias_that_others_read():
    text = """g (float[n,6] x, float[6,6] w, float[6] b, float[6,6] v) => (float[n,6] y) {
        [a] c = Gemm (x, w, b) r = Relu (c) [b] y = Gemm (r, v, b) }"""
    w = normal(6, 6) * uneven(6, axis=1, rank=2)
    result = equalized(graph(text, w=w, b=B1, v=normal(6, 6, seed=1)), {"x": normal(4, 6)})
    np.testing.assert_array_equal(result.model.graph[2].inputs[2].const_value.numpy(), B1)


def test_equalize_leaves_dead_channels_and_bounds_scales():
    w, v = W1.copy(), W2.copy()
    w[0], v[:, 1], w[2] = 0, 0, W1[2] * 1e-9
    model = graph("""g (float[n,3,8,8] x, float[6,3,3,3] w, float[6] b, float[4,6,3,3] v) => (float y) {
        [a] c = Conv (x, w, b) r = Relu (c) [b] y = Conv (r, v) }""", w=w, b=B1, v=v)  # fmt: skip
    for limit in (1e3, 1.5):
        result = equalize(model, limit=limit)
        assert least_db(model, result.model, IMAGE) >= SAME_DB
        np.testing.assert_array_equal(weight(result.model, "a")[:3:2], w[:3:2])
        np.testing.assert_array_equal(weight(result.model, "a")[1], w[1])
        scale = w[3:, 0, 0, 0] / weight(result.model, "a")[3:, 0, 0, 0]
        assert (np.abs(np.log(scale)) <= np.log(limit) + 1e-5).all()


def test_equalize_refuses_options_that_do_not_exist():
    model = convs("r = Relu (c)", {})
    with pytest.raises(SpecError, match="clips must be one of exact, decline, replace, not 'drop'"):
        equalize(model, clips="drop")
    with pytest.raises(SpecError, match=r"limit must be at least 1, not 0\.5"):
        equalize(model, limit=0.5)


# --- what it is for


def int8_error(model: ir.Model, names: str, feeds: dict[str, np.ndarray]) -> float:
    """Return the relative output error after rounding the weights to int8, one scale per tensor."""
    rounded = model.clone()
    for node in rounded.graph:
        if node.name in names:
            old = node.inputs[1].const_value.numpy()
            step = np.abs(old).max() / 127
            node.inputs[1].const_value = ir.tensor((np.rint(old / step) * step).astype(np.float32))
    (expected,), (got,) = (list(outputs(m, feeds).values()) for m in (model, rounded))
    return float(np.square(expected - got).sum() / np.square(expected).sum())


def test_equalize_lowers_the_error_of_int8_weights_with_one_scale():
    scale = uneven(C, axis=0, rank=4)
    w2 = W2 / scale.reshape(1, -1, 1, 1)
    model = convs("r = Relu (c)", {}, w2=w2)
    result = equalized(model, IMAGE)
    assert int8_error(result.model, "ab", IMAGE) < 0.05 * int8_error(model, "ab", IMAGE)
    before, after = result.errors["a"]
    assert before > 0.8
    assert after < 0.5


def test_balance_never_leaves_a_boundary_worse():
    rng = np.random.default_rng(0)
    for _ in range(30):
        spans = np.exp(rng.normal(size=(3, 1, 5, 5)) * 3)
        matrices = dict(zip("abc", spans, strict=True))
        rows = even_out(matrices, [Boundary("a", "b"), Boundary("b", "c")], [(np.full(5, -7.0), np.full(5, 7.0))] * 2)
        assert all(row.after <= row.before + 1e-6 for row in rows)
        scaled = {
            "a": matrices["a"] / rows[0].scale,
            "b": matrices["b"] / rows[1].scale * rows[0].scale[:, None],
            "c": matrices["c"] * rows[1].scale[:, None],
        }
        for row, (first, second) in zip(rows, ("ab", "bc"), strict=True):
            r1, r2 = scaled[first].max(axis=(0, 1)), scaled[second].max(axis=(0, 2))
            assert row.after == pytest.approx(1 - (r1 * r2).mean() / (r1.max() * r2.max()), abs=1e-9)


def test_equalize_keeps_the_bounds_of_channels_on_one_grid():
    w = normal(C, 3, 3, 3, seed=1) * np.float32([1e-2, 0.5, 1, 1, 1, 30]).reshape(-1, 1, 1, 1)
    text = """g (float[n,3,8,8] x, float[6,3,3,3] w, float[6] b, float[4,6,3,3] v, float lo, float hi) => (float y) {
        [a] c = Conv (x, w, b) r = Clip (c, lo, hi) [b] y = Conv (r, v) }"""
    model = graph(text, w=w, b=B1, v=W2, lo=np.float32(0), hi=np.float32(6))
    for limit in (8, 2):
        result = equalized(model, IMAGE, bound_limit=limit)
        high = result.model.graph[2].inputs[1].const_value.numpy().reshape(-1)
        assert high.max() == pytest.approx(6 * limit, rel=1e-5)
        assert high.min() >= 6 / limit * (1 - 1e-5)


@pytest.mark.parametrize("small", np.geomspace(5e-4, 5e-3, 12))
def test_equalize_does_not_need_a_second_run_for_what_an_outlier_hid(small):
    w = normal(C, 3, 3, 3, seed=1) * np.float32([small, 0.5, 1, 1, 1, 300]).reshape(-1, 1, 1, 1)
    text = """g (float[n,3,8,8] x, float[6,3,3,3] w, float[6] b, float[4,6,3,3] v) => (float y) {
        [a] c = Conv (x, w, b) r = Relu (c) [b] y = Conv (r, v) }"""
    result = equalized(graph(text, w=w, b=B1, v=W2), IMAGE)
    assert result.changed
    assert equalize(result.model).changed == ()


# --- real networks

PAIRS = {
    "cifar10_resnet20": 9, "cifar10_resnet56": 27, "fastestdet_coco": 41, "imdn_rtc_x2": 0, "kwt1_speechcommands": 0,
    "mobilenetv1_0.75_imagenet": 27, "mobilenetv2_1.0_imagenet": 37, "stories260k": 5,
}  # fmt: skip


@pytest.mark.assets
@pytest.mark.parametrize("name", SHAPES)
def test_equalize_real_networks(name):
    model = network(name)
    given = to_bytes(model)
    result = equalize(model, clips="exact")
    assert to_bytes(model) == given
    assert least_db(model, result.model, plausible(name)) >= SAME_DB
    assert len(result.errors) == PAIRS[name]
    assert all(after <= before + 1e-6 for before, after in result.errors.values())
    assert all(result.declined.values())
    if PAIRS[name]:
        assert np.mean([after - before for before, after in result.errors.values()]) < -0.05
    assert equalize(result.model).changed == ()
