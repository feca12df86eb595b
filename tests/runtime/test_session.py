import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from fewbits.errors import DataError, ModelError, SpecError
from fewbits.runtime.processor import saturates
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session, without_integer_kernels

TEXT = '<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) '
MODEL = parser.parse_model(TEXT + "{ y = Relu (x) z = Neg (x) }").SerializeToString()
X = np.float32([[1, -2]])


@pytest.mark.parametrize("policy", SessionPolicy)
def test_runner_returns_outputs_by_name(policy):
    runner = open_session(MODEL, policy=policy)
    result = runner({"x": X})
    np.testing.assert_array_equal(result["y"], [[1, 0]])
    assert list(result) == list(runner.output_names) == ["y", "z"]
    assert runner.policy is policy


def test_named_outputs_only_and_none_for_none():
    runner = open_session(MODEL)
    assert list(runner.run(["z"], {"x": X})) == ["z"]
    assert runner.run([], {"x": X}) == {}


def test_inputs_carry_name_type_and_open_dimensions():
    (info,) = open_session(MODEL).inputs
    assert (info.name, info.dtype, info.shape) == ("x", np.float32, ("N", 2))


def test_model_opens_from_a_path(tmp_path):
    (tmp_path / "m.onnx").write_bytes(MODEL)
    for path in (tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        assert open_session(path).output_names == ("y", "z")


def test_optimized_graph_is_written(tmp_path):
    open_session(MODEL, optimized_path=tmp_path / "o.onnx")
    assert onnx.load(tmp_path / "o.onnx").graph.output[0].name == "y"


def test_broken_models_are_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"cannot load '.*bad\.onnx'"):
        open_session(tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        open_session(b"nonsense")


def test_wrong_feeds_are_told_with_their_shapes():
    with pytest.raises(DataError, match=r"could not run the model on x float32\[1, 3\]"):
        open_session(MODEL)({"x": np.zeros((1, 3), np.float32)})


def test_provider_is_found_by_its_short_name_or_refused():
    assert RunOptions().provider_name() == "CPUExecutionProvider"
    assert RunOptions("CPUExecutionProvider").provider_name() == "CPUExecutionProvider"
    with pytest.raises(SpecError, match=r"has no provider 'tpu': it has .*cpu"):
        open_session(MODEL, options=RunOptions("tpu"))


def test_inputs_other_than_tensors_are_refused():
    text = (
        TEXT.split(" g ", maxsplit=1)[0]
        + " g (seq(float[N]) x) => (float[M] y) { y = ConcatFromSequence <axis = 0> (x) }"
    )
    with pytest.raises(ModelError, match=r"input 'x' .* type seq\(tensor\(float\)\): fewbits feeds"):
        open_session(parser.parse_model(text).SerializeToString())


def test_messages_of_onnxruntime_come_without_its_codes_and_its_own_source_files():
    text = TEXT.partition(" g ")[0] + " g (float[N, 3, 2] x, float[1, 4, 2] w, float[1, 4, 4] r) => (float y) "
    text += "{ y = RNN <hidden_size = 4, layout = 1> (x, w, r) }"
    with pytest.raises(ModelError, match=r"cannot load .*\(layout == 1\) are not supported.*a newer one than") as found:
        open_session(parser.parse_model(text).SerializeToString())
    assert "[ONNXRuntimeError]" not in str(found.value)
    assert "onnxruntime_src" not in str(found.value)


def test_outputs_other_than_tensors_are_refused():
    text = TEXT.split(" g ", maxsplit=1)[0] + " g (float[N] x) => (seq(float[N]) s) { s = SequenceConstruct (x) }"
    with pytest.raises(ModelError, match=r"output 's' .* type seq\(tensor\(float\)\): fewbits feeds and reads"):
        open_session(parser.parse_model(text).SerializeToString())


LOUD = """<ir_version: 10, opset_import: ["": 21]> g (float[N, 64] x) => (float[N, 4] y) {
    q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
    w = DequantizeLinear (k, t, o)
    a = MatMul (d, w)  b = Relu (a)  c = QuantizeLinear (b, u, z)  %s
}"""


def loud(tail: str) -> bytes:
    """A product whose 8-bit terms all have the largest size: pairs of them do not fit 16 bits."""
    model = parser.parse_model(LOUD % tail)
    arrays = {
        "s": np.float32(1 / 255), "z": np.uint8(0), "k": np.full((64, 4), 127, np.int8), "t": np.float32(0.01),
        "o": np.int8(0), "u": np.float32(0.5), "p": np.full((4, 64), 0.005, np.float32),
    }  # fmt: skip
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items())
    return model.SerializeToString()


TIED = (  # a second layer of the same weight
    "e = DequantizeLinear (c, u, z)  f = MatMul (e, p)  h = QuantizeLinear (f, u, z)  i = DequantizeLinear (h, u, z) "
    "j = MatMul (i, w)  l = QuantizeLinear (j, u, z)  y = DequantizeLinear (l, u, z)"
)


@pytest.mark.parametrize("tail", ["y = DequantizeLinear (c, u, z)", TIED])
def test_integer_kernels_do_not_saturate(tail):
    model, x = loud(tail), {"x": np.ones((2, 64), np.float32)}
    exact = open_session(model, policy=SessionPolicy.EXACT)(x)["y"]
    np.testing.assert_array_equal(open_session(model)(x)["y"], exact)
    assert exact.min() > 80
    plain = open_session(model, policy=SessionPolicy.PLAIN)(x)["y"]
    assert bool((plain < exact).any()) == saturates()


WIDE = '<ir_version: 10, opset_import: ["": 21]> g (float[N, 32] x) => (float[N, 16] y) { %s }'


def quantized_product(bits: int) -> bytes:
    body = "w = DequantizeLinear <axis = 1> (q, s, z) y = MatMul (x, w)"
    model = parser.parse_model(WIDE % body)
    rng = np.random.default_rng(0)
    kind = {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}[bits]
    top = 2 ** (bits - 1) - 1
    model.graph.initializer.extend([
        onnx.helper.make_tensor("q", kind, (32, 16), rng.integers(-top, top, 512)),
        onnx.numpy_helper.from_array(np.full(16, 0.01, np.float32), "s"),
        onnx.helper.make_tensor("z", kind, (16,), np.zeros(16, int)),
    ])  # fmt: skip
    return model.SerializeToString()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("policy", [SessionPolicy.DEFAULT, SessionPolicy.EXACT])
def test_weights_under_float_activations_are_not_computed_in_8_bits(bits, policy):
    """ORT's own default may turn this into MatMulNBits with 8-bit activations; ours may not."""
    model, x = quantized_product(bits), np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    off = ort.SessionOptions()
    off.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = ort.InferenceSession(model, off, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    given = open_session(model, policy=policy)({"x": x})["y"]
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


QDQ = """d = QuantizeLinear (x, s, z) e = DequantizeLinear (d, s, z) f = Sigmoid (e)
    h = QuantizeLinear (f, s, z) y = DequantizeLinear (h, s, z)"""


def test_exact_executes_every_pair_as_written(tmp_path):
    model = parser.parse_model((WIDE % QDQ).replace("16] y", "32] y"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.03), "s"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(128), "z"))
    kinds = {}
    for policy in SessionPolicy:
        open_session(model.SerializeToString(), policy=policy, optimized_path=tmp_path / "o.onnx")
        kinds[policy] = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert kinds[SessionPolicy.EXACT].count("QuantizeLinear") == 2
    assert "Sigmoid" in kinds[SessionPolicy.EXACT]
    assert "QLinearSigmoid" in kinds[SessionPolicy.DEFAULT]


@pytest.mark.parametrize(
    ("activation", "weight", "expected"),
    [("UINT8", "INT8", False), ("UINT16", "INT8", True), ("UINT8", "INT4", True), ("UINT16", "INT16", True)],
)
def test_without_integer_kernels_looks_at_weights_and_activations(activation, weight, expected):
    types = {name: getattr(onnx.TensorProto, name) for name in (activation, weight)}
    constants = [
        onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.1]),
        onnx.helper.make_tensor("z", types[activation], [], [3]),
        onnx.helper.make_tensor("w", types[weight], [2, 2], [1, 2, 3, 4]),
        onnx.helper.make_tensor("wz", types[weight], [], [0]),
    ]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["v"]),
        onnx.helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    assert without_integer_kernels(proto.SerializeToString()) is expected
    folds = "session.disable_quant_qdq" in SessionPolicy.DEFAULT.options_for(proto.SerializeToString())
    assert folds is expected
    assert "session.disable_quant_qdq" not in SessionPolicy.EXACT.options_for(proto.SerializeToString())
    open_session(proto.SerializeToString())({"x": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize("clips", [True, False])
def test_the_slower_kernels_are_asked_for_where_the_others_saturate(monkeypatch, clips):
    monkeypatch.setattr("fewbits.runtime.session.saturates", lambda: clips)
    assert ("session.x64quantprecision" in SessionPolicy.DEFAULT.options) is clips
    assert "session.x64quantprecision" not in {**SessionPolicy.EXACT.options, **SessionPolicy.PLAIN.options}
