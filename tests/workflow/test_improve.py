"""Step 4: better weights by named methods, one after the other."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from pasted import assert_parses
from workers_cases import CALIB, EVAL, MODEL

from fewbits.analysis.evaluate import Evaluation
from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.errors import FewbitsError, MissingExtraError, SpecError
from fewbits.graph.load import load_model
from fewbits.improvement.methods import Effort, parse_methods
from fewbits.reporting.read import read_any
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.precision import Precision
from fewbits.training.schedule import Training
from fewbits.workflow.baseline import baseline
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.export import export
from fewbits.workflow.improve import adaround, improve
from fewbits.workflow.improve_models import floating_model
from fewbits.workflow.improve_run import ImproveRun
from fewbits.workflow.improve_steps import (
    MethodRow,
    OutputError,
    check_order,
    decide,
    not_worse,
    steps_after,
    usual_effort,
)
from fewbits.workflow.qat import train
from fewbits.workflow.quantize import quantize
from fewbits.workflow.runs import runs
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.subject import open_subject
from fewbits.workflow.verdict import Status
from fewbits.workflow.verify import verify

pytest.importorskip("torch")

from fewbits.improvement.torch_improve import check_device

SCORED = {"data": CALIB, "eval_data": EVAL, "eval_samples": 600, "samples": 32, "run_options": RunOptions(threads=1)}


def test_a_named_method_that_makes_the_outputs_worse_is_dropped(tiny, small, monkeypatch):
    grown = iter([0.1, 0.2, 0.05])
    monkeypatch.setattr(ImproveRun, "_error", lambda *_: OutputError(next(grown), 10.0))
    found = improve(tiny.model, methods=["seq-mse", "gptq"], auto=False, **small)
    assert [(row.name, row.kept) for row in found.methods] == [("seq-mse", False), ("gptq", True)]
    assert found.methods[0].reason == "the output error on calibration data would grow from 0.1 to 0.2"


def test_a_method_that_makes_ready_for_training_is_kept_and_reads_float_activations(tiny, small, monkeypatch):
    grown = iter([0.1, 0.2, 0.3])
    monkeypatch.setattr(ImproveRun, "_error", lambda *_: OutputError(next(grown), 10.0))
    given = {"precision": "w4a4", "training": Training(steps=2), **small}
    found = train(tiny.model, methods=["gptq", "qat"], **given)
    assert [(row.name, row.kept) for row in found.methods] == [("gptq", True), ("qat", True)]
    monkeypatch.undo()
    alone = improve(tiny.model, precision="w4a4", methods="gptq", effort=Effort(with_activations=False), **small)
    assert found.methods[0].layers == alone.methods[0].layers


@pytest.mark.parametrize(("before", "after", "kept"), [(1.0, 1.005, True), (1.0, 1.02, False), (None, 2.0, True)])
def test_an_error_may_not_grow_by_more_than_a_percent(before, after, kept):
    assert not_worse(error_of(before), error_of(after))[0] is kept


@pytest.mark.parametrize(
    ("given", "precisions", "found"),
    [(None, ("w4a8",), False), (None, ("w4a6",), True), (None, ("w4a16", "fp16"), False),
     (None, ("w8a16", "w4a4"), True), (False, ("w4a4",), False), (True, ("w4a8",), True)],
)  # fmt: skip
def test_layers_read_rounded_activations_where_these_have_few_bits(given, precisions, found):
    effort = usual_effort(Effort(with_activations=given), [Precision.parse(text) for text in precisions])
    assert effort.with_activations is found


def test_at_four_bits_layers_are_improved_on_rounded_activations(tiny, small):
    given = {"precision": "w4a4", "methods": "gptq", "auto": False, **small}
    runs = [improve(tiny.model, effort=Effort(with_activations=how), **given) for how in (None, True, False)]
    usual, rounded, floating = ([row.layers for row in run.methods] for run in runs)
    assert usual == rounded != floating


MORE = {**SCORED, "samples": 128, "eval_samples": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The digits example in w4a8, improved by gptq."""
    return adaround(MODEL, methods="gptq", output=tmp_path_factory.mktemp("improve") / "out", **MORE)


@pytest.fixture
def small(tiny):
    """Options of quick runs on three layers."""
    return {"data": tiny.calib, "eval_data": tiny.evaluation, "run_options": RunOptions(threads=1)}


def test_gptq_brings_output_and_score_closer_to_float(run):
    nearest = quantize(MODEL, precision="w4a8", **MORE)
    assert run.before.value == nearest.score.value
    assert run.score.value > nearest.score.value
    (row,) = run.methods
    assert row.output.error < 0.8 * run.record.improvement["output_before"]["error"]
    assert row.output.sqnr_db > run.record.improvement["output_before"]["sqnr_db"] + 1
    assert (row.name, row.kept, row.score) == ("gptq", True, None)
    assert row.changed == len(row.layers) == 33
    assert row.objective[1] < row.objective[0]
    assert all(after <= before for _, before, after in row.layers)


def test_the_output_folder_is_one_like_any_other(run, tmp_path):
    for name, facts in run.record.files.items():
        assert facts["sha256"] == sha256(run.output / name)
    assert names.REFERENCE in run.record.files
    assert model_key(load_model(run.output / names.REFERENCE)) != model_key(load_model(run.output / names.FLOAT))
    assert verify(run.output).passed
    assert [(r.verb, r.state) for r in runs(run.output)] == [("adaround", "finished")]
    assert export(run.output, output=tmp_path / "handed").precision == "w4a8"
    assert (run.output / names.REPORT).is_file()
    assert (run.output / STORE).is_file()


def test_the_record_tells_what_improved_the_model(run):
    record = read_any(run.output / names.RECORD)
    found = record.improvement
    assert record.verb == "adaround"
    assert set(record.pinned) == set(run.quantized.pinned)
    assert len(record.pinned) == 33
    assert record.model["improved"] is True
    assert record.options["methods"] == ["gptq"]
    assert record.options["effort"]["granularity"] == "layer"
    assert (found["precision"], found["floating"], found["auto"]) == ("w4a8", "companion", False)
    assert (found["float"], found["before"], found["after"]) == (
        run.float_score.value, run.before.value, run.score.value,
    )  # fmt: skip
    assert record.scores["quantized"] == found["after"]
    assert found["evaluations"] == run.evaluations == 2
    assert [row["name"] for row in found["methods"]] == ["gptq"]
    assert found["methods"][0]["layers"][0] == list(run.methods[0].layers[0])
    assert "gptq" in record.timings


def test_a_baseline_of_the_improved_model_keeps_its_weights(run, tmp_path):
    again = baseline(run.output, precisions=["w4a8", "w8a8"], output=tmp_path / "again", **MORE)
    assert (tmp_path / "again" / "w4a8" / names.ARTIFACT).read_bytes() == (run.output / names.ARTIFACT).read_bytes()
    assert again.float_score.value == run.float_score.value
    assert set(read_any(tmp_path / "again" / "w8a8" / names.RECORD).pinned) == set(run.record.pinned)


def test_an_improved_folder_is_improved_from_its_float_model(run, tmp_path):
    subject = open_subject(run.output, data=CALIB)
    floating, which, notes = floating_model(subject)
    assert (which, notes) == ("reference", ())
    assert floating is subject.source.reference
    again = improve(run.output, methods="adaround", effort=Effort(iterations=20), output=tmp_path / "again", **MORE)
    assert again.before.value == run.score.value
    assert again.methods[0].output.error < 1.1 * run.methods[0].output.error
    assert again.record.improvement["floating"] == "reference"


def test_equalizing_an_improved_folder_drops_the_pins_of_weights_that_change(run):
    again = improve(run.output, methods="cle", **SCORED)
    assert again.methods[0].changed
    assert again.record.pinned == ()
    assert again.record.improvement["floating"] == "reference"
    model, reference = again.calibration.model, again.calibration.subject.reference_model
    feeds = {"image": np.load(CALIB)["image"][:8]}
    given, wanted = (open_graph(of, RunOptions(threads=1))(feeds) for of in (model, reference))
    for output, values in wanted.items():
        np.testing.assert_allclose(given[output], values, atol=1e-3 * np.abs(values).max())


def test_balanced_channels_are_kept_where_the_outputs_gain_by_them():
    """A grid that holds every value of a channel far larger than the others has few codes for these."""
    wide = {**SCORED, "methods": "balance,gptq", "precision": "w8a8", "ranges": "minmax", "auto": False}
    found, alone = improve(MODEL, **wide), improve(MODEL, **{**wide, "methods": "gptq"})
    balanced, rounded = found.methods
    assert (balanced.kept, rounded.kept) == (True, True)
    assert balanced.output.error < 0.8 * found.record.improvement["output_before"]["error"]
    assert rounded.output.error < 0.9 * alone.methods[0].output.error
    ((name, before, after),) = balanced.layers
    assert name == "all outputs"
    assert after < 0.95 * before
    assert any("takes its channels in the sizes that they have" in why for why in balanced.declined)


def test_balanced_channels_are_dropped_where_the_outputs_lose_by_them():
    found = improve(MODEL, methods="balance", precision="w8a8", auto=False, **SCORED)
    (row,) = found.methods
    assert row.changed
    assert not row.kept
    assert row.reason.startswith("the output error on calibration data would grow from ")
    assert found.score.value == found.before.value


def test_what_is_equalized_before_rounding_is_told(tmp_path):
    out = tmp_path / "out"
    first = adaround(MODEL, methods="cle,gptq", output=out, **SCORED)
    assert [(row.name, row.kept, row.changed > 0) for row in first.methods] == [
        ("cle", True, True), ("gptq", True, True),
    ]  # fmt: skip
    assert first.methods[1].output.error < first.methods[0].output.error
    assert first.record.improvement["output_after"]["error"] == first.methods[1].output.error
    assert any("cle: 4 Clips became Relu and Min" in note for note in first.record.notes)
    assert verify(out).passed


def test_a_reference_with_other_nodes_is_not_what_layers_are_compared_with(run):
    subject = open_subject(run.output, data=CALIB)
    renamed = subject.source.reference.clone()
    renamed.graph[0].name = "another"
    other = replace(subject, source=replace(subject.source, reference=renamed))
    floating, which, (note,) = floating_model(other)
    assert which == "companion"
    assert "does not hold the float model that its weights were rounded from" in note
    assert floating is subject.model


class Stop:
    """A watcher that interrupts one stage after some layers."""

    def __init__(self, stage, layers):
        self.stage, self.left, self.now = stage, layers, ""

    def __call__(self, stage, samples):
        self.now = stage
        return self

    def advance(self, samples):
        if self.now == self.stage:
            self.left -= samples
            if not self.left:
                raise KeyboardInterrupt


def files_of(folder):
    kept = (names.ARTIFACT, names.FLOAT, names.REFERENCE, names.ENCODINGS, names.SAMPLES)
    return {name: (folder / name).read_bytes() for name in kept}


@pytest.mark.parametrize("stop", [("gptq", 1), ("gptq", 2), ("adaround", 1), ("adaround", 3)])
def test_a_run_that_was_stopped_goes_on_at_its_layer(tiny, small, tmp_path, monkeypatch, stop):
    options = {**small, "methods": "seq-mse,gptq,adaround", "effort": Effort(iterations=20)}
    whole = adaround(tiny.model, output=tmp_path / "whole", **options)
    calls = count_layers(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        adaround(tiny.model, output=out, progress=Stop(*stop), **options)
    assert [path.name for path in out.iterdir() if not path.name.startswith(STORE)] == []
    first, calls[:] = list(calls), []
    assert [method for method, _ in first].count(stop[0]) == stop[1]
    again = adaround(tiny.model, output=out, **options)
    assert len(first) + len(calls) == 6
    assert not set(calls) & set(first)
    assert files_of(out) == files_of(tmp_path / "whole")
    assert again.evaluations == whole.evaluations
    assert [row.layers for row in again.methods] == [row.layers for row in whole.methods]


def count_layers(monkeypatch):
    """Return the list that (method, node) of every layer that gptq or adaround computes goes into."""
    from fewbits.improvement import torch_adaround, torch_improve

    calls, gptq, learn = [], torch_improve.CLOSED["gptq"], torch_adaround.learn_layer
    monkeypatch.setitem(
        torch_improve.CLOSED, "gptq", lambda case: calls.append(("gptq", case.layer.node)) or gptq(case)
    )
    monkeypatch.setattr(
        torch_adaround,
        "learn_layer",
        lambda layers, step, effort: calls.append(("adaround", step.name)) or learn(layers, step, effort),
    )
    return calls


def test_what_was_rounded_with_other_effort_is_not_taken(tiny, small, tmp_path, monkeypatch):
    calls = count_layers(monkeypatch)
    for effort, expected in ((Effort(), 3), (Effort(ceiling=10**6), 3), (Effort(seed=1), 6)):
        adaround(tiny.model, methods="gptq", effort=effort, output=tmp_path / "out", **small)
        assert len(calls) == expected


def test_auto_keeps_what_helps(tiny, small, tmp_path):
    found = improve(tiny.model, methods=["gptq", "cle", "seq-mse"], auto=True, output=tmp_path / "out", **small)
    assert [row.name for row in found.methods] == ["cle", "seq-mse", "gptq"]
    error = found.record.improvement["output_before"]["error"]
    for row in found.methods:
        assert row.reason
        if not row.changed:
            assert (row.kept, row.reason, row.output) == (False, "it changed nothing", None)
            continue
        assert row.score is not None
        assert row.kept == row.reason.startswith(("the output error falls", "the score gets better"))
        assert not row.kept or row.output.error < error or row.score > found.before.value
        error = row.output.error if row.kept else error
    assert found.record.improvement["output_after"]["error"] == error
    assert any(row.kept for row in found.methods)


def test_what_auto_drops_leaves_no_trace(tiny, small, tmp_path, monkeypatch):
    monkeypatch.setattr("fewbits.workflow.improve_run.decide", lambda before, after: (False, "no"))
    found = improve(tiny.model, methods=["seq-mse", "gptq"], auto=True, output=tmp_path / "out", **small)
    assert [(row.kept, row.reason, row.changed) for row in found.methods] == [(False, "no", 3)] * 2
    assert (found.score.value, found.record.pinned) == (found.before.value, ())
    quantize(tiny.model, precision="w4a8", output=tmp_path / "plain", **small)
    assert (tmp_path / "out" / names.ARTIFACT).read_bytes() == (tmp_path / "plain" / names.ARTIFACT).read_bytes()
    assert not (tmp_path / "out" / names.REFERENCE).exists()


def test_auto_does_not_learn_where_the_goal_is_met(tiny, small):
    found = improve(tiny.model, methods="gptq,adaround", auto=True, max_drop=100, **small)
    assert [row.reason for row in found.methods][1] == "the goal is met without it"
    assert found.output is None


def test_improve_without_methods_tries_all(tiny, small):
    found = improve(tiny.model, effort=Effort(iterations=20), metric="sqnr", min_sqnr=60, **small)
    tried = ["cle", "smooth", "balance", "bias-correction", "seq-mse", "gptq", "adaround"]
    assert [row.name for row in found.methods] == tried
    assert found.record.improvement["auto"] is True
    assert found.score.value > found.before.value
    assert found.status is Status.POOR


def test_adaround_learns_after_gptq(tiny, small):
    found = adaround(tiny.model, effort=Effort(iterations=50), metric="sqnr", score_each=True, **small)
    assert [row.name for row in found.methods] == ["gptq", "adaround"]
    assert all(row.kept and row.score is not None for row in found.methods)
    assert found.score.value == found.methods[1].score > found.before.value
    assert found.evaluations == len({found.before.value, *(row.score for row in found.methods)})


def test_the_same_file_is_not_scored_twice(tiny, small):
    calls = []

    def norm(predict):
        calls.append(1)
        return float(np.abs(predict({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]).sum())

    options = {**small, "eval_data": None, "metric": norm, "higher_is_better": True, "score_each": True}
    found = adaround(tiny.model, methods="gptq", **options)
    assert (len(calls), found.evaluations) == (3, 2)  # float, before and after


def score_of(value, hits=None):
    parts = None if hits is None else np.repeat([100.0, 0.0], [hits, 1000 - hits])
    return Evaluation(value, "top1", "%", True, 1000, 0.0, parts)


def error_of(value):
    return OutputError(value, None)


@pytest.mark.parametrize(
    ("before", "after", "kept", "why"),
    [
        ((0.10, 900), (0.08, 900), True, "the output error falls from 0.1 to 0.08"),
        ((0.10, 900), (0.0995, 900), False, "neither output error nor score improves (error 0.1 to 0.0995"),
        ((0.10, 900), (0.08, 850), False, "the score gets worse beyond noise, from 90.00 % to 85.00 %"),
        ((0.10, 900), (0.08, 899), True, "the output error falls"),
        ((0.10, 900), (0.12, 950), True, "the score gets better beyond noise, from 90.00 % to 95.00 %"),
        ((0.10, 900), (0.12, 901), False, "neither output error nor score improves"),
        ((None, 900), (None, 950), True, "the score gets better"),
        ((None, 900), (None, 900), False, "neither output error nor score improves"),
    ],
)
def test_a_method_is_kept_where_error_or_score_improves(before, after, kept, why):
    found = decide(*((error_of(error), score_of(hits / 10, hits)) for error, hits in (before, after)))
    assert found[0] is kept
    assert found[1].startswith(why)


@pytest.mark.parametrize(
    ("error", "value", "kept", "why"),
    [
        (0.08, 89.9, False, "the score gets worse, from 90.00 % to 89.90 % (its noise is not known"),
        (0.12, 90.1, True, "the score gets better, from 90.00 % to 90.10 % (its noise is not known"),
    ],
)
def test_a_score_without_values_per_sample_is_not_said_to_be_beyond_noise(error, value, kept, why):
    found = decide((error_of(0.10), score_of(90.0)), (error_of(error), score_of(value)))
    assert found[0] is kept
    assert found[1].startswith(why)


def rows_of(*methods):
    return [MethodRow(name, 1.0, 1, {}, None, (), error_of(0.1), None, kept=True, reason="") for name in methods]


@pytest.mark.parametrize(
    ("methods", "granularity", "wanted"),
    [
        (("cle",), "layer", "--method cle,gptq"),
        (("seq-mse",), "layer", "--method gptq"),
        (("cle", "gptq"), "layer", "--method cle,gptq,adaround"),
        (("gptq", "adaround"), "layer", "--method gptq,adaround --granularity block"),
        (("gptq", "adaround"), "block", None),
    ],
)
def test_the_next_step_is_the_next_stronger_method(tmp_path, methods, granularity, wanted):
    options = {
        "model": "m.onnx", "data": "d.npz", "precision": "w4a8", "effort": Effort(granularity=granularity),
        "clips": "exact", "output": tmp_path, "ranges": "auto", "weight_ranges": "auto", "dims": {"N": 1},
    }  # fmt: skip
    steps = steps_after("adaround", rows_of(*methods), Status.POOR, options, tmp_path)
    first = [] if wanted is None else [f" {wanted} "]
    assert all(text in f"{command} " for text, (_, command) in zip(first, steps, strict=False))
    assert [command.split()[1] for _, command in steps] == [
        *(["adaround"] if wanted else []), "verify", "baseline", "litemp", "amp",
    ]  # fmt: skip
    for _, command in steps:
        assert_parses(command)
    effort = Effort(iterations=7, device="cuda", granularity=granularity, with_activations=True)
    for _, command in steps_after("improve", rows_of(*methods), Status.POOR, {**options, "effort": effort}, None):
        assert_parses(command)
        assert "--iterations 7 --device cuda" in command
        assert command.endswith("--with-activations")
    done = steps_after("adaround", rows_of(*methods), Status.OK, options, tmp_path)
    assert [command.split()[1] for _, command in done] == ["verify", "baseline", "litemp", "amp"]
    assert not any("--dim" in command for _, command in done)


def test_next_steps_of_a_run_can_be_pasted(run):
    for _, command in run.next_steps:
        assert_parses(command)
    assert f"fewbits baseline {run.output} --data" in run.next_steps[-3][1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": "gptq,nonsense"}, "Unknown method 'nonsense': choose of cle, smooth"),
        ({"methods": []}, "No method was named"),
        ({"methods": None, "auto": False}, "No method was named: write --method gptq"),
        ({"methods": "gptq,cle"}, "cle changes float weights and would undo gptq"),
        ({"precision": "fp16"}, "There is nothing to round in fp16: name a precision such as w4a8"),
        ({"precision": "fp32"}, "There is nothing to round in fp32"),
        ({"precision": "w16a16", "methods": "gptq"}, "gptq has nothing to gain in w16a16"),
        ({"precision": "w5"}, "Unknown precision 'w5'"),
        ({"clips": "sharp"}, "--clips is one of exact, decline, replace, not 'sharp'"),
        ({"max_drop": "much"}, "The drop 'much' is no figure"),
        ({"ranges": "narrow"}, "auto"),
    ],
)
def test_bad_input_is_one_sentence(tiny, small, tmp_path, options, says):
    with pytest.raises(FewbitsError, match=says):
        improve(tiny.model, output=tmp_path / "out", **small, **options)
    assert not (tmp_path / "out" / names.ARTIFACT).exists()


def test_effort_is_checked():
    with pytest.raises(SpecError, match="The granularity is layer or block, not 'network'"):
        Effort(granularity="network")
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(SpecError, match="The share of activations to drop is at least 0 and below 1, not"):
            Effort(drop=share)


def test_nothing_to_improve_is_one_sentence(tmp_path, small):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] out)'
    model = onnx.parser.parse_model(text + "{ r = Relu (image) out = Add (r, r) }")
    options = {"data": {"image": np.ones((4, 3, 8, 8), np.float32)}, "metric": "sqnr"}
    with pytest.raises(SpecError, match="No layer of 'the given model' can be improved by gptq: choose other methods"):
        adaround(model, methods="gptq", output=tmp_path / "out", **options)


def test_nothing_to_smooth_says_why(tiny, small):
    reason = r"by smooth \(no normalization, and no Mul by a constant per channel, in the model\)"
    with pytest.raises(SpecError, match=reason):
        improve(tiny.model, methods="smooth", **small)


@pytest.mark.parametrize("there", ["nothing", "the folder", "a store"])
def test_nothing_to_improve_leaves_nothing(tmp_path, there):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] out)'
        "{ r = Relu (image) out = Add (r, r) }"
    )
    out = tmp_path / "deep" / "out"
    if there != "nothing":
        out.mkdir(parents=True)
        (out / "mine.txt").write_text("mine")
    if there == "a store":
        with Store(out / STORE) as store:
            store.put("key", 7)
    with pytest.raises(SpecError, match="No layer of 'the given model' can be improved by gptq"):
        adaround(
            model, methods="gptq", output=out, data={"image": np.ones((4, 3, 8, 8), np.float32)}, metric="sqnr",
        )  # fmt: skip
    left = sorted(path.name for path in out.iterdir()) if out.exists() else None
    assert left == {"nothing": None, "the folder": ["mine.txt"], "a store": ["mine.txt", STORE]}[there]
    assert (tmp_path / "deep").exists() == (there != "nothing")
    if there == "a store":
        with Store(out / STORE) as store:
            assert store.get("key") == 7


def test_a_device_is_checked_before_anything_runs(tiny, small, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    stages = []

    def told(stage, samples):
        stages.append(stage)

    options = {"methods": "gptq", "effort": Effort(device="cuda"), "output": tmp_path / "out", "progress": told}
    for verb in (adaround, improve):
        with pytest.raises(SpecError, match="There is no device 'cuda': torch finds no GPU on this machine"):
            verb(tiny.model, **small, **options)
    assert stages == []
    assert not (tmp_path / "out").exists()
    # methods that only equalize compute nothing in torch
    found = improve(MODEL, methods="cle", effort=Effort(device="cuda"), **SCORED)
    assert found.methods[0].changed


def test_a_gpu_must_be_one_of_those_that_are_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:1"):
        check_device(device)
    with pytest.raises(SpecError, match="There is no device 'cuda:2': torch finds 2 of them"):
        check_device("cuda:2")


def test_equalizing_needs_no_torch(tiny, small, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(MissingExtraError, match=r"gptq needs torch: pip install 'fewbits\[torch\]'"):
        adaround(tiny.model, methods="gptq", **small)
    with pytest.raises(MissingExtraError, match="needs torch"):
        improve(tiny.model, **small)
    with pytest.raises(MissingExtraError, match=r"balance needs torch: .* or choose of cle and smooth"):
        improve(tiny.model, methods="balance", **small)
    found = adaround(MODEL, methods="cle", precision="w8a8", clips="replace", **SCORED)
    assert found.methods[0].changed
    assert found.record.pinned == ()
    assert any(note.startswith("cle: 4 Clips became Relu, which changes") for note in found.record.notes)


NORMALIZED = """
<ir_version: 10, opset_import: ["" : 21]>
normalized (float[1, 16, 12] x) => (float[1, 16, 8] y)
{
  n = LayerNormalization <axis = -1> (x, gamma, beta)
  h = MatMul (n, w1)
  r = Relu (h)
  y = MatMul (r, w2)
}
"""


def test_smoothing_and_rounding_of_a_normalized_network(tmp_path):
    rng = np.random.default_rng(3)
    model = onnx.parser.parse_model(NORMALIZED)
    gamma = np.where(np.arange(12) == 4, 40.0, 1.0)
    arrays = {"gamma": gamma, "beta": np.zeros(12), "w1": rng.normal(size=(12, 16)), "w2": rng.normal(size=(16, 8))}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    data = {"x": rng.normal(size=(32, 1, 16, 12)).astype(np.float32)[:, 0]}
    found = improve(model, data=data, methods="smooth,gptq", precision="w8a8", metric="sqnr", output=tmp_path / "out")
    smoothed, rounded = found.methods
    assert smoothed.changed == 2
    assert smoothed.output.error < found.record.improvement["output_before"]["error"]
    assert rounded.changed == 2
    assert found.score.value > found.before.value
    assert verify(tmp_path / "out").passed


def test_weights_of_a_mixed_model_are_improved(tiny, small, tmp_path):
    found = adaround(
        tiny.model, precision="fp16", profile={"conv2": "w4a8"}, methods="gptq", output=tmp_path / "out", **small
    )
    assert [layer for layer, *_ in found.methods[0].layers] == ["conv2"]
    assert found.record.pinned == ("w2",)
    for _, command in found.next_steps:
        assert_parses(command)
    assert [command.split()[1] for _, command in found.next_steps][-2:] == ["verify", "baseline"]


def test_a_method_that_rounds_comes_last():
    check_order(parse_methods("cle,smooth,gptq,adaround"))
    with pytest.raises(SpecError, match="smooth changes float weights and would undo seq-mse"):
        check_order(parse_methods("cle,seq-mse,smooth"))


def test_an_old_run_is_replaced_and_a_bad_one_leaves_it(tiny, small, run, tmp_path):
    shutil.copytree(run.output, tmp_path / "out")
    before = sha256(tmp_path / "out" / names.ARTIFACT)
    with pytest.raises(SpecError):
        adaround(tiny.model, methods="nonsense", output=tmp_path / "out", **small)
    assert sha256(tmp_path / "out" / names.ARTIFACT) == before
