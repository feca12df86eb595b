import json

import numpy as np
import onnx
import pytest

from fewbits.artifact import names
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.folder import sha256
from fewbits.artifact.samples import read_samples
from fewbits.deployment.certificate import count_differing
from fewbits.deployment.fresh import Job, run_fresh
from fewbits.errors import FewbitsError, MetricError, ModelError, SpecError
from fewbits.graph.load import load_model
from fewbits.reporting.record import read_record
from fewbits.runtime.session import RunOptions, SessionPolicy
from fewbits.workflow import finish as ending
from fewbits.workflow import quantize as module
from fewbits.workflow.evaluate import evaluate
from fewbits.workflow.quantize import quantize
from fewbits.workflow.writing import open_artifact


def test_quantize_writes_every_file_and_says_so_in_the_record(quantized_folder):
    files = {path.name for path in quantized_folder.iterdir()}
    assert files == {names.ARTIFACT, names.FLOAT, names.ENCODINGS, names.SAMPLES, names.COMMANDS, names.RECORD}
    record = read_record(quantized_folder / names.RECORD)
    assert record.verb == "quantize"
    assert record.precision == {"w8a8": 8, "fp32": 1}
    assert record.declined == {"HTP has no integer Erf outside a Gelu": ["erf"]}
    assert record.data["calibration"]["samples"] == 24
    assert len(record.data["calibration"]["fingerprint"]) == 64
    assert {name: facts["sha256"] for name, facts in record.files.items()} == {
        name: sha256(quantized_folder / name) for name in files - {names.RECORD, names.COMMANDS}
    }
    assert record.scores["metric"] == "top1"
    assert record.scores["float"] == 100.0
    assert record.scores["drop"] == 100.0 - record.scores["quantized"]


def test_artifact_in_another_process_gives_the_scored_bytes(quantized_folder, tiny):
    """R1: what is scored is what is shipped."""
    stored = read_samples(quantized_folder / names.SAMPLES)
    artifact = Job(quantized_folder / names.ARTIFACT, SessionPolicy.DEFAULT)
    (fresh,) = run_fresh([artifact], stored.feeds, options=RunOptions())
    assert len(fresh) == 4
    for left, right in zip(stored.outputs, fresh, strict=True):
        assert count_differing(left["logits"], right["logits"]) == 0
    score = evaluate(quantized_folder, data=tiny.evaluation, batch_size=7).score.value
    assert score == read_record(quantized_folder / names.RECORD).scores["quantized"]


def test_score_comes_from_the_file_that_was_written(tiny, tmp_path, monkeypatch):
    opened = []

    def spying(folder, options):
        opened.append(sha256(folder / names.ARTIFACT))
        return open_artifact(folder, options)

    monkeypatch.setattr(ending, "open_artifact", spying)
    quantize(tiny.model, data=tiny.calib, output=tmp_path / "out")
    assert opened == [sha256(tmp_path / "out" / names.ARTIFACT)]


def test_float_companion_has_the_tensor_names_of_the_encodings(quantized_folder):
    graph = load_model(quantized_folder / names.FLOAT).graph
    tensors = {str(v.name) for node in graph for v in node.outputs} | set(graph.initializers)
    tensors |= {str(v.name) for v in graph.inputs}
    assert set(read_encodings(quantized_folder / names.ENCODINGS, graph)) <= tensors


def test_quantize_without_output_writes_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = quantize(tiny.model, data=tiny.calib, precision="w8a16")
    assert result.output is None
    assert not list(tmp_path.iterdir())
    assert onnx.load_from_string(result.quantized.to_bytes()).graph.output[0].name == "logits"
    assert result.record.scores["is_on_calibration_data"]


def test_fp32_is_the_prepared_model(tiny):
    result = quantize(tiny.model, data=tiny.calib, eval_data=tiny.evaluation, precision="fp32")
    assert result.drop.value == 0
    assert not result.encodings
    assert "QuantizeLinear" not in {node.op_type for node in result.quantized.model.graph}


def test_profile_gives_named_nodes_their_precision(tiny, tmp_path):
    (tmp_path / "p.toml").write_text('head = "fp16"\nconv2 = "w8a16"\n')
    (tmp_path / "p.json").write_text(json.dumps({"head": "fp16", "conv2": "w8a16"}))
    for profile in ({"head": "fp16", "conv2": "w8a16"}, tmp_path / "p.toml", str(tmp_path / "p.json")):
        result = quantize(tiny.model, data=tiny.calib, profile=profile)
        assert str(result.plan.nodes["head"].precision) == "fp16"
        assert str(result.plan.nodes["conv2"].precision) == "w8a16"
        assert result.record.profile == {"head": "fp16", "conv2": "w8a16"}


def test_folder_of_an_earlier_run_brings_its_model_and_pinned_encodings(quantized_folder, tiny, tmp_path):
    first = quantize(tiny.model, data=tiny.calib, ranges="minmax", weight_ranges="absmax", output=tmp_path / "a")
    assert not first.record.pinned
    second = quantize(
        tiny.model, data=tiny.evaluation, encodings=tmp_path / "a" / names.ENCODINGS, output=tmp_path / "b"
    )
    assert set(second.record.pinned) >= {"r", "w1", "image"}
    third = quantize(tmp_path / "b", data=tiny.calib, ranges="mse", output=tmp_path / "c")
    assert third.record.model["changes"] == []
    for name in ("r", "w1", "image"):
        np.testing.assert_array_equal(third.encodings[name].scale, first.encodings[name].scale)
    assert third.record.pinned == second.record.pinned
    other = quantize(quantized_folder, data=tiny.calib, precision="w4a16")
    assert other.plan.grids["w1"].spec.bits == 4


def test_quantize_refuses_before_it_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "calibrate_subject", None)
    for bad, match in (
        ({"precision": "w9a9"}, "Unknown precision 'w9a9'"),
        ({"ranges": "best"}, "Unknown range estimator 'best'.* or auto"),
        ({"weight_ranges": "best"}, "Unknown weight ranges 'best'"),
        ({"metric": "top2"}, "no metric 'top2'"),
        ({"profile": tmp_path / "none.json"}, "does not exist"),
        ({"profile": tmp_path / "p.yaml"}, r"neither \.json nor \.toml"),
        ({"profile": {"head": "w1a1"}}, "Unknown precision 'w1a1'"),
    ):
        with pytest.raises(SpecError, match=match):
            quantize(tiny.model, data=tiny.calib, **bad)


def test_quantize_names_what_is_wrong_before_it_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "calibrate_subject", None)
    with pytest.raises(MetricError, match=r"'top1' needs labels.*--eval-data"):
        quantize(tiny.model, data=tiny.calib, metric="top1")
    with pytest.raises(SpecError, match="names the node 'tail'"):
        quantize(tiny.model, data=tiny.calib, profile={"tail": "fp16"})
    with pytest.raises(ModelError, match=r"holds no model\.float\.onnx"):
        quantize(tmp_path, data=tiny.calib)
    foreign = {"version": "1.0.0", "activation_encodings": [], "param_encodings": []}
    (tmp_path / "e.json").write_text(json.dumps(foreign))
    with pytest.raises(SpecError, match="Nothing in the encodings file"):
        quantize(tiny.model, data=tiny.calib, encodings=tmp_path / "e.json")
    with pytest.raises(SpecError, match=r"cannot run Conv 'conv1' in w16a16"):
        quantize(tiny.model, data=tiny.calib, precision="w16a16", target="qnn-htp-v69")


@pytest.mark.parametrize("where", ["write_models", "open_artifact", "write_samples_of", "write_record"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, FewbitsError("no")])
def test_nothing_is_left_where_quantize_is_stopped(tiny, tmp_path, monkeypatch, where, error):
    original = getattr(ending, where)

    def stopping(*arguments):
        original(*arguments)
        raise error

    monkeypatch.setattr(ending, where, stopping)
    with pytest.raises((KeyboardInterrupt, FewbitsError)):
        quantize(tiny.model, data=tiny.calib, output=tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


def test_metric_direction_decides_the_sign_of_the_drop(tiny):
    def distance(predict):
        x = np.load(tiny.calib)["image"]
        return float(np.abs(predict({"image": x})["logits"]).mean())

    up = quantize(tiny.model, data=tiny.calib, metric=distance, higher_is_better=True)
    down = quantize(tiny.model, data=tiny.calib, metric=distance, higher_is_better=False)
    assert up.drop.value == -down.drop.value != 0
    assert up.record.scores["samples"] == 24


def test_progress_hears_of_every_stage(tiny):
    heard = []

    class Told:
        def __init__(self, stage):
            self.stage = stage

        def advance(self, samples):
            heard.append((self.stage, samples))

    stages = []

    def watcher(stage, samples):
        stages.append((stage, samples))
        return Told(stage)

    quantize(tiny.model, data=tiny.calib, eval_data=tiny.evaluation, progress=watcher, batch_size=12)
    assert stages == [
        ("prepare", None), ("calibrate", 400), ("quantize", None), ("score float", None),
        ("write quantized", None), ("score quantized", 40),
    ]  # fmt: skip
    assert sum(n for stage, n in heard if stage == "calibrate") == 24
    assert sum(n for stage, n in heard if stage == "score quantized") == 40
