import math

import numpy as np
import onnx_ir as ir
import pytest
from faulty_models import (
    IMAGES,
    LAYER_NORM,
    SEQUENCES,
    TOKENS,
    attention,
    conv_weights,
    convs,
    detector,
    normal,
    normalized,
    observed,
    proto,
)

from fewbits.analysis.channel_axes import channel_axes
from fewbits.analysis.tensors import MOST_BINS, TensorWatch, thinned
from fewbits.graph.save import to_bytes
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.metrics import sqnr_db
from fewbits.quantization.profile import Profile
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow import tensor_facts as verb
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sessions import open_graph, with_outputs
from fewbits.workflow.tensor_facts import tensor_facts


def facts_of(model, data, precision="w8a8", *, samples=64, **options):
    calibration = observed(model, data, **options)
    made = quantize_calibrated(calibration, precision, ranges="minmax")
    return tensor_facts(calibration, made, samples=samples), calibration, made


def float_values(calibration, names, data):
    return open_graph(with_outputs(calibration.model, names), calibration.subject.options).run(names, data)


def simulated(made, names, data):
    model = with_outputs(made.model, names)
    return open_session(to_bytes(model), policy=SessionPolicy.EXACT).run(names, data)


@pytest.fixture(scope="module")
def plain():
    return facts_of(convs(), IMAGES)


def test_every_tensor_on_a_grid_has_a_fact_in_the_order_of_the_graph(plain):
    facts, _, made = plain
    assert list(facts.tensors) == ["x", "r", "s", "p", "f", "y", "w1", "w2", "w3"]
    assert {f.name: f.role for f in facts.tensors.values()} == {
        **dict.fromkeys(("x", "r", "s", "p", "f", "y"), "activation"), **dict.fromkeys(("w1", "w2", "w3"), "weight"),
    }  # fmt: skip
    groups = {name: fact.group for name, fact in facts.tensors.items()}
    assert groups == {
        "x": "a", "r": "a", "s": "c", "p": "p", "f": "p", "y": "y", "w1": "a", "w2": "c", "w3": "y",
    }  # fmt: skip
    assert facts.samples == 16
    assert facts.get("a") is None  # inside the group of Conv and Relu
    for name in ("x", "r", "s", "p", "f", "y"):
        low, high = made.encodings[name].range
        fact = facts.tensors[name]
        assert (fact.clip_low, fact.clip_high, fact.bits) == (float(low), float(high), 8)
        assert (fact.scale, fact.zero_point) == (
            float(made.encodings[name].scale), int(made.encodings[name].zero_point),
        )  # fmt: skip


def test_the_error_of_an_activation_is_that_of_the_full_simulation(plain):
    facts, calibration, made = plain
    wanted = float_values(calibration, ("r", "s", "p"), IMAGES)
    given = simulated(made, ("r_dq", "s_dq", "p_dq"), IMAGES)
    for name in ("r", "s", "p"):
        assert facts.tensors[name].error_db == pytest.approx(sqnr_db(wanted[name], given[f"{name}_dq"]), abs=1e-3)
    outputs = calibration.subject.runner(IMAGES)["y"], simulated(made, ("y",), IMAGES)["y"]
    assert facts.tensors["y"].error_db == pytest.approx(sqnr_db(*outputs), abs=1e-3)
    assert facts.tensors["x"].error_db > facts.tensors["r"].error_db > facts.tensors["s"].error_db  # noise adds up


def test_channels_and_samples_are_those_of_the_float_model(plain):
    facts, calibration, _ = plain
    r = float_values(calibration, ("r",), IMAGES)["r"]
    fact = facts.tensors["r"]
    assert fact.channels == 8
    np.testing.assert_array_equal(fact.channel_low, r.min((0, 2, 3)))
    np.testing.assert_array_equal(fact.channel_high, r.max((0, 2, 3)))
    np.testing.assert_allclose(fact.channel_mean, np.abs(r).mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(fact.sample_absmax, np.abs(r).max((1, 2, 3)))
    assert (fact.low, fact.high) == (0, r.max())
    assert fact.channel_median == pytest.approx(np.median(r.max((0, 2, 3))))


def test_weights_have_ranges_by_output_channel_and_their_own_rounding_error(plain):
    facts, _, made = plain
    weight, fact = conv_weights()["w1"], facts.tensors["w1"]
    np.testing.assert_array_equal(fact.channel_low, weight.min((1, 2, 3)))
    assert (fact.low, fact.high) == (weight.min(), weight.max())
    assert fact.scale is None  # one for each channel
    assert fact.clip_high == pytest.approx(made.encodings["w1"].range[1].max())
    assert 35 < fact.error_db < 60
    assert facts.tensors["w3"].channels == 4  # transposed: [outputs, inputs]


def comparable(fact):
    return (fact.low, fact.high, fact.channels, fact.channel_low, fact.channel_high, fact.sample_absmax, fact.histogram)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_facts_do_not_depend_on_batches(plain, size):
    facts, _, _ = facts_of(convs(), IMAGES, batch_size=size)
    for name, fact in facts.tensors.items():
        assert comparable(fact)[:3] == comparable(plain[0].tensors[name])[:3]
        np.testing.assert_allclose(fact.channel_high, plain[0].tensors[name].channel_high, rtol=1e-5)
        np.testing.assert_allclose(fact.sample_absmax, plain[0].tensors[name].sample_absmax, rtol=1e-5)
        assert fact.error_db == pytest.approx(plain[0].tensors[name].error_db, abs=0.05)


def test_large_batches_are_looked_at_in_several_passes_with_the_same_facts(plain, monkeypatch):
    parts = []
    split = verb._Look._parts

    def counting(self, names):
        parts.extend(split(self, names))
        return parts

    monkeypatch.setattr(verb, "MOST_WATCHED_BYTES", 16 * 8 * 8 * 8 * 4)  # r of one batch
    monkeypatch.setattr(verb._Look, "_parts", counting)
    facts = tensor_facts(plain[1], plain[2])
    assert parts == [["x"], ["r"], ["s"], ["p", "f", "y"]]
    for name, fact in facts.tensors.items():
        assert comparable(fact) == comparable(plain[0].tensors[name])
        # other outputs, other fusions: float32 sums in another order
        assert fact.error_db == pytest.approx(plain[0].tensors[name].error_db, abs=0.01)


def test_no_batch_is_kept_and_progress_ends_at_the_number_of_samples(plain, monkeypatch):
    import gc
    import weakref

    seen, alive = [], []
    update = TensorWatch.update

    def watching(self, reference, test, size):
        update(self, reference, test, size)
        seen.append(weakref.ref(reference))

    class Told:
        total = 0

        def advance(self, samples):
            assert isinstance(samples, int)
            self.total += samples
            gc.collect()
            alive.append(sum(ref() is not None for ref in seen))

    monkeypatch.setattr(TensorWatch, "update", watching)
    calibration = observed(convs(), IMAGES, batch_size=4)
    told = Told()
    tensor_facts(calibration, quantize_calibrated(calibration, "w8a8", ranges="minmax"), progress=told)
    assert told.total == 16
    assert len(seen) == 4 * 6
    assert max(alive) <= 7  # those of the batch in hand, and the data set's own array


def test_fewer_samples_are_looked_at_where_asked():
    facts, _, _ = facts_of(convs(), IMAGES, samples=5)
    assert facts.samples == 5
    assert len(facts.tensors["r"].sample_absmax) == 5


def test_outlier_and_dead_channels_are_named():
    arrays = conv_weights()
    arrays["w1"][2] = arrays["b1"][2] = 0
    arrays["w1"][5] *= 100
    facts, _, _ = facts_of(
        proto("g (float[N, 3, 8, 8] x) => (float y) { y = Conv (x, w1, b1) }", w1=arrays["w1"], b1=arrays["b1"]), IMAGES
    )
    fact, weight = facts.tensors["y"], facts.tensors["w1"]
    assert fact.dead_channels == weight.dead_channels == (2,)
    ((channel, ratio),) = fact.outlier_channels
    assert channel == 5
    assert 50 < ratio < 200
    assert [c for c, _ in weight.outlier_channels] == [5]
    assert fact.channel_median > 0.5  # of the channels that live
    healthy, _, _ = facts_of(convs(), IMAGES)
    assert not any(f.outlier_channels or f.dead_channels for f in healthy.tensors.values())


def test_histograms_are_thinned_without_loss(plain):
    facts, calibration, _ = plain
    for fact in facts.tensors.values():
        first, width, counts = fact.histogram
        assert len(counts) <= MOST_BINS
        assert first <= fact.low
        assert fact.high < first + width * len(counts) + width
    histogram = calibration.statistics.histogram("r")
    assert sum(facts.tensors["r"].histogram[2]) == histogram.count


@pytest.mark.parametrize("scale", [1e-3, 1, 1e6])
def test_a_thinned_histogram_counts_the_same_elements(scale):
    histogram, values = Histogram(), normal(5000, scale=scale)
    histogram.update(values)
    first, width, counts = thinned(histogram)
    edges = first + width * np.arange(len(counts) + 1)
    np.testing.assert_array_equal(counts, np.histogram(values.astype(np.float64), edges)[0])
    assert MOST_BINS / 4 < len(counts) <= MOST_BINS


def test_clipping_is_a_share_of_the_squared_error():
    calibration = observed(convs(), IMAGES)
    shares = []
    for ranges in ("minmax", "percentile:99.9", "percentile:90"):
        facts = tensor_facts(calibration, quantize_calibrated(calibration, "w8a8", ranges=ranges))
        shares.append(facts.tensors["x"].clipping)
    assert shares[0] == 0
    assert 0 < shares[1] < shares[2] < 1
    assert shares[2] > 0.95


def test_what_lies_within_a_percentage_is_a_part_of_the_range(plain):
    fact = plain[0].tensors["x"]
    (most, *outer), (fewer, *inner) = fact.within
    assert (most, fewer) == (99.99, 99.9)
    assert outer[0] <= inner[0] < 0 < inner[1] <= outer[1]
    share = np.mean((IMAGES["x"] >= inner[0]) & (IMAGES["x"] <= inner[1]))
    assert share == pytest.approx(0.999, abs=1e-3)


def test_a_tensor_that_softmax_reads_is_compared_as_softmax_sees_it():
    text = "g (float[N, 6] x, bool[N, 6] keep) => (float y) { m = Where (keep, x, low) y = Softmax (m) }"
    data = {"x": normal(16, 6), "keep": np.tile(np.arange(6) < 4, (16, 1))}
    facts, _, _ = facts_of(proto(text, low=np.float32(-1e4)), data)
    fact = facts.tensors["m"]
    assert fact.low > -20
    assert min(fact.channel_low) > -20
    assert fact.error_db > 30


@pytest.mark.parametrize("mask", [-np.inf, -3e38])
def test_infinities_and_the_largest_numbers_give_no_nan(mask):
    facts, _, _ = facts_of(attention(mask), TOKENS)
    for fact in facts.tensors.values():
        assert fact.error_db is not None
        assert not math.isnan(fact.error_db)
        assert np.isfinite([fact.low, fact.high, *fact.channel_low, *fact.channel_high, *fact.channel_mean]).all()


def test_a_constant_has_a_fact_of_its_own():
    facts, _, _ = facts_of(attention(-100), TOKENS)
    fact = facts.tensors["low"]
    assert (fact.role, fact.low, fact.high, fact.group) == ("constant", -100, -100, "m")
    assert fact.error_db > 40
    assert fact.channels == 0


def test_in_fp16_tensors_have_errors_and_no_grids():
    facts, _, _ = facts_of(convs(), IMAGES, "fp16")
    for name in ("r", "s", "p", "y"):
        fact = facts.tensors[name]
        assert fact.bits is fact.scale is fact.clip_low is None
        assert 55 < fact.error_db < math.inf
        assert fact.channels
        assert fact.histogram is not None
    assert "w1" not in facts.tensors


def test_a_tensor_between_two_widths_is_seen_as_its_own_grid_has_it():
    calibration = observed(convs(), IMAGES)
    made = quantize_calibrated(calibration, Profile.parse("w8a8", {"c": "w8a16"}), ranges="minmax")
    facts = tensor_facts(calibration, made)
    assert facts.tensors["r"].bits == 8
    assert facts.tensors["s"].bits == 16
    wanted, given = float_values(calibration, ("s",), IMAGES)["s"], simulated(made, ("s_dq",), IMAGES)["s_dq"]
    assert facts.tensors["s"].error_db == pytest.approx(sqnr_db(wanted, given), abs=1e-3)


def test_samples_that_a_tensor_does_not_keep_apart_are_left_out():
    text = "g (float[N, 3, 5] x) => (float y) { t = Transpose <perm = [2, 1, 0]> (x) r = Relu (t) y = Sigmoid (r) }"
    facts, _, _ = facts_of(proto(text), {"x": normal(16, 3, 5)}, batch_size=4)
    assert facts.tensors["r"].sample_absmax == ()
    assert len(facts.tensors["x"].sample_absmax) == 16
    assert facts.tensors["r"].error_db > 30


def axes_of(model, data):
    return channel_axes(observed(model, data).model.graph)


def test_channels_lie_where_the_operators_have_them():
    axes = axes_of(normalized(LAYER_NORM), SEQUENCES)
    assert [axes[name] for name in ("x", "h", "n", "y")] == [2, 2, 2, 2]
    axes = axes_of(detector(1), IMAGES)
    assert [axes[name] for name in ("x", "r", "box", "score", "j", "y")] == [1, 1, 1, 1, 1, 1]
    text = """g (float[N, 8, 8, 3] x) => (float y) {
        t = Transpose <perm = [0, 3, 1, 2]> (x) c = Conv (t, w) u = Transpose <perm = [0, 2, 3, 1]> (c)
        y = Relu (u) }"""
    axes = axes_of(proto(text, w=normal(5, 3, 1, 1)), {"x": normal(4, 8, 8, 3)})
    assert [axes[name] for name in ("x", "t", "c", "u", "y")] == [3, 1, 1, 3, 3]


def test_a_shape_without_telling_operators_falls_back_on_the_shorter_axis():
    text = "g (float[N, 4, 50] x) => (float y) { y = Sigmoid (x) }"
    facts, calibration, _ = facts_of(proto(text), {"x": normal(8, 4, 50)})
    assert channel_axes(calibration.model.graph) == {}
    assert facts.tensors["y"].channels == 4


def test_more_channels_than_a_fact_lists_are_still_searched():
    weight = normal(4, 1100)
    weight[:, 1050] *= 100
    facts, _, _ = facts_of(proto("g (float[N, 4] x) => (float y) { y = MatMul (x, w) }", w=weight), {"x": normal(8, 4)})
    fact = facts.tensors["y"]
    assert fact.channels == 1100
    assert len(fact.channel_low) == len(fact.channel_mean) == 1024
    assert fact.outlier_channels[0][0] == 1050


def test_a_watch_takes_numbers_and_samples_of_changing_shape():
    watch = TensorWatch()
    watch.update(np.float32([1, -2]), np.float32([1, -2]), 2)
    assert watch.sample_absmax == (1, 2)
    assert watch.error_db == math.inf
    watch.update(np.float32([[1, 2, 3]]), np.float32([[1, 2, np.nan]]), 1)
    assert watch.channels is None
    assert watch.error_db == -math.inf
    watch.update(np.float32([1]), np.float32([1, 2]), 1)
    assert watch.error_db is None


def test_the_models_are_left_as_they_were(plain):
    _, calibration, made = plain
    names = [node.name for node in made.model.graph], [v.name for v in calibration.model.graph.outputs]
    tensor_facts(calibration, made)
    assert ([node.name for node in made.model.graph], [v.name for v in calibration.model.graph.outputs]) == names
    assert isinstance(calibration.model, ir.Model)
