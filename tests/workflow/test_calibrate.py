import numpy as np
import pytest

from fewbits.errors import DataError, SpecError
from fewbits.numerics.affine import fake_quantize
from fewbits.quantization.select import MOST_TRIALS
from fewbits.runtime.session import Runner, RunOptions
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated


@pytest.fixture
def passes(monkeypatch):
    """Samples that any session ran, by call."""
    counted = []
    run = Runner.run

    def counting(self, names, feeds):
        counted.append(len(next(iter(feeds.values()))))
        return run(self, names, feeds)

    monkeypatch.setattr(Runner, "run", counting)
    return counted


def test_five_precisions_need_one_float_pass_per_sample(tiny, passes):
    calibration = calibrate(tiny.model, data=tiny.calib)
    for precision in ("w8a8", "w8a16", "w16a16", "w4a8", "fp16"):
        made = quantize_calibrated(calibration, precision, ranges="mse")
        assert made.counts[precision] >= 7
    assert sum(passes) == calibration.statistics.samples == 24


def test_choosing_ranges_takes_a_few_short_runs_beside_the_calibration(tiny, passes):
    calibration = calibrate(tiny.model, data=tiny.calib)
    passes.clear()
    made = quantize_calibrated(calibration, "w8a8")
    assert 0 < len(made.trials) <= MOST_TRIALS
    assert sum(passes) == 24 * (1 + len(made.trials))  # the float outputs once, then each trial; at most 32 samples
    assert all(0 < error < 1 for _, error in made.trials)
    fixed = dict(made.trials)["mse"]
    assert min(error for _, error in made.trials) <= fixed


def test_fp16_nodes_that_overflow_stay_in_float_with_the_figure(tiny):
    huge = {"image": np.load(tiny.calib)["image"] * 1e5}
    made = quantize_calibrated(calibrate(tiny.model, data=huge), "fp16")
    assert any("fp16 overflows" in reason for reason in made.declined)


def test_calibrate_reads_no_more_than_it_is_told(tiny, passes):
    assert calibrate(tiny.model, data=tiny.calib, samples=10).statistics.samples == 10
    assert sum(passes) == 10


def test_calibrate_keeps_a_batch_below_64_mb(tiny, tmp_path):
    calibration = calibrate(tiny.model, data=tiny.calib)
    assert calibration.batch_size == 32
    large = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    assert calibrate(tiny.model, data=large, batch_size=5).batch_size == 5


def test_batch_size_is_one_where_shapes_are_open():
    import onnx.parser

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N, T] x) => (float[N, T] y) { y = Relu(x) }'
    )
    assert calibrate(model, data={"x": np.ones((3, 5), np.float32)}).batch_size == 1


def test_large_tensors_get_small_batches():
    import onnx.parser

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 1000000] x) => (float[N, 1000000] y) { y = Relu(x) }'
    )
    size = calibrate(model, data={"x": np.ones((2, 1000000), np.float32)}).batch_size
    assert size == (64 << 20) // 8_000_000


def test_calibrate_refuses_what_cannot_be(tiny):
    with pytest.raises(SpecError, match="Unknown target 'qnn'"):
        calibrate(tiny.model, data=tiny.calib, target="qnn")
    with pytest.raises(SpecError, match="no provider 'tpu'"):
        calibrate(tiny.model, data=tiny.calib, run_options=RunOptions("tpu"))
    with pytest.raises(DataError, match="does not exist"):
        calibrate(tiny.model, data="nowhere.npz")


def test_pins_of_another_activation_width_are_derived_anew_and_named(tiny):
    calibration = calibrate(tiny.model, data=tiny.calib)
    pins = quantize_calibrated(calibration, "w8a8").encodings
    made = quantize_calibrated(calibration, "w8a16", pinned=dict(pins))
    assert "w1" in made.pinned
    assert "r" not in made.pinned
    assert any("pinned encodings fit no grid of this plan and were derived anew" in note for note in made.notes)


def test_weights_pinned_to_a_narrow_grid_keep_their_steps_in_a_wide_one(tiny):
    calibration = calibrate(tiny.model, data=tiny.calib)
    narrow = quantize_calibrated(calibration, "w4a8", weight_ranges="absmax").encodings
    made = quantize_calibrated(calibration, "w8a8", pinned={k: narrow[k] for k in ("w1", "w2", "w3")})
    assert set(made.pinned) == {"w1", "w2", "w3"}
    weight = calibration.model.graph.initializers["w1"].const_value.numpy()
    wide = made.encodings["w1"]
    assert wide.spec.bits == 8
    np.testing.assert_array_equal(fake_quantize(weight, wide), fake_quantize(weight, narrow["w1"]))
    (note,) = (note for note in made.notes if "pinned" in note)
    assert note.startswith("3 weights are pinned to 4-bit grids and keep their steps in 8 bits ('w1' is the first)")
    wider_activations = quantize_calibrated(calibration, "w4a16", pinned={"w1": narrow["w1"]})
    assert wider_activations.encodings["w1"].spec == narrow["w1"].spec
