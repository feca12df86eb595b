"""Latency in the whole workflow: measured here, told by the user, or nothing that anyone tells."""

import json

import numpy as np
import pytest
from amp_cases import THREADS
from auto_cases import MET_BY_W8A8, assert_whole, auto_of, evaluations_of, quickly, steps_of
from pasted import assert_parses

import fewbits
from fewbits.artifact import names
from fewbits.errors import MissingExtraError, SpecError
from fewbits.reporting.read import read_any
from fewbits.runtime.store import Store
from fewbits.workflow import cost_profiles
from fewbits.workflow.auto_latency import LATENCIES, check_latency_by, parse_latency
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.cost_context import CostContext


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (2, 2.0),
        ("2", 2.0),
        (1.5, 1.5),
        ("2ms", 2.0),
        (" 800 us ", 0.8),
        ("0.1s", 100.0),
        ("2MS", 2.0),
        (".5ms", 0.5),
        (1e-6, 1e-6),
    ],
)
def test_parse_latency_takes_three_units(text, ms):
    assert parse_latency(text) == pytest.approx(ms)


@pytest.mark.parametrize(
    "text", ["", "ms", "0", "-1", "1e", "2 m", "nan", "inf", "1,5ms", "1e400", "2ms 3", float("nan"), None]
)
def test_parse_latency_refuses_what_is_none(text):
    with pytest.raises(SpecError, match=r"The latency '.*' is none: write 2ms, 800us or 0\.1s\."):
        parse_latency(text)


def test_who_tells_latencies_is_checked(monkeypatch):
    assert check_latency_by("ort") == "ort"
    with pytest.raises(SpecError, match=r"--latency-by is ort, qnn-estimate:CHIP or device, not 'phone'\."):
        check_latency_by("phone")
    with pytest.raises(SpecError, match="sm1"):
        check_latency_by("qnn-estimate:sm1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    with pytest.raises(MissingExtraError, match=r"fewbits\[qnn\]"):
        check_latency_by("qnn-estimate:soc77")


def test_a_limit_that_all_keep_changes_nothing(tiny, tmp_path):
    with quickly():
        record = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_W8A8, max_latency="1s").record
    assert steps_of(record) == ["baseline", "stop"]
    assert (record.chosen, record.is_met, record.max_latency_ms) == ("w8a8", True, 1000.0)
    assert {made.latency_by for made in record.contenders} == {"ort"}
    assert all(0 < made.latency_ms < 1000 for made in record.contenders)
    assert "latency of at most 1000 ms" in record.summary[1]
    assert " --max-latency 1s --latency-by ort" in record.command


def test_a_limit_that_none_keeps_is_said(tiny, tmp_path):
    """Nothing is as quick; a search by latency cannot help either."""
    with quickly():
        record = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_W8A8, max_latency=1e-6).record
    assert steps_of(record) == ["baseline", "amp", "stop"]
    assert "none is quick enough: the quickest is" in record.forks[1].why
    assert record.forks[-1].why.startswith("nothing is quick enough; the quickest acceptable model is")
    assert not record.is_met
    assert record.summary[1].startswith("Nothing meets the goal, SQNR of at least 30 dB, latency of at most 1e-06 ms;")
    assert_whole(tmp_path / "run")
    for _, command in record.next_steps:
        assert_parses(command)
    assert_parses(record.command)


def test_only_acceptable_models_are_timed_and_once_only(tiny, tmp_path):
    options, timed = {"latency_by": "ort", "min_sqnr": 60.0, "goal": "fastest", "time": 0.01}, []

    def time_session(path, feeds, *, options):
        timed.append(path.parent.name)
        return 5.0 * len(timed)

    with quickly() as patch:
        patch.setattr(cost_profiles, "time_session", time_session)
        record = auto_of(tiny, tmp_path / "run", **options).record
        assert timed == ["w8a16", "w16a16", "fp16"]
        assert [m.latency_ms is not None for m in record.contenders] == [m.status == "ok" for m in record.contenders]
        again = auto_of(tiny, tmp_path / "run", **options).record
    assert len(timed) == 3
    assert again.contenders == record.contenders
    assert record.chosen == "w8a16"


def test_a_model_is_timed_again_where_the_sample_has_another_shape_and_not_for_what_lies_beside_it(tiny, tmp_path):
    calibration, timed = calibrate(tiny.model, data=tiny.calib, samples=2, **THREADS), []
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny.model.read_bytes())

    def time_session(path, feeds, *, options):
        timed.append(feeds["image"].shape)
        return 5.0

    with pytest.MonkeyPatch.context() as patch, Store(tmp_path / "store") as store:
        patch.setattr(cost_profiles, "time_session", time_session)
        context = CostContext(calibration, store)
        for size, beside in ((1, ""), (1, "another"), (2, "another")):
            (tmp_path / "record.json").write_text(beside)
            feeds = {name: np.repeat(x, size, axis=0) for name, x in context.feeds.items()}
            assert cost_profiles.remembered_time(context, model, feeds) == 5.0
    assert timed == [(1, 3, 8, 8), (2, 3, 8, 8)]


@pytest.fixture
def waiting(tiny, tmp_path):
    """Folder and options of a run that waits for what the device takes."""
    options = {"min_sqnr": MET_BY_W8A8, "max_latency": "2ms", "latency_by": "device"}
    with quickly():
        auto_of(tiny, tmp_path / "run", **options)
    return tmp_path / "run", options


def test_a_run_waits_for_the_device_and_goes_on(waiting, tiny):
    folder, options = waiting
    record = read_any(folder / names.RECORD)
    assert steps_of(record) == ["baseline", "stop"]
    assert record.forks[-1].why == "the latency of w8a8, w8a16, w16a16, fp16 must be measured on the device first"
    assert not record.is_met
    assert record.chosen == "w16a16"
    said = dict(record.next_steps)
    assert said["go on with what was measured"] == f"fewbits auto --resume {folder}"
    assert f"fewbits latency {folder} w8a8 MILLISECONDS" in said.values()
    for command in said.values():
        assert_parses(command)
    assert fewbits.latency(folder, "w8a8", "3ms") == {"w8a8": 3.0}
    assert fewbits.latency(folder, "w8a16", 1.7) == {"w8a8": 3.0, "w8a16": 1.7}
    with quickly():
        again = auto_of(tiny, folder, **options).record
    assert evaluations_of(again) == 0
    assert (again.chosen, again.is_met) == ("w8a16", True)
    assert [made.latency_ms for made in again.contenders] == [3.0, 1.7, None, None]
    assert [made.latency_by for made in again.contenders] == ["device", "device", "", ""]
    assert "drop" not in again.forks[-1].why
    assert "1.7 ms" in again.summary[1]


def test_nothing_is_left_to_measure_once_the_limit_is_met(waiting, tiny):
    folder, options = waiting
    for name in ("w8a8", "w8a16", "w16a16", "fp16"):
        fewbits.latency(folder, name, "1ms")
    with quickly():
        again = auto_of(tiny, folder, **options).record
    assert again.chosen == "w8a8"
    assert not any("latency" in command or "--resume" in command for _, command in again.next_steps)


def test_a_figure_of_another_file_under_the_same_name_does_not_count(waiting, tiny):
    folder, options = waiting
    fewbits.latency(folder, "w8a8", "1ms")
    with quickly():
        again = auto_of(tiny, folder, **options, samples=8).record
    assert "w8a8" in again.forks[-1].why
    assert again.contenders[0].latency_ms is None


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A run that is stopped; a test may put a file of latencies there."""
    with quickly():
        return auto_of(tiny, tmp_path_factory.mktemp("latency") / "run", time=0.01).output


@pytest.fixture(autouse=True)
def without_figures(request):
    yield
    if "folder" in request.fixturenames:
        (request.getfixturevalue("folder") / LATENCIES).unlink(missing_ok=True)


def test_what_is_no_latency_of_a_run_is_refused(folder, tmp_path, quantized_folder):
    with pytest.raises(SpecError, match=r"has no model 'w4a4': it has w8a8, w8a16, w16a16, fp16\."):
        fewbits.latency(folder, "w4a4", 1)
    with pytest.raises(SpecError, match="The latency 'fast' is none"):
        fewbits.latency(folder, "w8a8", "fast")
    with pytest.raises(SpecError, match="give the output folder of an earlier run"):
        fewbits.latency(tmp_path, "w8a8", 1)
    with pytest.raises(SpecError, match=r"is a run of `quantize`: name the output folder of `fewbits auto`\."):
        fewbits.latency(quantized_folder, "w8a8", 1)
    assert not (folder / LATENCIES).exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"w8a8": 3}', '{"w8a8": {"ms": 3}}', '{"w8a8": {"ms": "x", "artifact": ""}}']
)
def test_damaged_figures_are_refused(folder, text):
    (folder / LATENCIES).write_text(text)
    with pytest.raises(SpecError, match=r"latency\.json' cannot be read: delete it, and give the figures again\."):
        fewbits.latency(folder, "w8a8", 1)


def test_figures_are_kept_with_the_content_of_the_file(folder):
    fewbits.latency(folder, "w8a8", "800us")
    kept = json.loads((folder / LATENCIES).read_text())
    assert kept["w8a8"]["ms"] == pytest.approx(0.8)
    assert len(kept["w8a8"]["artifact"]) >= 32
