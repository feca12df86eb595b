"""Float16, bfloat16 and double become float32: what is kept, what is cast, and that numbers stay."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import graph, normal, ops, proto, run
from onnx import TensorProto, helper, numpy_helper

from fewbits.graph.load import load_model
from fewbits.graph.passes import to_float32
from fewbits.graph.prepare import prepare
from fewbits.graph.save import save_model, to_bytes
from fewbits.graph.shapes import infer_shapes

TEXT = "g ({0}[N,4] x, {0}[4,5] w) => ({0}[N,5] y) {{ h = MatMul(x, w) y = Relu(h) }}"
KINDS = {"float16": np.float16, "double": np.float64}


def widened(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Run the pass; check the model, and that a second run finds nothing."""
    infer_shapes(model)
    result = to_float32.run(model)
    assert result.declined == ()
    infer_shapes(model)
    onnx.checker.check_model(onnx.load_model_from_string(to_bytes(model)), full_check=True)
    assert to_float32.run(model).changed == ()
    return model, result.changed


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_keep_their_type_behind_casts(kind):
    dtype = KINDS[kind]
    before = proto(TEXT.format(kind), w=normal(4, 5).astype(dtype))
    after, said = widened(load_model(before))
    assert ops(after) == ["Cast", "MatMul", "Relu", "Cast"]
    assert "'x', 'y' keep their types, with Casts" in said
    feeds = {"x": normal(3, 4, seed=1).astype(dtype)}
    (given,) = run(after, feeds).values()
    assert given.dtype == dtype
    wanted = np.maximum(feeds["x"].astype(np.float64) @ normal(4, 5).astype(dtype).astype(np.float64), 0)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=(2**-10 if dtype is np.float16 else 2**-22) * wanted.max())


def test_every_float16_number_stays_the_same():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)].astype(np.float16)
    model = graph("g (float16[N] x, float16[N] w) => (float16[N] y) { y = Add(x, w) }", w=every)
    after, _ = widened(model)
    (tensor,) = [value.const_value for value in after.graph.initializers.values()]
    assert np.array_equal(tensor.numpy().astype(np.float16), every)
    assert np.array_equal(tensor.numpy().astype(np.float64), every.astype(np.float64))


def test_bfloat16_inputs_and_outputs_become_float32():
    weight = normal(4, 5).astype(ml_dtypes.bfloat16)
    before = proto(TEXT.format("bfloat16"))
    before.graph.initializer.append(
        helper.make_tensor("w", TensorProto.BFLOAT16, (4, 5), weight.astype(np.float32).ravel().tolist())
    )
    del before.graph.input[1]
    after, said = widened(load_model(before))
    assert ops(after) == ["MatMul", "Relu"]
    assert "'x', 'y' are float32 now, because numpy has no bfloat16" in said
    x = normal(3, 4)
    (given,) = run(after, {"x": x}).values()
    np.testing.assert_allclose(given, np.maximum(x @ weight.astype(np.float32), 0), rtol=1e-5, atol=1e-5)


def test_doubles_beyond_float32_become_its_largest_numbers_and_infinities_stay():
    mask = np.array([-1.7e308, -np.inf, 1e39, 0.1])
    after, _ = widened(graph("g (double[4] x, double[4] w) => (double[4] y) { y = Add(x, w) }", w=mask))
    (tensor,) = [value.const_value for value in after.graph.initializers.values()]
    largest = np.finfo(np.float32).max
    assert np.array_equal(tensor.numpy(), np.array([-largest, -np.inf, largest, 0.1], np.float32))


def test_casts_between_the_types_do_nothing_any_more():
    text = """g (float[N,4] x, float16[4,4] w) => (float[N,4] y) {
        h = Cast<to=10>(x) m = MatMul(h, w) d = Cast<to=11>(m) r = Relu(d) y = Cast<to=1>(r) }"""
    prepared = prepare(graph(text, w=normal(4, 4).astype(np.float16)))
    assert ops(prepared.model) == ["MatMul", "Relu"]


def test_attributes_that_name_a_type_follow():
    text = """g (int64[2] s) => (float16[N,M] y) {
        c = ConstantOfShape(s) e = EyeLike<dtype=10>(c) y = Add(c, e) }"""
    before = proto(text)
    value = numpy_helper.from_array(np.array([2], np.float16))
    before.graph.node[0].attribute.append(helper.make_attribute("value", value))
    after, _ = widened(load_model(before))
    (given,) = run(after, {"s": np.array([2, 2], np.int64)}).values()
    assert np.array_equal(given, np.array([[3, 2], [2, 3]], np.float16))


def test_bodies_of_control_flow_follow():
    text = """g (float16[N,4] x, bool on, float16[4] w) => (float16[N,4] y) {
        h = Relu(x)
        y = If(on) <then_branch = t () => (float16[N,4] a) { a = Add(h, w) },
                    else_branch = e () => (float16[N,4] b) { b = Mul(x, w) }> }"""
    after, _ = widened(graph(text, w=normal(4).astype(np.float16)))
    x = normal(2, 4).astype(np.float16)
    for on in (True, False):
        (given,) = run(after, {"x": x, "on": np.array(on)}).values()
        wanted = np.maximum(x, 0) + normal(4) if on else x * normal(4)
        np.testing.assert_allclose(given, wanted.astype(np.float32), rtol=0, atol=4e-3)


def test_loops_and_sequences_follow():
    text = """g (float16[4] x, int64 n, bool yes, int64 first) => (float16[4] y) {
        z = SequenceEmpty<dtype=10>()
        s = SequenceInsert(z, x)
        last = Loop(n, yes, s) <body = b (int64 i, bool c, seq(float16[4]) v) => (bool d, seq(float16[4]) u) {
            d = Identity(c) f = SequenceAt(v, first) k = Add(f, f) u = SequenceInsert(v, k, first) }>
        y = SequenceAt(last, first) }"""
    after, _ = widened(graph(text, first=np.array(0), n=np.array(3), yes=np.array(True)))
    x = np.array([1, -2, 0.5, 0], np.float16)
    (given,) = run(after, {"x": x}).values()
    assert np.array_equal(given, 8 * x)


def test_casts_bring_the_import_that_they_need():
    text = """<ir_version: 10, opset_import: ["ai.onnx.ml" : 5]> g (double[2,3] x) => (double[2,2] y)
        <int64[2] i = {2, 0}> { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }"""
    after, _ = widened(load_model(onnx.parser.parse_model(text)))
    assert ops(after) == ["Cast", "ArrayFeatureExtractor", "Cast"]
    assert after.opset_imports == {"ai.onnx.ml": 5, "": 21}
    x = normal(2, 3).astype(np.float64)
    np.testing.assert_allclose(run(after, {"x": x})["y"], x[:, [2, 0]], rtol=1e-6)


def test_operators_of_unknown_domains_keep_their_types():
    text = (
        "g (float16[N,4] x, float16[4,4] w) => (float16[N,4] y) { h = MatMul(x, w) c = my.ops.Swirl(h, w) y = Relu(c) }"
    )
    before = proto(text, domains='"my.ops": 1', w=normal(4, 4).astype(np.float16))
    before.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT16, ["N", 4]))
    model = load_model(before)
    infer_shapes(model)
    assert to_float32.run(model).declined == ()
    (swirl,) = [node for node in model.graph if node.op_type == "Swirl"]
    assert [value.dtype for value in (*swirl.inputs, *swirl.outputs)] == [ir.DataType.FLOAT16] * 3
    assert ops(model) == ["Cast", "MatMul", "Cast", "Cast", "Swirl", "Cast", "Relu", "Cast"]


def test_a_model_whose_types_are_not_known_is_left_and_says_so():
    text = "g (float16[N,4] x) => (float16[N,4] y) { c = my.ops.Swirl(x) y = Relu(c) }"
    model = graph(text, domains='"my.ops": 1')
    infer_shapes(model)
    (declined,) = to_float32.run(model).declined
    assert "the types that my.ops::Swirl computes are not known" in declined.reason
    assert ops(model) == ["Swirl", "Relu"]


def test_double_arithmetic_on_shapes_stays_double():
    """In float32 the product below is 16777217 * 1 = 16777216."""
    text = """g (float[N] x, double k) => (double[1] y, float[N] z) {
        s = Shape(x) d = Cast<to=11>(s) m = Mul(d, k) y = Floor(m) z = Relu(x) }"""
    model = graph(text, k=np.array(16777217.0 / 3))
    after, said = widened(model)
    assert said == ()
    outputs = run(after, {"x": np.zeros(3, np.float32)})
    assert outputs["y"][0] == 16777217


def test_shape_arithmetic_in_double_meets_data_through_a_cast():
    text = """g (double[N] x, double k) => (double[N] y) {
        s = Shape(x) d = Cast<to=11>(s) m = Mul(d, k) y = Div(x, m) }"""
    after, _ = widened(graph(text, k=np.array(0.5)))
    (given,) = run(after, {"x": np.array([3.0, 6.0])}).values()
    assert np.array_equal(given, [3.0, 6.0])
    (div,) = [node for node in after.graph if node.op_type == "Div"]
    assert [value.dtype for value in div.inputs] == [ir.DataType.FLOAT] * 2


def test_weights_in_files_are_converted_when_they_are_read(tmp_path):
    weight = normal(300, 300).astype(np.float16)
    text = "g (float16[N,300] x, float16[300,300] w) => (float16[N,300] y) { y = MatMul(x, w) }"
    save_model(graph(text, w=weight), tmp_path / "m.onnx", external_bytes=0)
    after, _ = widened(load_model(tmp_path / "m.onnx"))
    (tensor,) = [value.const_value for value in after.graph.initializers.values()]
    assert isinstance(tensor, ir.LazyTensor)
    assert np.array_equal(tensor.numpy(), weight.astype(np.float32))
    save_model(after, tmp_path / "again.onnx", external_bytes=0)
    (again,) = [value.const_value for value in load_model(tmp_path / "again.onnx").graph.initializers.values()]
    assert np.array_equal(again.numpy(), weight.astype(np.float32))


def test_outputs_that_are_constants_or_inputs_keep_their_types():
    text = "g (float16[N,4] x, float16[4,5] w) => (float16[N,5] y, float16[4,5] w, float16[N,4] x) { y = MatMul(x, w) }"
    weight = normal(4, 5).astype(np.float16)
    after, _ = widened(graph(text, w=weight))
    x = normal(2, 4).astype(np.float16)
    outputs = run(after, {"x": x})
    assert list(outputs) == ["y", "w", "x"]
    assert np.array_equal(outputs["w"], weight)
    assert np.array_equal(outputs["x"], x)
