from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from model_zoo import ZOO
from qdq_models import model, normal, quantized, session, statistics

from fewbits.errors import SpecError
from fewbits.numerics.affine import encoding_from_range, fake_quantize
from fewbits.numerics.ranges import MinMax, Mse, Percentile
from fewbits.quantization.encode import Memo, Ranges, encode
from fewbits.quantization.observe import Statistics
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.target import load_target

PLAIN = Ranges(weights="absmax", correct_biases=False)


def values(graph: ir.Model, name: str) -> np.ndarray:
    return graph.graph.initializers[name].const_value.numpy()


def made_of(name: str, precision: str = "w8a8", **options):
    graph, feeds = ZOO[name]() if isinstance(name, str) else name
    return quantized(graph, feeds, precision, **options)


@pytest.mark.parametrize("name", ["conv_relu", "conv_transpose", "gemm", "gemm_trans", "gemm_row_bias", "depthwise"])
@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8"])
def test_bias_scale_is_the_product_of_scales_in_float32(name, precision):
    made = made_of(name, precision)
    source, weight = made.plan.grids["b"].scaled_by
    product = made.encoding(source).scale * made.encoding(weight).scale
    np.testing.assert_array_equal(made.encoding("b").scale, product)
    assert product.dtype == np.float32


def big_bias(bias) -> tuple:
    feeds = {"x": normal(16, 4, seed=3, scale=0.1)}
    return model("g (float[N, 4] x) => (float y) { y = Gemm (x, w, b) }", w=normal(4, 3), b=np.float32(bias)), feeds


def test_only_channels_whose_bias_overflows_are_widened_and_then_fit():
    made, narrow = (made_of(big_bias(b), "w16a16", ranges=PLAIN) for b in ([0.1, 900.0, -0.2], [0, 0, 0]))
    before, after = narrow.encoding("w").scale, made.encoding("w").scale
    assert (after > before).tolist() == [False, True, False]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert made.encoded.widened == {"w": 1}
    assert not narrow.encoded.widened
    codes = np.float32([0.1, 900.0, -0.2]).astype(np.float64) / made.encoding("b").scale
    assert np.abs(codes).max() < 2**31
    assert np.abs(codes[1]) > 0.99 * 2**31  # no wider than needed
    # weights of the wide channel round to 0.045, which four inputs of at most 0.3 turn into 0.03: two steps of y
    np.testing.assert_allclose(made.run()["y"], made.float_run()["y"], atol=3 * float(made.encoding("y").scale))


def test_weight_that_two_layers_share_is_widened_before_either_bias_is_scaled():
    text = "g (float[N, 4] x) => (float y, float z) { y = Gemm (x, w, b) s = Mul (x, k) z = Gemm (s, w, c) }"
    graph = model(text, w=normal(4, 3), b=np.float32([1, 2, 3]), c=np.float32([0, 700, 0]), k=np.float32(1e-3))
    made = quantized(graph, {"x": normal(16, 4)}, "w16a16")
    for bias, source in (("b", "x"), ("c", "s")):
        np.testing.assert_array_equal(made.encoding(bias).scale, made.encoding(source).scale * made.encoding("w").scale)
    assert made.encoded.widened == {"w": 1}
    assert not made.encoded.notes


def test_bias_of_a_pinned_weight_gets_a_scale_of_its_own_and_a_note():
    graph, feeds = big_bias([0.1, 900.0, -0.2])
    free = quantized(graph, feeds, "w16a16", ranges=PLAIN)
    narrow = replace(free.encoding("w"), scale=np.float32([1e-5, 1e-5, 1e-5]))
    made = quantized(graph, feeds, "w16a16", ranges=PLAIN, pinned={"w": narrow})
    np.testing.assert_array_equal(made.encoding("w").scale, narrow.scale)
    product = made.encoding("x").scale * narrow.scale
    assert (made.encoding("b").scale > product).tolist() == [False, True, False]
    assert "'b' does not fit int32" in made.encoded.notes[0]


def test_denormal_channel_does_not_stop_the_run():
    weight = normal(4, 3)
    weight[:, 1] *= np.float32(1e-39)
    graph = model("g (float[N, 4] x) => (float y) { y = Gemm (x, w, b) }", w=weight, b=np.zeros(3, np.float32))
    made = quantized(graph, {"x": normal(16, 4, scale=1e-2)}, "w8a8")
    assert (made.encoding("b").scale >= np.finfo(np.float32).tiny).all()


def linear(kind: str):
    if kind == "gemm":
        text, arrays = "g (float[N, 16] x) => (float y) { y = Gemm (x, w, b) }", {"w": normal(16, 8), "b": normal(8)}
        return model(text, **arrays), normal(8, 16, seed=5) + 2
    text = "g (float[N, 4, 5, 5] x) => (float y) { y = Conv (x, w, b) }"
    return model(text, w=normal(8, 4, 3, 3), b=normal(8)), normal(4, 4, 5, 5, seed=5) + 2


@pytest.mark.parametrize("kind", ["gemm", "conv"])
def test_bias_correction_keeps_channel_means(kind):
    graph, x = linear(kind)
    shifts = {}
    for correct in (True, False):
        made = quantized(graph, {"x": x}, "w3a16", ranges=Ranges(correct_biases=correct))
        rounded = graph.clone()
        arrays = {"w": fake_quantize(values(graph, "w"), made.encoding("w")), "b": made.encoded.biases["b"]}
        for name, array in arrays.items():
            rounded.graph.initializers[name].const_value = ir.Tensor(array, name=name)
        error = session(rounded)({"x": x})["y"] - made.float_run()["y"]
        shifts[correct] = np.abs(error.mean(axis=(0, *range(2, error.ndim)))).max()
        assert correct or np.array_equal(made.encoded.biases["b"], values(graph, "b"))
    # every window of these small images was sampled, so that only the noise of float32 sums remains
    assert shifts[True] < 1e-5
    assert shifts[False] > 0.05


@pytest.mark.parametrize("name", ["gemm_scaled", "gemm_full_bias", "conv_transpose"])
def test_biases_that_cannot_be_corrected_stay(name):
    made = made_of(name, "w4a8")
    np.testing.assert_array_equal(made.encoded.biases["b"], values(made.float_model, "b"))


def test_scalar_bias_is_spread_over_the_channels():
    made = made_of("gemm_scalar_bias", ranges=PLAIN)
    np.testing.assert_array_equal(made.encoded.biases["b"], np.full(5, 2, np.float32))


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16"])
def test_infinite_mask_removes_what_it_hides(precision):
    made = made_of("mask_is_computed", precision)
    probabilities = made.run()["y"]
    hidden = ~made.feeds["keep"]
    assert probabilities[hidden].max() <= np.exp(-8)  # the softmax input reaches 8 + log(n) below each row's top
    np.testing.assert_allclose(probabilities[~hidden], made.float_run()["y"][~hidden], atol=0.02)


def test_constant_of_infinity_is_far_below_the_scores():
    made = made_of("attention_mask")
    low, high = made.encoding("low").range
    assert low == pytest.approx(-65504)
    assert high == 0
    assert made.encoding("m").range[0] > -60  # the softmax input keeps its resolution


def test_pinned_encodings_are_used_as_they_are_where_they_fit():
    free = made_of("gemm", ranges=PLAIN)
    pin = encoding_from_range(-7.0, 9.0, free.plan.grids["x"].spec)
    made = made_of("gemm", ranges=PLAIN, pinned={"x": pin})
    assert made.encoding("x") is pin
    assert made.encoding("y").scale == free.encoding("y").scale
    wide = made_of("gemm", "w8a16", ranges=PLAIN, pinned={"x": pin})
    assert wide.encoding("x").scale != pin.scale


def test_pin_of_a_weight_that_does_not_fit_does_not_stop_bias_correction():
    free = made_of("gemm", "w8a8")
    made = made_of("gemm", "w3a8", pinned={"w": free.encoding("w")})
    assert not np.array_equal(made.encoded.biases["b"], normal(5))
    kept = made_of("gemm", "w8a8", pinned={"w": free.encoding("w")})
    np.testing.assert_array_equal(kept.encoded.biases["b"], normal(5))


def test_pin_behind_a_pass_through_holds_before_it_too():
    free = made_of("maxpool_flatten")
    pin = encoding_from_range(0.0, 3.0, free.plan.grids["y"].spec)
    made = made_of("maxpool_flatten", pinned={"y": pin})
    assert {float(made.encoding(k).scale) for k in ("r", "m", "y")} == {float(pin.scale)}


def test_pin_of_one_concat_input_does_not_bind_the_others():
    graph = model("g (float[N, 2] x, float[N, 2] z) => (float y) { r = Relu (z) y = Concat <axis = 1> (x, r) }")
    feeds = {"x": normal(8, 2, scale=5), "z": normal(8, 2)}
    free = quantized(graph, feeds)
    pin = encoding_from_range(0.0, 1.0, free.plan.grids["r"].spec)
    made = quantized(graph, feeds, pinned={"r": pin})
    assert made.encoding("r") is pin
    assert made.encoding("y").scale == free.encoding("y").scale


def test_fixed_range_ignores_calibration():
    made = made_of("sigmoid")
    assert made.encoding("y").range == (0.0, pytest.approx(1.0))
    assert made.encoding("y").zero_point == 0


def test_relu_grid_starts_at_its_zero_point():
    assert made_of("conv_relu").encoding("y").zero_point == 0


def test_16_bit_activations_keep_the_whole_range_under_mse():
    x = {"x": np.concatenate([normal(63, 6), np.full((1, 6), 40, np.float32)])}
    graph = ZOO["gemm"]()[0]
    wide = quantized(graph, x, "w8a16", ranges=Ranges(Mse())).encoding("x")
    assert wide.range[1] == pytest.approx(40, rel=1e-3)
    narrow = quantized(graph, x, "w8a8", ranges=Ranges(Percentile(90)))
    assert narrow.encoding("x").range[1] < 10
    kept = quantized(graph, x, "w8a8", ranges=Ranges(Percentile(90), by_tensor={"x": MinMax()}))
    assert kept.encoding("x").range[1] == pytest.approx(40, rel=1e-2)


def test_weight_methods_differ_and_the_memory_holds_what_was_searched():
    graph, feeds = ZOO["gemm"]()
    stats, plan = statistics(graph, feeds), resolve(graph, Profile.parse("w3a8"), load_target("qnn-htp-v73"))
    memory = Memo()
    first = encode(graph.graph, plan, stats, Ranges(), memo=memory)
    assert len(memory.weights) == 1
    again = encode(graph.graph, plan, stats, Ranges(), memo=memory)
    assert again.encodings["w"] is first.encodings["w"]
    absmax = encode(graph.graph, plan, stats, PLAIN, memo=memory).encodings["w"]
    np.testing.assert_allclose(absmax.scale, np.abs(normal(6, 5)).max(axis=0) / 3, rtol=1e-6)
    assert not np.array_equal(absmax.scale, first.encodings["w"].scale)
    assert len(memory.weights) == 2


def test_searched_weights_make_the_smaller_output_error():
    rng = np.random.default_rng(0)
    weight = rng.standard_t(3, (24, 8)).astype(np.float32)
    graph = model("g (float[N, 24] x) => (float y) { y = Gemm (x, w, b) }", w=weight, b=normal(8))
    feeds = {"x": rng.gamma(1, size=(400, 24)).astype(np.float32)}
    errors = []
    for method in ("mse", "absmax"):
        made = quantized(graph, feeds, "w3a16", ranges=Ranges(weights=method))
        delta = feeds["x"] @ (fake_quantize(weight, made.encoding("w")) - weight)
        errors.append(np.square(delta - delta.mean(axis=0)).mean())
    assert errors[0] < 0.8 * errors[1]


def test_tensor_that_was_not_observed_is_named():
    graph, _ = ZOO["gemm"]()
    plan = resolve(graph, Profile.parse("w8a8"), load_target("qnn-htp-v73"))
    with pytest.raises(SpecError, match="Tensor 'y' needs a range but was not observed: calibrate again"):
        encode(graph.graph, plan, Statistics({}, {}, {}, 1), Ranges())


def test_empty_tensor_gets_a_range_and_a_note():
    graph = model("g (float[N, K] x) => (float y) { y = Relu (x) }")
    made = quantized(graph, {"x": np.zeros((4, 0), np.float32)})
    assert made.encoding("x").range == (0.0, pytest.approx(1.0))
    assert "'y' was empty in every sample" in made.encoded.notes[0]
