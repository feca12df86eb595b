"""What one verb made ready serves the next: the same results, and nothing is read, scored or calibrated again."""

from dataclasses import replace

import pytest

from fewbits.artifact import names
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.workflow import ready as module
from fewbits.workflow.amp import amp
from fewbits.workflow.baseline import baseline
from fewbits.workflow.improve import improve
from fewbits.workflow.litemp import litemp
from fewbits.workflow.ready import Ready
from fewbits.workflow.score_memory import ScoreMemory

COMMON = {"metric": "sqnr", "min_sqnr": 51.5, "run_options": RunOptions(threads=1)}
BRUTE = {"ranking": "brute-force", "rank_samples": 8}


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ready") / "baseline"
    return baseline(tiny.model, data=tiny.calib, precisions=("w8a8", "w8a16"), output=folder, **COMMON)


@pytest.fixture
def made(first):
    return Ready(first.scoring, first.float_score, first.goal, first.calibration, ScoreMemory())


def calls(monkeypatch):
    """Count what opens data or calibrates."""
    found = []
    for name in ("open_subject", "open_scoring", "calibrate_subject"):
        monkeypatch.setattr(module, name, lambda *_, called=name, **__: found.append(called))
    return found


VERBS = {
    "baseline": (baseline, {"precisions": ("w8a8", "w4a8")}, "w4a8"),
    "litemp": (litemp, {**BRUTE, "percents": (50,)}, "p50"),
    "amp": (amp, {**BRUTE, "candidates": ("w8a8", "w8a16"), "max_evaluations": 3}, ""),
    "improve": (improve, {"methods": "gptq", "precision": "w4a8"}, ""),
}


@pytest.mark.parametrize("name", list(VERBS))
def test_a_verb_that_is_given_what_is_ready_makes_the_same_model(name, tiny, made, monkeypatch, tmp_path):
    verb, options, folder = VERBS[name]
    if name == "improve":
        pytest.importorskip("torch")
    alone = verb(tiny.model, data=tiny.calib, output=tmp_path / "alone", **COMMON, **options)
    opened = calls(monkeypatch)
    given = verb(tiny.model, data=tiny.calib, output=tmp_path / "given", ready=made, **COMMON, **options)
    assert not opened
    assert given.float_score.value == alone.float_score.value
    files = [tmp_path / side / folder / names.ARTIFACT for side in ("alone", "given")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "ready" not in given.record.options


def test_again_counts_scores_anew_and_keeps_what_is_remembered(made, tmp_path):
    made = replace(made, memory=ScoreMemory(Store(tmp_path / "store"), "how"))
    made.memory.runs = 3
    again = made.again()
    assert again.memory.runs == 0
    assert (again.memory.store, again.memory.how) == (made.memory.store, "how")
    assert again.calibration is made.calibration
    assert again.before is made.before
