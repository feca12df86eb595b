"""Names that a model may have and that quantization would give, too: found by the fuzzer."""

import numpy as np
import onnx
import pytest
from qdq_models import model as parsed
from qdq_models import normal, quantized, session, uncovered

from fewbits.quantization.strip import strip_qdq
from fewbits.runtime.session import SessionPolicy
from fewbits.spec.plan import Role

TWO = "g (float[8, 6] x) => (float y) {{ [{name}] a = Gemm (x, w, b) y = Gemm (a, v) }}"


@pytest.mark.parametrize("name", ["x_q_node", "x_dq_node", "a_q_node", "w_dq_node"])
def test_a_node_may_have_the_name_that_insertion_would_give(name):
    graph = parsed(TWO.format(name=name), w=normal(6, 5), b=normal(5), v=normal(5, 4))
    made = quantized(graph, {"x": normal(8, 6)})
    names = [node.name for node in made.quantized.graph]
    assert len(set(names)) == len(names)
    assert name in names
    for policy in SessionPolicy:  # onnxruntime refuses two nodes of one name
        assert list(session(made.quantized, policy)({"x": normal(8, 6)})) == ["y"]


def test_a_node_of_float16_may_have_the_name_of_its_cast():
    graph = parsed(TWO.format(name="x_fp16_cast"), w=normal(6, 5), b=normal(5), v=normal(5, 4))
    made = quantized(graph, {"x": normal(8, 6)}, "fp16")
    assert list(session(made.quantized)({"x": normal(8, 6)})) == ["y"]


def test_a_float16_tensor_gets_its_name_back_though_another_has_the_name_of_its_half():
    text = """g (float[8, 6] x) => (float a_fp16, float y) {
    [half] a = Gemm (x, w) a_fp16 = LeakyRelu (a) y = Sigmoid (a) }"""
    graph = parsed(text, w=normal(6, 6))
    made = quantized(graph, {"x": normal(8, 6)}, "w8a8", {"half": "fp16"})
    stripped = strip_qdq(made.quantized, "the file")
    assert "a" in made.plan.grids
    assert set(stripped.given.encodings) >= {"a", "a_fp16", "y"}


def test_names_inside_control_flow_are_not_given_again():
    graph = parsed(
        """g (float[8, 6] x) => (float y) {
        a = Gemm (x, w) m = ReduceMax <keepdims = 0> (x) c = Greater (m, zero)
        z = If (c) <then_branch = t () => (float[8, 6] a_q) { a_q = Relu (a) },
                    else_branch = e () => (float[8, 6] a_dq) { a_dq = Neg (a) }>
        y = Gemm (z, w) }""",
        w=normal(6, 6), zero=np.float32(0),
    )  # fmt: skip
    feeds = {"x": normal(8, 6)}
    made = quantized(graph, feeds)
    onnx.checker.check_model(made.proto(), full_check=True)
    session(made.quantized)(feeds)


def test_a_tensor_may_have_the_name_of_another_tensors_second_grid():
    # the second grid of `a` is called "a@uint16", as the other branch's tensor is
    text = """g (float[8, 6] x) => (float y, float z, float u) {
    a = Gemm (x, w) [wide] y = Relu (a) z = Sigmoid (a) "a@uint16" = Gemm (x, v) u = Neg ("a@uint16") }"""
    graph = parsed(text, w=normal(6, 6), v=normal(6, 6, seed=2, scale=30.0))
    made = quantized(graph, {"x": normal(8, 6)}, "w8a8", {"wide": "w8a16"}, target="ort-cpu")
    key = made.plan.inputs["wide", 0]
    assert made.plan.grids[key].tensor == "a"
    assert made.plan.grids["a@uint16"].tensor == "a@uint16"
    assert made.encoding("a@uint16").scale > 2 * made.encoding("a").scale
    assert not uncovered(graph.graph, made.plan)
    wanted = made.float_run()
    for name, given in made.run().items():
        assert np.abs(given - wanted[name]).max() < 0.03 * np.abs(wanted[name]).max(), name


def test_a_weight_may_have_the_name_of_a_tied_weights_second_grid():
    # `w` is read on two grids, as it is and transposed: the second is called "w'"
    text = """g (float[8, 6] x) => (float y) {
    a = Gemm (x, w) r = Relu (a) s = Gemm <transB = 1> (r, w) t = Relu (s) y = Gemm (t, "w'") }"""
    graph = parsed(text, **{"w": normal(6, 6), "w'": normal(6, 6, seed=3, scale=50.0)})
    made = quantized(graph, {"x": normal(8, 6)})
    stored = {key: grid.tensor for key, grid in made.plan.grids.items() if grid.role is Role.WEIGHT}
    assert sorted(stored.values()) == ["w", "w", "w'"]
    assert stored["w'"] == "w'"
    wanted = made.float_run()["y"]
    assert np.abs(made.run()["y"] - wanted).max() < 0.05 * np.abs(wanted).max()
