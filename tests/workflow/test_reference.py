"""Models that were improved: scores, drops and errors stay those against the float model as it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from improved_cases import improve
from workers_cases import CALIB, EVAL, MODEL, PLAIN

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.quantization.groups import find_groups
from fewbits.reporting.record import read_record
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.amp import amp
from fewbits.workflow.baseline import baseline
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.evaluate import evaluate
from fewbits.workflow.export import export
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.litemp import litemp
from fewbits.workflow.quantize import quantize
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.scoring import check_metric, open_scoring
from fewbits.workflow.source import open_source
from fewbits.workflow.verify import verify
from fewbits.workflow.workers_scoring import score_files

SCORED = {"data": CALIB, "eval_data": EVAL, "eval_samples": 600, "samples": 32, "run_options": RunOptions(threads=1)}
TOP1 = {"data": EVAL, "samples": 600, "metric": "top1"}
SQNR = {"data": EVAL, "samples": 64, "metric": "sqnr"}


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    """The digits example in w4a8; its float companion has the rounded weights."""
    folder = tmp_path_factory.mktemp("improved")
    quantize(MODEL, precision="w4a8", output=folder / "before", **PLAIN, **SCORED)
    return improve(folder / "before", folder / "improved")


@pytest.fixture(scope="module")
def again(improved):
    """What `quantize` makes of it."""
    return quantize(improved, precision="w4a8", output=improved.parent / "again", **PLAIN, **SCORED)


@pytest.fixture(scope="module")
def float_score(improved):
    """Score of the float model; that of the companion is another."""
    found = evaluate(improved / names.REFERENCE, **TOP1).score.value
    assert found != evaluate(improved / names.FLOAT, **TOP1).score.value
    return found


@pytest.fixture(scope="module")
def calibration(improved):
    return calibrate(improved, data=CALIB, samples=32)


@pytest.fixture(scope="module")
def blind(calibration):
    """The same, where nothing tells that the companion is not the float model."""
    subject = calibration.subject
    source = replace(subject.source, reference=None)
    return replace(calibration, subject=replace(subject, source=source, reference=subject.runner))


def test_the_float_score_is_that_of_the_reference(improved, again, float_score):
    assert again.float_score.value == float_score
    whole = quantize(improved, precision="fp32", **SCORED)
    companion = evaluate(improved / names.FLOAT, **TOP1).score.value
    assert (whole.float_score.value, whole.score.value) == (float_score, companion)
    assert whole.drop.value == pytest.approx(float_score - companion)


def test_sqnr_compares_with_the_reference(improved):
    whole = quantize(improved, precision="fp32", metric="sqnr", **{**SCORED, "eval_samples": 64})
    wanted = evaluate(improved / names.FLOAT, reference=improved / names.REFERENCE, **SQNR).score.value
    assert 0 < wanted < 60
    assert whole.float_score.value == 200
    assert whole.score.value == pytest.approx(wanted, abs=1e-3)


def test_evaluate_compares_a_folder_with_its_reference(again):
    found = evaluate(again.output, **SQNR)
    against = {n: evaluate(again.output / names.ARTIFACT, reference=again.output / n, **SQNR).score.value
               for n in (names.FLOAT, names.REFERENCE)}  # fmt: skip
    assert found.reference == str(again.output / names.REFERENCE)
    assert found.score.value == against[names.REFERENCE] != against[names.FLOAT]


def test_the_reference_goes_on_to_the_next_folder(improved, again, float_score, tmp_path):
    contents = {n: model_key(load_model(improved / n)) for n in (names.FLOAT, names.REFERENCE)}
    third = quantize(again.output, precision="w8a8", output=tmp_path / "third", **PLAIN, **SCORED)
    for run in (again, third):
        assert {n: model_key(load_model(run.output / n)) for n in contents} == contents
        assert run.record.files[names.REFERENCE]["sha256"] == sha256(run.output / names.REFERENCE)
        assert run.record.model["improved"] is True
        assert run.record.model["reference"] == names.REFERENCE
        assert run.float_score.value == float_score
    assert again.record.notes == (
        f"Scores are compared with the float model that {str(improved)!r} was improved from.",
    )
    assert set(again.record.pinned) == set(read_record(improved / names.RECORD).pinned)


def test_a_model_that_nothing_improved_brings_no_reference(improved, tmp_path):
    shutil.copytree(improved, tmp_path / "old")
    result = quantize(improved.parent / "before", precision="w4a8", output=tmp_path / "old", **PLAIN, **SCORED)
    assert not (tmp_path / "old" / names.REFERENCE).exists()
    assert names.REFERENCE not in result.record.files
    assert "improved" not in result.record.model
    assert not any("improved" in note for note in result.record.notes)
    subject = result.calibration.subject
    assert subject.reference is subject.runner
    assert subject.reference_model is subject.model


def test_export_takes_the_reference_along(again, tmp_path):
    export(again.output, output=tmp_path / "out")
    assert sha256(tmp_path / "out" / names.REFERENCE) == sha256(again.output / names.REFERENCE)


def test_baseline_and_litemp_score_against_the_reference(improved, float_score, tmp_path):
    run = baseline(improved, precisions=("w4a8", "w8a8"), output=tmp_path / "baseline", **PLAIN, **SCORED)
    assert run.float_score.value == float_score
    assert len([note for note in run.record.notes if "was improved from" in note]) == 1
    assert (tmp_path / "baseline" / "w8a8" / names.REFERENCE).is_file()
    run = litemp(
        improved, base="w4a8", high="w8a16", percents=(50,), score_all=True, max_drop=0.1, output=tmp_path / "litemp",
        rank_samples=2, **PLAIN, **SCORED,
    )  # fmt: skip
    assert run.float_score.value == float_score
    assert (tmp_path / "litemp" / names.REFERENCE).is_file()


def test_amp_scores_against_the_reference_whoever_scores(improved, calibration, tmp_path):
    options = {**SCORED, **PLAIN, "eval_samples": 64, "metric": "sqnr", "candidates": ("w4a8", "w8a16"),
               "rank_samples": 4, "max_evaluations": 3, "at_once": 3, "min_sqnr": 12.0}  # fmt: skip
    found = [
        amp(improved, workers=workers, output=tmp_path / name, **options).record
        for name, workers in (("one", None), ("two", Workers(2)))
    ]
    points = [[(p.score, p.measured) for p in record.points if p.score is not None] for record in found]
    assert points[0] == points[1]
    assert len(points[0]) >= 2
    best = tmp_path / "one"
    shown = evaluate(best / names.ARTIFACT, reference=improved / names.REFERENCE, **SQNR).score.value
    chosen = found[0].point(found[0].chosen)
    assert chosen.score == pytest.approx(shown, abs=1e-3)
    judge = OutputJudge(calibration, 4, None, "channel", is_against_reference=True)
    assert chosen.measured == pytest.approx(judge.error(open_session(best / names.ARTIFACT)), rel=1e-3)
    assert (best / names.REFERENCE).is_file()


def test_amp_does_not_take_the_remembered_score_of_the_companion_for_that_of_the_reference(
    improved, float_score, tmp_path
):
    options = {**SCORED, **PLAIN, "candidates": ("w8a8", "w8a16"), "max_evaluations": 1, "max_drop": 50.0}
    without = tmp_path / "without"
    shutil.copytree(improved, without)
    (without / names.REFERENCE).unlink()
    record = json.loads((without / names.RECORD).read_text())
    del record["files"][names.REFERENCE]
    (without / names.RECORD).write_text(json.dumps(record))
    assert amp(without, output=tmp_path / "run", **options).float_score.value != float_score
    assert amp(improved, output=tmp_path / "run", **options).float_score.value == float_score


@pytest.mark.parametrize("metric", ["top1", "sqnr"])
def test_workers_score_alike(calibration, again, metric):
    scoring = open_scoring(
        calibration.subject, samples=64, eval_data=EVAL, eval_samples=64, metric=check_metric(metric, None)
    )
    files = [again.output / name for name in (names.ARTIFACT, names.FLOAT)]
    alone, two = (dict(score_files(scoring, calibration.subject, files, who)) for who in (None, Workers(2)))
    for index, found in alone.items():
        assert found.value == two[index].value
        np.testing.assert_array_equal(found.per_sample, two[index].per_sample)


def test_ranges_are_tried_against_the_reference(calibration, blind):
    seeing = dict(quantize_calibrated(calibration, "w8a8").trials)
    companion = dict(quantize_calibrated(blind, "w8a8").trials)
    assert seeing.keys() & companion.keys()
    assert all(seeing[name] > companion[name] for name in seeing.keys() & companion.keys())


@pytest.mark.parametrize("workers", [None, Workers(2)])
def test_sensitivity_is_what_a_group_adds_to_the_calibrated_model(calibration, blind, workers):
    names_ = [group.name for group in find_groups(calibration.model.graph, calibration.target)][:2]
    made = quantize_calibrated(calibration, "w8a8", **PLAIN)
    scoring = [open_scoring(c.subject, samples=16, metric=check_metric("sqnr", None)) for c in (calibration, blind)]
    for scores in ((None, None), scoring):
        one, other = (
            brute_force(c, [made], groups=names_, samples=8, score=score, workers=workers)
            for c, score in zip((calibration, blind), scores, strict=True)
        )
        assert one.figures == other.figures


def test_errors_of_outputs_are_told_against_either_model(calibration, blind):
    subject = calibration.subject
    usual = OutputJudge(calibration, 8, None, "channel")
    other = OutputJudge(calibration, 8, None, "channel", is_against_reference=True)
    assert usual.error(subject.runner) == other.error(subject.reference) == 0
    assert usual.error(subject.reference) > 0
    assert other.error(subject.runner) > 0
    same = OutputJudge(blind, 8, None, "channel", is_against_reference=True)
    assert usual.identity == same.identity != other.identity


def test_verify_tells_what_is_lost_against_the_reference(improved, tmp_path):
    quantize(improved, precision="fp32", output=tmp_path / "out", **SCORED)
    found = verify(tmp_path / "out")
    assert found.passed
    assert all(0 < output.float_db < 60 for output in found.certificate.outputs.values())
    (tmp_path / "out" / names.REFERENCE).write_bytes(b"")
    with pytest.raises(ModelError):
        verify(tmp_path / "out")


def test_open_dimensions_of_the_reference_are_fixed_too(tiny, tmp_path):
    quantize(tiny.model, data=tiny.calib, precision="w4a8", output=tmp_path / "a")
    improve(tmp_path / "a", tmp_path / "b")
    source = open_source(tmp_path / "b", dims={"N": 2})
    for graph in (source.model.graph, source.reference.graph):
        assert list(graph.inputs[0].shape) == [2, 3, 8, 8]
    (tmp_path / "b" / names.RECORD).unlink()
    assert open_source(tmp_path / "b").reference is not None


def rename(path: Path, what: str) -> None:
    model = onnx.load(path)
    old = getattr(model.graph, what)[0].name
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = ["other" if name == old else name for name in ends]
    getattr(model.graph, what)[0].name = "other"
    onnx.save(model, path)


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_reference_with_other_ends_is_refused_in_one_sentence(improved, tmp_path, what):
    shutil.copytree(improved, tmp_path / "out")
    rename(tmp_path / "out" / names.REFERENCE, what)
    with pytest.raises(
        ModelError, match=rf"The {what}s of model\.reference\.onnx in '.*' are other, and those of model"
    ):
        open_source(tmp_path / "out")


def test_a_reference_that_is_gone_is_missed(improved, tmp_path):
    shutil.copytree(improved, tmp_path / "out")
    (tmp_path / "out" / names.REFERENCE).unlink()
    with pytest.raises(
        ModelError, match=r"lacks model\.reference\.onnx, the float model that scores are taken against"
    ):
        open_source(tmp_path / "out")
