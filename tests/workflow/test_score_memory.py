"""Scores that are remembered: what comes back, and what a score depends on."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.analysis.evaluate import Evaluation
from fewbits.artifact import names
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.workflow import score_memory
from fewbits.workflow.content_keys import model_key, scoring_key
from fewbits.workflow.score_memory import ScoreMemory, artifact_hash
from fewbits.workflow.scoring import check_metric, open_scoring
from fewbits.workflow.subject import open_subject

PARTS = np.array([1.0, 0.0, 1.0])
METRIC = "def quality(predict):\n    return 1.0\n\ndef other(predict):\n    return 2.0\n"


def score(value=66.7, parts=PARTS):
    return Evaluation(
        value=value, metric="top1", unit="%", samples=3, higher_is_better=True, seconds=0.5, per_sample=parts
    )


def opened(tiny, *, threads=1, metric="top1", evaluation=None, samples=24, eval_samples=None, higher=None):
    subject = open_subject(tiny.model, data=tiny.calib, run_options=RunOptions(threads=threads))
    scoring = open_scoring(
        subject, samples=samples, eval_data=tiny.evaluation if evaluation is None else evaluation,
        metric=check_metric(metric, higher), eval_samples=eval_samples,
    )  # fmt: skip
    return scoring, subject


def forbidden():
    pytest.fail("it was scored again")


@pytest.mark.parametrize("parts", [PARTS, None])
def test_a_score_comes_back_whole(tiny, tmp_path, parts):
    with Store(tmp_path / "s.sqlite") as store:
        memory = ScoreMemory.open(store, *opened(tiny))
        assert memory.get("content") is None
        given = memory.remember("content", lambda: score(parts=parts))
        assert memory.runs == 1
    with Store(tmp_path / "s.sqlite") as store:
        memory = ScoreMemory.open(store, *opened(tiny))
        found = memory.remember("content", forbidden)
        assert memory.runs == 0
    fields = ("value", "metric", "unit", "samples", "higher_is_better", "seconds")
    assert [getattr(found, name) for name in fields] == [getattr(given, name) for name in fields]
    if parts is None:
        assert found.per_sample is None
    else:
        assert found.per_sample.dtype == np.float64
        np.testing.assert_array_equal(found.per_sample, parts)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 0.1 + 0.2, -0.0])
def test_every_value_comes_back_to_the_bit(tiny, value):
    with Store() as store:
        memory = ScoreMemory.open(store, *opened(tiny))
        memory.put("content", score(value))
        assert repr(memory.get("content").value) == repr(value)


def test_other_contents_are_other_scores(tiny):
    with Store() as store:
        memory = ScoreMemory.open(store, *opened(tiny))
        memory.put("one", score(1.0))
        assert memory.get("other") is None
        assert memory.remember("other", lambda: score(2.0)).value == 2.0
        assert (memory.get("one").value, memory.runs) == (1.0, 2)


def other_labels(tiny, folder):
    arrays = dict(np.load(tiny.evaluation))
    arrays["labels"] = (arrays["labels"] + 1) % 4
    np.savez(folder / "other.npz", **arrays)
    return {"evaluation": folder / "other.npz"}


@pytest.mark.parametrize(
    "change",
    [
        lambda *_: {"metric": "top5"},
        lambda *_: {"metric": "sqnr"},
        lambda *_: {"eval_samples": 10},
        lambda *_: {"threads": 2},
        lambda tiny, _: {"evaluation": tiny.calib, "metric": "sqnr"},
        other_labels,
    ],
)
def test_scores_that_were_found_in_another_way_are_not_known(tiny, tmp_path, change):
    with Store() as store:
        ScoreMemory.open(store, *opened(tiny)).put("content", score())
        assert ScoreMemory.open(store, *opened(tiny)).get("content") is not None
        assert ScoreMemory.open(store, *opened(tiny, **change(tiny, tmp_path))).get("content") is None


@pytest.mark.parametrize("of", ["versions", "machine"])
def test_scores_of_another_machine_or_version_are_not_known(tiny, monkeypatch, of):
    with Store() as store:
        ScoreMemory.open(store, *opened(tiny)).put("content", score())
        monkeypatch.setattr(score_memory, of, lambda: {"onnxruntime": "99"})
        assert ScoreMemory.open(store, *opened(tiny)).get("content") is None


def test_a_metric_that_compares_with_float_depends_on_the_float_model(tiny, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(tiny.model)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b3")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), "b3"))
    onnx.save(model, tmp_path / "other.onnx")
    for metric, is_known in (("sqnr", False), ("top1", True)):
        scoring, subject = opened(tiny, metric=metric)
        other = open_subject(tmp_path / "other.onnx", data=tiny.calib, run_options=RunOptions(threads=1))
        assert model_key(subject.model) != model_key(other.model)
        with Store() as store:
            ScoreMemory.open(store, scoring, subject).put("content", score())
            assert (ScoreMemory.open(store, scoring, other).get("content") is not None) == is_known


def test_a_metric_that_compares_with_float_depends_on_what_the_float_model_was_improved_from(tiny):
    def changed(subject):
        original = subject.model.clone()
        original.graph.initializers["b3"].const_value = ir.tensor(np.ones(4, np.float32), name="b3")
        return replace(subject, source=replace(subject.source, reference=original))

    for metric, is_known in (("sqnr", False), ("top1", True)):
        scoring, subject = opened(tiny, metric=metric)
        with Store() as store:
            ScoreMemory.open(store, scoring, subject).put("content", score())
            assert (ScoreMemory.open(store, scoring, changed(subject)).get("content") is not None) == is_known


def test_a_function_in_a_file_counts_by_the_content_of_the_file(tiny, tmp_path):
    path = tmp_path / "m.py"
    path.write_text(METRIC)
    keys = [scoring_key(opened(tiny, metric=f"{path}:{name}")[0]) for name in ("quality", "quality", "other")]
    keys.append(scoring_key(opened(tiny, metric=f"{path}:quality", higher=False)[0]))
    path.write_text(METRIC.replace("1.0", "1.5"))
    keys.append(scoring_key(opened(tiny, metric=f"{path}:quality")[0]))
    assert None not in keys
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_function_that_was_given_as_an_object_is_never_remembered(tiny):
    scoring, subject = opened(tiny, metric=lambda predict: 1.0)
    assert scoring_key(scoring) is None
    with Store() as store:
        memory = ScoreMemory.open(store, scoring, subject)
        memory.remember("content", score)
        assert memory.get("content") is None
        memory.remember("content", score)
        assert memory.runs == 2


def test_an_artifact_counts_by_its_bytes_and_those_of_its_external_data(tmp_path):
    def written(folder, model, data=None, record="{}"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / names.ARTIFACT).write_bytes(model)
        (tmp_path / folder / names.RECORD).write_text(record)
        if data is not None:
            (tmp_path / folder / (names.ARTIFACT + names.DATA_SUFFIX)).write_bytes(data)
        return artifact_hash(tmp_path / folder)

    first = written("a", b"model")
    assert written("b", b"model", record="{1}") == first
    others = [written("c", b"mode1"), written("d", b"model", b"x"), written("e", b"model", b"y")]
    assert len({first, *others}) == 4


def test_an_artifact_that_is_known_is_not_scored(tiny, tmp_path):
    (tmp_path / names.ARTIFACT).write_bytes(b"model")
    with Store() as store:
        memory = ScoreMemory.open(store, *opened(tiny))
        memory.remember(artifact_hash(tmp_path), score)
        assert memory.remember(artifact_hash(tmp_path), forbidden).value == 66.7
        (tmp_path / names.ARTIFACT).write_bytes(b"another")
        assert memory.remember(artifact_hash(tmp_path), lambda: score(1.0)).value == 1.0
