import numpy as np
import pytest
from model_zoo import ZOO
from qdq_models import model, normal, quantized, statistics

from fewbits.quantization.half import castable_inputs
from fewbits.quantization.overflow import half_overflows


def refused(graph, feeds) -> dict[str, str]:
    return half_overflows(graph.graph, statistics(graph, feeds))


def test_large_activations_are_refused_with_the_figure():
    graph = model("g (float[N, 4] x) => (float y) { h = Mul (x, k) y = Sigmoid (h) }", k=np.float32(40000))
    x = {"x": np.full((2, 4), 1, np.float32)}
    found = refused(graph, x)
    assert found["h"] == found["y"]
    assert "'h' reaches 40000 on the calibration data, and with a margin of 2 that exceeds 65504" in found["h"]
    made = quantized(graph, x, "fp16", half_refused=found)
    assert made.plan.nodes["h"].reason == found["h"]
    np.testing.assert_allclose(made.run()["y"], 1)


def test_small_networks_are_not_refused():
    assert not refused(*ZOO["attention"]())
    assert not refused(*ZOO["residual"]())


@pytest.mark.parametrize("text", [
    "g (float[N, 4] x) => (float y) { y = Gemm (x, w) }",
    "g (float[N, 4] x) => (float y) { y = Div (x, w) }",
    "g (float[N, 4] x) => (float y) { h = Mul (x, tiny) y = Mul (h, w) }",
])  # fmt: skip
def test_constants_that_multiply_or_divide_are_refused(text):
    graph = model(text, w=np.full((4, 4), 1e5, np.float32), tiny=np.float32(1e-6))
    assert "the constant 'w' reaches 100000, above 65504" in refused(graph, {"x": normal(4, 4, scale=1e-3)})["y"]


def test_masks_and_bounds_saturate():
    assert not refused(*ZOO["attention_mask"]())
    graph = model("g (float[N, 4] x) => (float y) { c = Clip (x, , top) y = Min (c, top) }", top=np.float32(1e9))
    assert not refused(graph, {"x": normal(4, 4)})


def test_overflow_inside_a_fused_group_is_seen_where_the_follower_shrinks():
    text = "g (float[N, 2, 3, 3] x) => (float y) {{ c = Conv (x, w) y = {} (c) }}"
    arrays, x = {"w": np.full((2, 2, 1, 1), 3e4, np.float32)}, {"x": -np.ones((2, 2, 3, 3), np.float32)}
    assert "'c' reaches 60000" in refused(model(text.format("LeakyRelu <alpha = 0.01>"), **arrays), x)["c"]
    assert not refused(model(text.format("Relu"), **arrays), x)  # -inf becomes 0 as -60000 does


@pytest.mark.parametrize(("text", "positions"), [
    ('y = Resize <mode = "linear"> (x, , s)', (0,)),
    ("y = Pow (x, s)", (0, 1)),
    ("y = LayerNormalization (x, s, s)", (0, 1, 2)),
    ("y = Reshape (x, i)", (0,)),
    ("y = Concat <axis = 1> (x, x, x)", (0, 1, 2)),
    ("y = Where (b, x, s)", (1, 2)),
    ("y = Celu (x)", ()),
    ("y = com.microsoft.Gelu (x)", ()),
])  # fmt: skip
def test_castable_inputs_follow_the_schema(text, positions):
    graph = model(
        f"g (float[N, 4] x) => (float y) {{ {text} }}", domains='"com.microsoft": 1',
        s=normal(4), i=np.int64([-1, 4]), b=np.array([True]),
    )  # fmt: skip
    node = graph.graph.node("y")
    node.domain = "" if "com." not in text else node.domain
    wanted = positions if "com." not in text else ()
    found = castable_inputs(node, 21)
    assert found == wanted or "com." in text
