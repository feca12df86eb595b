"""Numbers at the ends of float32: finite, as accurate as the width allows, or one clear sentence."""

import functools

import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits import Training
from fewbits.errors import DataError, FewbitsError
from fewbits.numerics.affine import SMALLEST_SCALE
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.plan import Role
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.improve import improve
from fewbits.workflow.improve_run import NothingToImproveError
from fewbits.workflow.qat import train
from fewbits.workflow.quantize import quantize
from fewbits.workflow.quantized import quantize_calibrated

ONE = RunOptions(threads=1)
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
GEMM = """m (float[N, 16] x) => (float[N, 8] y)
{ h = Gemm <transB = 1> (x, w1, b1)
  r = Relu (h)
  y = Gemm <transB = 1> (r, w2, b2) }"""
CONV = """m (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y)
{ h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  s = Sigmoid (h)
  t = Mul (s, h)
  y = Conv <pads = [1, 1, 1, 1]> (t, w2, b2) }"""
SHAPES = {
    GEMM: {"w1": (12, 16), "b1": (12,), "w2": (8, 12), "b2": (8,), "x": (32, 16)},
    CONV: {"w1": (5, 3, 3, 3), "b1": (5,), "w2": (4, 5, 3, 3), "b2": (4,), "x": (32, 3, 6, 6)},
}
KINDS = {"gemm": (GEMM, "qnn-htp-v73"), "conv": (CONV, "ort-cpu")}
PRECISIONS = {"gemm": ("w8a8", "w8a16", "w4a8", "w16a16", "fp16"), "conv": ("w8a8", "w16a16")}
MOST = np.finfo(np.float32).max
TINY = np.float32(1e-40)
SLACK_DB = 6.02
"""A network that is as well conditioned as the plain one may lose one bit to it in the same precision."""


def plain(a):
    pass


def zero_weight(a):
    a["w1"][...] = 0


def zero_channel(a):
    a["w1"][2] = 0


def zero_parameters(a):
    for name in ("w1", "b1", "w2", "b2"):
        a[name][...] = 0


def zero_data(a):
    a["x"][...] = 0


def constant_data(a):
    a["x"][...] = -3


def subnormal_weight(a):
    a["w1"] *= TINY


def subnormal_channel(a):
    a["w1"][2] *= TINY


def subnormal_bias(a):
    a["b1"] *= TINY


def subnormal_data(a):
    a["x"] *= TINY


def subnormal_weights_and_data(a):
    subnormal_data(a)
    for name in ("w1", "b1", "w2", "b2"):
        a[name] *= TINY


def tiny_data(a):
    a["x"] *= np.float32(1e-30)


def huge_data(a):
    a["x"] *= np.float32(1e30)


def largest_data(a):
    a["w1"] *= np.float32(1e-10)
    a["x"] = np.clip(a["x"], -1, 1) * MOST


def huge_weight(a):
    a["w1"] *= np.float32(1e30)


def huge_weight_and_tiny_data(a):
    a["w1"] *= np.float32(1e25)
    a["x"] *= np.float32(1e-25)


def largest_weights(a):
    a["w1"][3] = np.clip(a["w1"][3], -0.5, 0.5) * 2 * MOST
    a["x"] *= np.float32(1e-10)


def huge_bias(a):
    a["b1"][1] = 1e30


def huge_bias_and_tiny_data(a):
    a["b1"][1] = 1e30
    a["x"] *= np.float32(1e-30)


def bias_beyond_int32(a):
    a["w1"][2] *= np.float32(1e-6)
    a["b1"][2] = 100


def single_sample(a):
    a["x"] = a["x"][:1]


def negative_only(a):
    a["x"] = -np.abs(a["x"])


def equal_weights(a):
    a["w1"][...] = 0.25


CASES = (
    plain, zero_weight, zero_channel, zero_parameters, zero_data, constant_data, subnormal_weight, subnormal_channel,
    subnormal_bias, subnormal_data, tiny_data, huge_data, largest_data, huge_weight, huge_weight_and_tiny_data,
    largest_weights, huge_bias, huge_bias_and_tiny_data, bias_beyond_int32, single_sample, negative_only,
    equal_weights,
)  # fmt: skip


def made(text, change):
    """Return the network and the data after `change`."""
    rng = np.random.default_rng(1)
    size = {"w": 0.3, "b": 0.1, "x": 1.0}
    shapes = SHAPES[text].items()
    arrays = {name: (rng.standard_normal(shape) * size[name[0]]).astype(np.float32) for name, shape in shapes}
    change(arrays)
    data = arrays.pop("x").astype(np.float32)
    return network(text, arrays), data


def network(text, arrays):
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in arrays.items())
    return model


def answer(model, feeds):
    return open_session(model, policy=SessionPolicy.EXACT, options=ONE)(feeds)


def figure(calibration, x, precision, **ranges):
    """Return the SQNR in dB of the output, after looking at every grid and every number."""
    found = quantize_calibrated(calibration, precision, **ranges)
    for key, grid in found.plan.grids.items():
        assert (found.encodings[key].scale >= SMALLEST_SCALE).all(), key
        if grid.role is not Role.BIAS:
            assert all(np.isfinite(end).all() for end in found.encodings[key].range), key
    wanted, given = calibration.subject.runner({"x": x})["y"], answer(found.to_bytes(), {"x": x})["y"]
    assert np.isfinite(given).all()
    return sqnr_db(wanted, given)


@functools.cache
def usual(kind, precision):
    text, target = KINDS[kind]
    model, x = made(text, plain)
    return figure(calibrate(model, data={"x": x}, target=target, run_options=ONE), x, precision, ranges="minmax")


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_at_the_ends_cost_no_more_than_the_width_does(kind, change):
    text, target = KINDS[kind]
    model, x = made(text, change)
    calibration = calibrate(model, data={"x": x}, target=target, run_options=ONE)
    for precision in PRECISIONS[kind]:
        assert figure(calibration, x, precision, ranges="minmax") > usual(kind, precision) - SLACK_DB, precision
    figure(calibration, x, "w8a8", ranges="minmax", weight_ranges="absmax")
    for ranges in ("auto", "mse", "percentile:99.99") if kind == "gemm" else ("mse",):
        assert figure(calibration, x, "w8a8", ranges=ranges) > usual(kind, "w8a8") - SLACK_DB, ranges
    figure(calibration, x, "w8a8", ranges="entropy")  # it looks at no magnitudes: only finiteness is promised


def notes(change, precision="w8a8", text=GEMM, **options):
    model, x = made(text, change)
    result = quantize(model, precision=precision, data={"x": x}, ranges="minmax", run_options=ONE, **options)
    return result, " ".join(result.record.notes)


def test_a_bias_beyond_int32_widens_its_channel_and_says_so():
    result, _ = notes(bias_beyond_int32)
    assert list(result.record.widened.values()) == [1]
    for key, grid in result.plan.grids.items():
        if grid.role is Role.BIAS:
            codes = result.quantized.encoded.biases[key] / result.encodings[key].scale.astype(np.float64)
            assert np.abs(codes).max() < 2**31


def test_a_bias_that_no_weight_grid_makes_room_for_gets_a_scale_of_its_own_and_says_so():
    _, told = notes(huge_bias_and_tiny_data)
    assert "The bias 'b1' does not fit int32 at input scale x weight scale" in told


def test_inputs_too_large_to_square_are_told_of():
    _, told = notes(huge_data)
    assert "inputs above 1.1259e+15 were seen, too large to square" in told
    assert "too large" not in notes(plain)[1]


@pytest.mark.parametrize("precision", ["w8a8", "w16a16"])
def test_a_scale_that_would_be_subnormal_is_raised_and_told_of(precision):
    def change(a):
        a["x"] *= np.float32(1e-35)
        a["b1"][...] = a["b2"][...] = 0

    told = notes(change, precision)[1]
    assert ("'x'" in told and "so close to zero" in told) == (precision == "w16a16")
    assert "'x'" in notes(subnormal_data, precision)[1]


@pytest.mark.parametrize("mask", [-np.inf, -1e4, -1e9, -float(MOST)])
@pytest.mark.parametrize("precision", ["w8a8", "w16a16"])
def test_masks_of_any_size_leave_the_scores_their_steps(mask, precision):
    """A constant mask of one row; its code must not come out as an infinity where it was a number."""
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    text = "m (float[N, 16] x) => (float[N, 16] y) { s = Add (x, k) p = Softmax (s) y = Mul (p, x) }"
    model = network(text, {"k": np.where(np.arange(16) % 3 == 2, np.float32(mask), np.float32(0))[None]})
    result = quantize(model, precision=precision, data={"x": x}, ranges="minmax", run_options=ONE)
    wanted, given = (answer(data, {"x": x})["y"] for data in (model.SerializeToString(), result.quantized.to_bytes()))
    assert sqnr_db(wanted, given) > {"w8a8": 33, "w16a16": 80}[precision]


@pytest.mark.parametrize("op", ["Gemm <transB = 1> (x, w, b)", "Gemm <transB = 1> (x, w)", "MatMul (x, v)"])
def test_a_layer_whose_weight_has_no_elements_stays_float(op):
    text = "m (float[N, 0] x, float[N, 8] z) => (float[N, 8] y) { h = " + op + " y = Add (h, z) }"
    arrays = {"w": np.zeros((8, 0), np.float32), "v": np.zeros((0, 8), np.float32), "b": np.ones(8, np.float32)}
    read = {name: value for name, value in arrays.items() if name in op[op.index("(") :]}
    feeds = {"x": np.zeros((4, 0), np.float32), "z": np.eye(4, 8, dtype=np.float32)}
    result = quantize(network(text, read), data=feeds, ranges="minmax", run_options=ONE)
    assert [reason for reason in result.record.declined if "has no elements" in reason]
    given = answer(result.quantized.to_bytes(), feeds)["y"]
    np.testing.assert_allclose(given, feeds["z"] + ("b" in read), atol=0.01)


SQRT = "m (float[N, 16] x) => (float[N, 8] y) { e = Sqrt (x) y = Gemm <transB = 1> (e, w, b) }"
EXP = "m (float[N, 16] x) => (float[N, 8] y) { e = Exp (x) y = Gemm <transB = 1> (e, w, b) }"
LINEAR = "m (float[N, 16] x) => (float[N, 8] y) { y = Gemm <transB = 1> (x, w, b) }"


@pytest.mark.parametrize(
    ("text", "value", "sentence"),
    [
        (LINEAR, np.nan, r"Input 'x' of sample 5 \(the given arrays, row 5\) holds nan"),
        (LINEAR, np.inf, r"Input 'x' of sample 5 \(the given arrays, row 5\) holds inf"),
        (SQRT, -1.0, "Tensor 'e' of the float model becomes NaN or Inf within samples 0 to 15"),
        (EXP, 100.0, "Tensor 'e' of the float model becomes NaN or Inf within samples 0 to 15"),
    ],
    ids=["nan", "inf", "nan inside", "inf inside"],
)
def test_nan_and_infinity_in_calibration_are_traced_to_tensor_and_sample(text, value, sentence):
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((16, 16))).astype(np.float32)
    x[5, 3] = value
    model = network(text, {"w": rng.standard_normal((8, 16)).astype(np.float32), "b": np.ones(8, np.float32)})
    with pytest.raises(DataError, match=sentence):
        quantize(model, data={"x": x}, run_options=ONE)


@pytest.mark.parametrize("name", ["w", "b"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_parameters_are_named(name, value):
    arrays = {"w": np.ones((8, 16), np.float32), "b": np.ones(8, np.float32)}
    arrays[name].flat[3] = value
    with pytest.raises(FewbitsError, match=f"Initializer '{name}' .* holds (NaN|an infinity)"):
        quantize(network(LINEAR, arrays), data={"x": np.ones((4, 16), np.float32)}, run_options=ONE)


def test_no_sample_is_an_error_and_a_tensor_without_elements_is_not():
    arrays = {"w": np.eye(8, 16, dtype=np.float32), "b": np.ones(8, np.float32)}
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    with pytest.raises(DataError, match="holds no samples: give at least one"):
        quantize(network(LINEAR, arrays), data={"x": x[:0]}, run_options=ONE)
    text = "m (float[N, 0] z, float[N, 16] x) => (float[N, 8] y) "
    text += "{ c = Concat <axis = 1> (z, x) y = Gemm <transB = 1> (c, w, b) }"
    feeds = {"z": np.zeros((16, 0), np.float32), "x": x}
    result = quantize(network(text, arrays), data=feeds, run_options=ONE)
    given = answer(result.quantized.to_bytes(), feeds)["y"]
    assert sqnr_db(x @ arrays["w"].T + 1, given) > 38


@pytest.mark.parametrize("methods", ["gptq", "adaround"])
@pytest.mark.parametrize("change", [huge_data, subnormal_weights_and_data, largest_weights], ids=lambda c: c.__name__)
def test_a_layer_whose_numbers_cannot_be_squared_is_left_with_the_reason(methods, change):
    pytest.importorskip("torch")
    model, x = made(GEMM, change)
    with pytest.raises(NothingToImproveError, match=r"'Gemm_0': what it (reads|gives) is as large as .*too far from 1"):
        improve(model, precision="w4a8", methods=methods, data={"x": x}, ranges="minmax", run_options=ONE)


def test_training_on_outputs_that_never_vary_is_refused():
    pytest.importorskip("torch")
    model, x = made(GEMM, zero_parameters)
    with pytest.raises(DataError, match=r"outputs that never vary over the calibration data \(y\)"):
        train(model, precision="w4a4", data={"x": x}, ranges="minmax", training=Training(steps=2), run_options=ONE)
