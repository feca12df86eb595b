import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.analysis.sensitivity import PARTS
from fewbits.errors import SpecError
from fewbits.numerics.metrics import sqnr_db
from fewbits.numerics.output_error import RelativeOutputError
from fewbits.quantization.groups import find_groups, profile_of
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.partial import encoded_alike
from fewbits.quantization.resolve import resolve
from fewbits.runtime.store import Store
from fewbits.spec.precision import FP32, Precision
from fewbits.workflow import brute_force as module
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.scoring import check_metric, open_scoring
from fewbits.workflow.sessions import open_graph

PLAIN = {"ranges": "minmax", "weight_ranges": "absmax", "bias_correction": False}
GROUPS = ["conv1", "conv2", "add", "mul", "pool", "head"]


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


@pytest.fixture
def runs(monkeypatch):
    """Count the models that are run."""
    counted = []

    def counting(*arguments):
        counted.append(arguments)
        return open_graph(*arguments)

    monkeypatch.setattr(module, "open_graph", counting)
    return counted


def error_of(calibration, model, samples=64):
    runner, reference = open_graph(model, calibration.subject.options), calibration.subject.runner
    found = RelativeOutputError(reference.output_names)
    for batch in calibration.subject.data.batches(calibration.batch_size, samples):
        found.update(reference(batch.feeds), runner(batch.feeds))
    return found.value


@pytest.mark.parametrize("precision", ["w8a8", "w4a16", "fp16"])
def test_a_group_alone_is_what_its_profile_gives(calibration, precision):
    found = brute_force(calibration, [precision], **PLAIN)
    assert [group.name for group in found.groups] == GROUPS
    for group in found.groups:
        made = quantize_calibrated(calibration, profile_of({group: Precision.parse(precision)}), **PLAIN)
        assert found.error(group.name, precision) == error_of(calibration, made.model)
    assert (found.method, found.samples, found.probes, found.outputs) == ("brute-force", 24, 0, ("logits",))
    assert found.precisions == (precision,)


def test_a_group_in_float_takes_its_share_of_the_whole_error(calibration):
    found = brute_force(calibration, ["w8a8"], mode="alone-float", **PLAIN)
    whole = error_of(calibration, quantize_calibrated(calibration, "w8a8", **PLAIN).model)
    for group in found.groups:
        made = quantize_calibrated(calibration, profile_of({group: FP32}, Precision.parse("w8a8")), **PLAIN)
        assert found.error(group.name, "w8a8") == whole - error_of(calibration, made.model)


@pytest.mark.parametrize("mode", ["alone", "rest"])
def test_encodings_are_those_of_the_whole_network(calibration, mode):
    whole = quantize_calibrated(calibration, "w8a8")  # searched weights, corrected biases, ranges chosen by the output
    stored = whole.model.graph.initializers
    for group in find_groups(calibration.model.graph, calibration.target):
        w8a8 = Precision.parse("w8a8")
        profile = profile_of({group: w8a8}) if mode == "alone" else profile_of({group: FP32}, w8a8)
        plan = resolve(calibration.model, profile, calibration.target)
        model = insert_qdq(calibration.model, plan, encoded_alike(whole.plan, whole.encoded, plan))
        own = {
            name: v
            for name, v in model.graph.initializers.items()
            if v.const_value.dtype.name != "FLOAT" or "_scale" in name
        }
        assert own
        for name, value in own.items():
            np.testing.assert_array_equal(value.const_value.numpy(), stored[name].const_value.numpy(), err_msg=name)


def test_parts_quantize_what_they_say(calibration, runs):
    found = brute_force(calibration, ["w8a8"], parts=PARTS)
    models = [model for model, _ in runs]
    for group in GROUPS:
        everything, weights, activations = (found.figures[group, "w8a8", part].error for part in PARTS)
        has_weights = group in ("conv1", "conv2", "head")
        assert (weights > 0) is has_weights
        # the two noises are independent of each other: their product is chance on the 96 numbers of 24 samples
        assert weights + activations == pytest.approx(everything, rel=0.5)
    by_kind = [{n.op_type for n in model.graph} & {"QuantizeLinear", "DequantizeLinear"} for model in models]
    assert by_kind.count({"DequantizeLinear"}) == 3  # only weights: nothing is quantized at run time
    assert len(models) == 3 * 3 + 3  # "all" of a group without weights is its activations: one run for both
    assert by_kind.count({"QuantizeLinear", "DequantizeLinear"}) == 9


def test_fp16_has_no_parts(calibration):
    found = brute_force(calibration, ["fp16"], parts=PARTS)
    assert {part for _, _, part in found.figures} == {"all"}


def test_power_normalization_is_the_inverse_of_the_sqnr(calibration):
    found = brute_force(calibration, ["w8a8"], normalize="power", **PLAIN)
    group = found.groups[0]
    made = quantize_calibrated(calibration, profile_of({group: Precision.parse("w8a8")}), **PLAIN)
    runner = open_graph(made.model, calibration.subject.options)
    (batch,) = calibration.subject.data.batches(24)
    expected = sqnr_db(calibration.subject.runner(batch.feeds)["logits"], runner(batch.feeds)["logits"])
    assert found.figures[group.name, "w8a8", "all"].sqnr_db == pytest.approx(expected, abs=0.01)


def test_the_users_score_can_judge(calibration, tiny):
    scoring = open_scoring(
        calibration.subject, samples=24, eval_data=tiny.evaluation, metric=check_metric("top1", None)
    )
    before = scoring.score_float().value
    found = brute_force(calibration, ["w4a8"], score=scoring, **PLAIN)
    for group in found.groups:
        made = quantize_calibrated(calibration, profile_of({group: Precision.parse("w4a8")}), **PLAIN)
        score = scoring.score(open_graph(made.model, calibration.subject.options)).value
        assert found.error(group.name, "w4a8") == before - score
    assert (found.metric, found.outputs, found.samples) == ("top1", (), 40)


def test_what_is_in_the_store_is_not_run_again(calibration, runs, tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        first = brute_force(calibration, ["w8a8"], parts=PARTS, store=store)
    count = len(runs)
    with Store(tmp_path / "s.sqlite") as store:
        again = brute_force(calibration, ["w8a8"], parts=PARTS, store=store)
        assert len(runs) == count
        assert (again.figures, again.outputs) == (first.figures, first.outputs)
        brute_force(calibration, ["w8a8"], parts=PARTS, samples=8, store=store)
        assert len(runs) == 2 * count
        brute_force(calibration, ["w8a8"], parts=PARTS, normalize="power", store=store)
        assert len(runs) == 3 * count
        brute_force(calibration, ["w8a8"], parts=PARTS, store=store, **PLAIN)  # other encodings
        assert len(runs) > 3 * count


def test_another_model_or_other_data_are_run(calibration, runs, tmp_path, tiny):
    model = onnx.load(tiny.model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w3")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, ::-1].copy(), "w3"))
    with Store(tmp_path / "s.sqlite") as store:
        for other in (
            calibration,
            calibrate(tiny.model, data={"image": np.load(tiny.calib)["image"][::-1].copy()}),
            calibrate(model, data=tiny.calib),
        ):
            before = len(runs)
            brute_force(other, ["w8a8"], store=store, **PLAIN)
            assert len(runs) == before + len(GROUPS)


def test_a_run_that_was_stopped_goes_on_where_it_was(calibration, runs, monkeypatch, tmp_path):
    counting = module.open_graph

    def stopping(*arguments):
        if len(runs) == 3:
            raise KeyboardInterrupt
        return counting(*arguments)

    monkeypatch.setattr(module, "open_graph", stopping)
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(KeyboardInterrupt):
        brute_force(calibration, ["w8a8"], store=store)
    monkeypatch.setattr(module, "open_graph", counting)
    with Store(tmp_path / "s.sqlite") as store:
        resumed = brute_force(calibration, ["w8a8"], store=store)
    assert len(runs) == len(GROUPS)
    assert resumed.figures == brute_force(calibration, ["w8a8"]).figures


def test_the_users_own_function_is_asked_every_time(calibration, runs, tmp_path):
    def score(predict):
        return float(predict({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"].sum())

    scoring = open_scoring(calibration.subject, samples=24, metric=check_metric(score, True))
    with Store(tmp_path / "s.sqlite") as store:
        for _ in range(2):
            brute_force(calibration, ["w8a8"], score=scoring, store=store)
    assert len(runs) == 2 * len(GROUPS)


def test_samples_that_do_not_fit_in_memory_are_read_again(calibration, monkeypatch):
    expected = brute_force(calibration, ["w8a8"]).figures
    monkeypatch.setattr("fewbits.workflow.judge.MOST_KEPT_BYTES", 0)
    assert brute_force(calibration, ["w8a8"]).figures == expected


def two_outputs():
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[N, 4] x) => (float[N, 4] y, int64[N, 1] best, float[N, 4] z) {
        a = Gemm (x, w) y = Relu (a) best = ArgMax <axis = 1> (y) h = HardSigmoid (x) z = Gemm (h, w)
    }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def test_outputs_that_count_can_be_named(tmp_path):
    data = {"x": np.random.default_rng(2).standard_normal((16, 4)).astype(np.float32)}
    calibration = calibrate(two_outputs(), data=data)
    both, only_z = brute_force(calibration, ["w8a8"]), brute_force(calibration, ["w8a8"], outputs=["z"])
    assert both.outputs == ("y", "z")
    assert only_z.outputs == ("z",)
    nodes = {node.outputs[0].name: str(node.name) for node in calibration.model.graph}
    head = next(g.name for g in both.groups if nodes["y"] in g.nodes)
    assert only_z.error(head, "w8a8") == 0 < both.error(head, "w8a8")
    with pytest.raises(SpecError, match="The model has no output 'p': it has y, best, z"):
        brute_force(calibration, ["w8a8"], outputs=["p"])
    with pytest.raises(SpecError, match="No output to judge by: best hold no floats"):
        brute_force(calibration, ["w8a8"], outputs=["best"])


def test_whole_networks_can_be_given(calibration):
    made = [quantize_calibrated(calibration, p, **PLAIN) for p in ("w8a8", "w8a16")]
    assert brute_force(calibration, made).figures == brute_force(calibration, ["w8a8", "W8A16"], **PLAIN).figures


@pytest.mark.parametrize(
    ("precisions", "options", "message"),
    [
        ([], {}, "No precision was named"),
        (["w9a9"], {}, "Unknown precision 'w9a9'"),
        (["fp32"], {}, "fp32 is the float model itself"),
        (["w8a8"], {"mode": "alone"}, "Unknown mode 'alone'"),
        (["w8a8"], {"parts": ()}, "Unknown part ''"),
        (["w8a8"], {"parts": ("biases",)}, "Unknown part 'biases'"),
        (["w8a8"], {"mode": "alone-float", "parts": PARTS}, "alone-quantized only"),
    ],
)
def test_what_cannot_be_is_refused(calibration, precisions, options, message):
    with pytest.raises(SpecError, match=message):
        brute_force(calibration, precisions, **options)


def test_one_precision_at_a_time(calibration):
    made = quantize_calibrated(
        calibration,
        profile_of({find_groups(calibration.model.graph, calibration.target)[0]: FP32}, Precision.parse("w8a8")),
    )
    with pytest.raises(SpecError, match="one precision at a time, not in w8a8 \\+ 2 nodes"):
        brute_force(calibration, [made])


def test_progress_is_told_of_every_run(calibration):
    told = []

    class Watcher:
        def __call__(self, stage, samples):
            told.append([stage, samples, 0])
            return self

        def advance(self, samples):
            told[-1][2] += samples

    brute_force(calibration, ["w8a8", "fp16"], parts=PARTS, progress=Watcher())
    assert told == [["brute force w8a8", 18, 18], ["brute force fp16", 6, 6]]
