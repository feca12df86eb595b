from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_zoo import ZOO
from qdq_models import FAITHFUL, initializer, model, normal, quantized, session

from fewbits.errors import SpecError
from fewbits.numerics.affine import fake_quantize
from fewbits.runtime.session import SessionPolicy
from fewbits.spec.dtypes import DType

POLICIES = list(SessionPolicy)


def made_of(name: str, precision: str = "w8a8", nodes=None, **options):
    graph, feeds = ZOO[name]()
    return quantized(graph, feeds, precision, nodes, **options)


def ops(made) -> Counter:
    return Counter(node.op_type for node in made.quantized.graph)


def rounded(made, name: str, values=None) -> np.ndarray:
    """Return a stored or fed tensor as its grid holds it, by our own arithmetic."""
    if values is None:
        stored = made.float_model.graph.initializers[name].const_value.numpy()
        values = made.encoded.biases.get(name, stored)
    return fake_quantize(values, made.encoding(name))


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8", "w4a16", "w6a6"])
def test_exact_sim_of_a_gemm_is_our_own_arithmetic(precision):
    made = made_of("gemm", precision)
    x, w, b = rounded(made, "x", made.feeds["x"]), rounded(made, "w"), rounded(made, "b")
    wanted = rounded(made, "y", np.maximum(x.astype(np.float64) @ w + b, 0))
    # the sum of 7 float32 products differs in the last bits, which can tip a rounding at a step's middle: 1 LSB
    lsb = np.abs(made.run(SessionPolicy.EXACT)["y"] - wanted) / made.encoding("y").scale
    assert lsb.max() < 1.01
    assert (lsb < 0.01).mean() >= (0.9 if precision in ("w8a16", "w16a16", "w4a16") else 0.97)


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8"])
def test_exact_sim_of_a_conv_is_our_own_arithmetic(precision):
    made = made_of("conv_clip_open", precision)
    x, w, b = rounded(made, "x", made.feeds["x"]), rounded(made, "w"), rounded(made, "b")
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [padded[:, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    sums = np.einsum("tnchw,oct->nohw", np.stack(taps), w.reshape(6, 4, 9)) + b[:, None, None]
    wanted = rounded(made, "y", np.minimum(sums, 1))
    lsb = np.abs(made.run(SessionPolicy.EXACT)["y"] - wanted) / made.encoding("y").scale
    assert lsb.max() < 1.01  # as for the Gemm: sums of 37 products in float32
    assert (lsb < 0.01).mean() > 0.97


def test_integer_kernels_stay_within_one_step_of_the_exact_sim():
    made = made_of("residual")
    exact, fast = made.run(SessionPolicy.EXACT)["y"], made.run(SessionPolicy.DEFAULT)["y"]
    assert np.abs(exact - fast).max() < 1.01 * made.encoding("y").scale  # requantization rounds once more


def test_w8a8_convolutions_become_integer_kernels(tmp_path):
    from fewbits.graph.save import to_bytes
    from fewbits.runtime.session import open_session

    made = made_of("conv_relu", target="ort-cpu")
    open_session(to_bytes(made.quantized), optimized_path=tmp_path / "o.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node}
    assert "QLinearConv" in kinds
    assert not kinds & {"Conv", "Relu"}


def test_int4_weights_are_stored_in_four_bits_with_their_axis():
    made = made_of("gemm", "w4a8")
    stored = made.quantized.graph.initializers["w_q"].const_value
    assert stored.dtype == ir.DataType.INT4
    assert stored.nbytes == 15  # 30 codes
    node = next(n for n in made.quantized.graph if n.op_type == "DequantizeLinear" and n.inputs[0].name == "w_q")
    assert node.attributes["axis"].value == 1
    assert initializer(node.inputs[1]).shape == (5,)
    assert np.abs(stored.numpy().astype(np.int8)).max() <= 7


def test_six_bit_weights_live_in_int8():
    stored = made_of("gemm", "w6a8").quantized.graph.initializers["w_q"].const_value
    assert stored.dtype == ir.DataType.INT8
    assert np.abs(stored.numpy()).max() <= 31


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("precision", ["w4a4", "w8a5", "w6a6"])
def test_activations_narrower_than_their_container_end_where_their_grid_ends(precision, policy):
    made = made_of("gemm", precision)
    wide = {name: 3 * value for name, value in made.feeds.items()}
    x, w, b = rounded(made, "x", wide["x"]), rounded(made, "w"), rounded(made, "b")
    sums = np.maximum(x.astype(np.float64) @ w + b, 0)
    encoding = made.encoding("y")
    top = float((encoding.spec.qmax - encoding.zero_point) * encoding.scale)
    assert sums.max() > 1.1 * top
    found = session(made.quantized, policy)(wide)["y"]
    assert found.max() == np.float32(top)
    assert (np.abs(found - rounded(made, "y", sums)) / encoding.scale).max() < 1.01
    assert (ops(made)["Clip"], ops(made_of("gemm", "w4a8"))["Clip"]) == (2, 0)


def test_tied_weight_is_stored_once_and_its_float_is_gone():
    graph = made_of("tied_linear").quantized.graph
    assert [name for name in graph.initializers if name.startswith("w")] == ["w_q", "w_scale", "w_zero_point"]
    assert len([n for n in graph if n.op_type == "DequantizeLinear" and n.inputs[0].name == "w_q"]) == 1


def test_names_of_inputs_outputs_and_shapes_are_kept():
    made = made_of("output_with_readers")
    graph = made.quantized.graph
    assert [v.name for v in graph.inputs] == ["x"]
    assert [v.name for v in graph.outputs] == ["h", "y"]
    assert all(v.producer().op_type == "DequantizeLinear" for v in graph.outputs)
    relu = next(n for n in graph if n.op_type == "Relu")
    assert relu.inputs[0] is graph.outputs[0]


def test_inputs_and_constants_handed_out_directly_stay_float():
    made = made_of("input_is_output")
    result, reference = made.run(), made.float_run()
    np.testing.assert_array_equal(result["x"], reference["x"])
    np.testing.assert_array_equal(result["b"], reference["b"])


def test_outputs_that_nothing_reads_get_no_pair():
    graph = made_of("split_unused").quantized.graph
    read = {v for node in graph for v in node.inputs} | set(graph.outputs)
    assert all(any(v in read for v in node.outputs) for node in graph)


BETWEEN = {
    "conv": ("c = Conv (r, w, b)", {"w": normal(4, 4, 3, 3), "b": normal(4)}),
    "conv_transpose": ("c = ConvTranspose (r, w)", {"w": normal(4, 4, 3, 3)}),
    "gemm": ("f = Flatten (r) c = Gemm <transB = 1> (f, w, b)", {"w": normal(5, 144), "b": normal(5)}),
    "matmul": ("c = MatMul (r, w)", {"w": normal(6, 6)}),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", BETWEEN)
def test_float_layer_between_integers_stays_float(kind, policy):
    """ORT's WeightBiasQuantization turns a bare float Conv between DQ and Q into an int8 one, unasked."""
    body, arrays = BETWEEN[kind]
    x = {"x": normal(8, 4, 6, 6)}
    graph = model(f"g (float[N, 4, 6, 6] x) => (float y) {{ r = Sigmoid (x) {body} y = Tanh (c) }}", **arrays)
    made = quantized(graph, x, "w8a8", {"c": "fp32"})
    assert made.plan.nodes["y"].precision.activation_bits == 8
    tail = model(f"g (float[N, 4, 6, 6] r) => (float c) {{ {body} }}", **arrays)
    sigmoid = fake_quantize(1 / (1 + np.exp(-rounded(made, "x", x["x"]))), made.encoding("r"))
    wanted = rounded(made, "y", np.tanh(rounded(made, "c", session(tail)({"r": sigmoid})["c"])))
    # float weights leave a rare flip of one step, int8 weights many
    steps = np.abs(made.run(policy)["y"] - wanted) / made.encoding("y").scale
    assert (steps < 0.5).mean() > 0.98


@pytest.mark.parametrize("name", ["attention", "residual", "conv_prelu", "group_norm", "resize_linear", "pow_div"])
def test_whole_network_in_fp16_has_casts_at_its_ends_only(name):
    made = made_of(name, "fp16")
    graph = made.quantized.graph
    assert ops(made)["Cast"] == len(graph.inputs) + len(graph.outputs)
    floats = {n: v for n, v in graph.initializers.items() if v.dtype == ir.DataType.FLOAT}
    assert set(floats) <= {"scales"}  # Resize reads its scales in float32
    assert not any(n.op_type == "Cast" and n.inputs[0].is_initializer() for n in graph)


def test_fp16_island_casts_where_the_precision_changes():
    made = made_of("residual", nodes={"c": "fp16"})
    conv = made.quantized.graph.node("c")
    assert {v.dtype for v in conv.inputs} == {ir.DataType.FLOAT16}
    assert conv.inputs[0].producer().op_type == "Cast"
    assert conv.inputs[1].const_value.dtype == ir.DataType.FLOAT16
    assert ops(made)["Cast"] == 2


def test_fp16_constants_saturate():
    graph = made_of("attention_mask", "fp16").quantized.graph
    assert graph.initializers["low_fp16"].const_value.numpy() == np.float16(-65504)


def test_names_that_are_taken_are_not_used_twice():
    graph = model(
        "g (float[N, 4] x) => (float x_fp16, float x_q) { x_fp16 = Relu (x) s = Sigmoid (x) x_q = Gemm (s, w) }",
        w=normal(4, 4),
    )  # fmt: skip
    for precision in ("fp16", "w8a8"):
        made = quantized(graph, {"x": normal(8, 4)}, precision)
        onnx.checker.check_model(made.proto(), full_check=True)
        assert list(made.run()) == ["x_fp16", "x_q"]


def test_boundary_of_widths_is_a_pair_of_each():
    made = made_of("conv_read_twice", nodes={"r": "w8a16", "y": "w8a16"})
    convert = made.quantized.graph.node("y").inputs[1].producer()
    quantize = convert.inputs[0].producer()
    assert (quantize.op_type, quantize.inputs[2].dtype) == ("QuantizeLinear", ir.DataType.UINT16)
    before = quantize.inputs[0].producer()
    assert (before.op_type, before.inputs[0].dtype) == ("DequantizeLinear", ir.DataType.UINT8)


OLD = "g (float[N, 6] x) => (float y) { h = Gemm (x, w, b) y = Relu (h) }"


def old(opset: int) -> ir.Model:
    return model(OLD, opset=opset, w=normal(6, 5), b=normal(5))


def test_8_bits_need_opset_13_only():
    made = quantized(old(13), {"x": normal(8, 6)})
    assert {n.domain for n in made.quantized.graph} == {""}
    onnx.checker.check_model(made.proto(), full_check=True)
    made.run()


@pytest.mark.parametrize(
    ("opset", "precision"), [(13, "w8a16"), (17, "w16a16"), (11, "w8a8"), (28, "w8a8"), (28, "w4a16")]
)
def test_opsets_without_kernels_use_the_operators_of_com_microsoft(opset, precision):
    made = quantized(old(opset), {"x": normal(8, 6)}, precision)
    assert "com.microsoft" not in made.float_model.graph.opset_imports
    domains = {n.domain for n in made.quantized.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert domains == {"com.microsoft"}
    for policy in FAITHFUL:
        np.testing.assert_allclose(
            made.run(policy)["y"], made.float_run()["y"], atol=0.6 if "w4" in precision else 0.15
        )


def test_4_bits_below_opset_21_are_refused_in_one_sentence():
    with pytest.raises(SpecError, match=r"4-bit grids need ONNX opset 21, .* only be kept at opset 17"):
        quantized(old(17), {"x": normal(8, 6)}, "w4a8")


@pytest.mark.parametrize("name", ["no_nodes", "no_float"])
def test_networks_without_float_work_pass_through(name):
    made = made_of(name)
    assert not made.plan.grids
    assert not set(ops(made)) & {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("text", ["y = Conv (x, w)", "y = Conv (x, w, b)"])
def test_onnxruntime_runs_a_conv_whose_int8_weight_has_blocks(text):
    bias = {"b": normal(3)} if "b)" in text else {}
    graph = model(f"g (float[N, 6, 4, 4] x) => (float y) {{ {text} }}", w=normal(3, 6, 1, 1), **bias)
    made = quantized(graph, {"x": normal(8, 6, 4, 4)}, "w8a8g4", target="ort-cpu")
    exact, fast = (made.run(policy)["y"] for policy in (SessionPolicy.EXACT, SessionPolicy.DEFAULT))
    np.testing.assert_allclose(fast, exact, atol=1.01 * float(made.encoding("y").scale))


@pytest.mark.parametrize("precision", ["w8a8g4", "w4a8"])
def test_a_weight_that_is_an_output_of_open_shape_is_quantized_by_its_own_shape(precision):
    graph = model("g (float[N, 6, 4, 4] x) => (float y, float[a, b, c, d] w) { y = Conv (x, w) }", w=normal(1, 6, 1, 1))
    target = "ort-cpu" if precision == "w8a8g4" else "qnn-htp-v73"
    made = quantized(graph, {"x": normal(8, 6, 4, 4)}, precision, target=target)
    assert made.plan.grids["w"].spec.dtype is DType.INT8  # int4 with one scale is refused by Qualcomm's compiler
    np.testing.assert_allclose(made.run(SessionPolicy.EXACT)["y"], made.float_run()["y"], atol=0.6)
