"""The whole workflow as a command: what it prints, how it goes on, and what it refuses."""

import importlib
import importlib.util
import json
import shutil

import numpy as np
import pytest
from command_line import fewbits, ok, refused

from fewbits.artifact import names
from fewbits.workflow import auto_run, auto_steps, quantized
from fewbits.workflow import report as pages

INTERRUPTED = "error: interrupted; nothing is half-written, and what was finished is kept.\n"


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Leave out what takes long and is tested elsewhere: gradients, trials of ranges, preflight, pages, checks."""
    find, resolve = importlib.util.find_spec, quantized.resolve_ranges
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    monkeypatch.setattr(quantized, "resolve_ranges", lambda _, *weights, **of: resolve("minmax", *weights, **of))
    monkeypatch.setattr(importlib.import_module("fewbits.workflow.auto"), "preflight", lambda *of, **how: None)
    monkeypatch.setattr(pages, "render", lambda *sources: "<html>")
    monkeypatch.setattr(auto_run, "check_made", lambda *folder, **how: {"verify": "a fresh process agrees"})


def arguments(tiny, folder, *more):
    return ("auto", tiny.model, "--data", tiny.calib, "--metric", "sqnr", "-o", folder, "--threads", 1, *more)


@pytest.fixture
def run(tiny, tmp_path):
    """The folder of a run in which w8a8 is enough."""
    ok(*arguments(tiny, tmp_path / "run", "--min-sqnr", 30, "-q"))
    return tmp_path / "run"


def record_of(run):
    return json.loads((run / names.RECORD).read_text())


def evaluations_of(record):
    return sum(fork["evaluations"] for fork in record["forks"])


def test_the_command_prints_decisions_models_and_what_to_do_next(tiny, tmp_path):
    said = " ".join(ok(*arguments(tiny, tmp_path / "run", "--min-sqnr", 30, "--latency-by", "ort")).stdout.split())
    for words in (
        "tiny.onnx for qnn-htp-v73",
        "1. baseline: uniform precisions tell what the model is sensitive to",
        "2. stop: w8a8 (47.7 dB",
        "sqnr on 24 samples, scored on the calibration data; goal: SQNR of at least 30 dB",
        "latency",
        "Ship w8a8 (47.7 dB",
        "verify: a fresh process agrees",
        f"files of w8a8 in {tmp_path / 'run'}; report: {tmp_path / 'run' / 'report.html'}",
        f"fewbits compile {tmp_path / 'run'} --soc sm8550",
    ):
        assert words in said
    assert (tmp_path / "run" / names.REPORT).is_file()
    assert "met: w8a8," in ok("runs", tmp_path).stdout
    assert ok(*arguments(tiny, tmp_path / "run", "--min-sqnr", 30, "-q")).output == ""


def test_json_is_the_record(tiny, tmp_path):
    printed = json.loads(ok(*arguments(tiny, tmp_path / "run", "--min-sqnr", 30, "--json")).stdout)
    record = record_of(tmp_path / "run")
    assert printed["output"] == str(tmp_path / "run")
    for key in ("verb", "chosen", "forks", "contenders", "summary", "checks", "next_steps", "command"):
        assert printed[key] == record[key]


def test_a_run_goes_on_by_its_own_settings(run, tiny):
    first = record_of(run)
    ok("auto", "--resume", run, "-q")
    again = record_of(run)
    assert evaluations_of(again) == 0
    assert again["contenders"] == first["contenders"]
    assert again["command"] == first["command"]
    # flags override, and are kept
    said = ok("auto", "--resume", run, "--min-sqnr", 51.5, "--time", "1h").stdout
    assert "litemp-p40" in said
    assert record_of(run)["chosen"] == "litemp-p40"
    settings = (run / "fewbits.toml").read_text()
    assert "min-sqnr = 51.5" in settings
    assert 'time = "1h"' in settings
    ok("auto", "--resume", run, "-q")
    assert record_of(run)["chosen"] == "litemp-p40"
    assert evaluations_of(record_of(run)) == 0


def test_settings_of_the_current_folder_have_no_say_in_a_run_that_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fewbits.toml").write_text('[goal]\ngoal = "smallest"\n[data]\nsamples = 3\n[auto]\nqat = true\n')
    before = record_of(run)
    ok("auto", "--resume", run, "-q")
    assert record_of(run)["options"] == before["options"]
    assert evaluations_of(record_of(run)) == 0


def test_a_flag_replaces_the_settings_that_it_rules_out(tiny, tmp_path):
    """A metric of the user's own has a direction; another metric has its own."""
    (tmp_path / "metric.py").write_text("def loss(predict):\n    return 1.0\n")
    metric = f"{tmp_path / 'metric.py'}:loss"
    run = tmp_path / "run"
    ok(*arguments(tiny, run, "--metric", metric, "--lower-is-better", "--max-drop", 1, "-q"))
    ok("auto", "--resume", run, "--metric", "sqnr", "--min-sqnr", 30, "-q")
    assert record_of(run)["metric"]["name"] == "sqnr"
    assert record_of(run)["goal"]["floor"] == 30


def test_training_can_be_switched_off_again(tiny, tmp_path):
    run = tmp_path / "run"
    ok(*arguments(tiny, run, "--min-sqnr", 30, "--qat", "-q"))
    assert "qat = true" in (run / "fewbits.toml").read_text()
    assert record_of(run)["command"].endswith(" --qat")
    ok("auto", "--resume", run, "--no-qat", "-q")
    assert record_of(run)["options"]["qat"] is False
    assert "--qat" not in record_of(run)["command"]


def test_a_run_that_was_moved_goes_on_where_it_is(run, tmp_path):
    moved = tmp_path / "moved"
    run.rename(moved)
    ok("auto", "--resume", moved, "-q")
    assert not run.exists()
    assert evaluations_of(record_of(moved)) == 0
    assert "moved" in record_of(moved)["command"]


def test_what_cannot_go_on_is_refused(run, tiny, tmp_path):
    line = refused("auto", "--resume", tmp_path / "none")
    assert "There is no fewbits.toml in" in line
    assert "name the output folder of `fewbits auto`" in line
    assert "leave -o out" in refused("auto", "--resume", run, "-o", tmp_path / "other")
    model = tmp_path / "gone.onnx"
    shutil.copyfile(tiny.model, model)
    ok("auto", "--resume", run, model, "-q")
    model.unlink()
    before = record_of(run)
    assert "gone.onnx" in refused("auto", "--resume", run)
    assert record_of(run) == before
    (run / "fewbits.toml").write_text("[goal\n")
    assert "fewbits.toml" in refused("auto", "--resume", run)


def test_what_a_run_lacks_is_named(tiny, tmp_path):
    assert "The run lacks MODEL and --data and -o: name what is missing" in refused("auto")
    assert "The run lacks --data:" in refused("auto", tiny.model, "-o", tmp_path / "run")
    assert "The run lacks -o:" in refused("auto", tiny.model, "--data", tiny.calib)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_used_is_refused_and_leaves_nothing(tiny, tmp_path):
    folder = tmp_path / "run"
    assert "--goal is one of enough, fastest" in refused(*arguments(tiny, folder, "--goal", "best"))
    assert "sm1" in refused(*arguments(tiny, folder, "--soc", "sm1"))
    assert "The latency '2 m' is none" in refused(*arguments(tiny, folder, "--max-latency", "2 m"))
    assert "not 'me'" in refused(*arguments(tiny, folder, "--latency-by", "me"))
    assert "soon" in refused(*arguments(tiny, folder, "--time", "soon"))
    assert "none.npz" in refused(*arguments(tiny, folder, "--eval-data", tmp_path / "none.npz"))
    np.savez(tmp_path / "nan.npz", image=np.full((4, 3, 8, 8), np.nan, np.float32))
    assert "holds nan" in refused(*arguments(tiny, folder, "--data", tmp_path / "nan.npz"))
    assert not (folder / names.RECORD).exists()
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in refused(*arguments(tiny, tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_ctrl_c_ends_the_run_with_what_is_finished(tiny, tmp_path, monkeypatch):
    original = auto_steps.Steps.run

    def stopping(steps, step, **known):
        if step == "litemp":
            raise KeyboardInterrupt
        return original(steps, step, **known)

    with monkeypatch.context() as patch:
        patch.setattr(auto_steps.Steps, "run", stopping)
        result = fewbits(*arguments(tiny, tmp_path / "run", "--min-sqnr", 51.5))
    assert (result.exit_code, result.stderr) == (130, INTERRUPTED)
    assert record_of(tmp_path / "run")["chosen"] == "w8a16"
    assert not list(tmp_path.rglob(".fewbits.*"))
    ok("verify", tmp_path / "run")
    ok("auto", "--resume", tmp_path / "run", "-q")
    assert record_of(tmp_path / "run")["chosen"] == "litemp-p40"


def test_latencies_are_put_down_and_the_run_goes_on(tiny, tmp_path):
    run = tmp_path / "run"
    said = ok(*arguments(tiny, run, "--min-sqnr", 30, "--max-latency", "2ms", "--latency-by", "device")).stdout
    assert f"fewbits latency {run} w8a8 MILLISECONDS" in said
    assert f"fewbits auto --resume {run}" in said
    assert ok("latency", run, "w8a8", "1.7ms").stdout == "w8a8: 1.7 ms\n"
    assert ok("latency", run, "w8a16", "900us").stdout == "w8a8: 1.7 ms\nw8a16: 0.9 ms\n"
    assert "has no model 'w2a2': it has w8a8" in refused("latency", run, "w2a2", "1ms")
    assert "The latency 'MILLISECONDS' is none" in refused("latency", run, "w8a8", "MILLISECONDS")
    assert "give the output folder of an earlier run" in refused("latency", tmp_path, "w8a8", "1ms")
    said = ok("auto", "--resume", run).stdout
    assert "1.7 ms" in said
    assert record_of(run)["is_met"]
    assert record_of(run)["chosen"] == "w8a8"
