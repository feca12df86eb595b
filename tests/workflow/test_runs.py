"""The list of runs in a folder."""

import json
import sqlite3
from dataclasses import replace

import pytest

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.workflow.amp import amp
from fewbits.workflow.analyze import analyze
from fewbits.workflow.baseline import baseline
from fewbits.workflow.litemp import litemp
from fewbits.workflow.runs import runs


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """Output folder of a run of amp with two points; copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("runs") / "amp"
    return amp(
        tiny.model, data=tiny.calib, metric="sqnr", min_sqnr=58, candidates=("w8a8", "w8a16"), max_evaluations=2,
        ranking="brute-force", ranges="minmax", output=folder, run_options=RunOptions(threads=1),
    )  # fmt: skip


def write_record(folder, record, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names.RECORD).write_text(replace(record, **changes).to_json())


def test_a_finished_run_is_told_in_one_line(finished):
    (run,) = runs(finished.output)
    assert (run.folder, run.verb, run.state) == (finished.output, "amp", "finished")
    assert (run.target, run.created) == ("qnn-htp-v73", finished.record.created)
    assert run.model.endswith("tiny.onnx")
    assert run.result == "accepted: 100% w8a16 (2 scored)"
    with sqlite3.connect(finished.output / STORE) as database:
        assert run.stored == database.execute("SELECT count(*) FROM results").fetchone()[0] > 3
    database.close()


def test_candidates_of_a_run_are_left_out(finished):
    assert any((finished.output / path / names.RECORD).is_file() for path in ("point01", "point02"))
    assert [run.folder for run in runs(finished.output.parent)] == [finished.output]


def test_stopped_runs_are_told_apart(finished, tmp_path):
    write_record(tmp_path / "open", finished.record, is_finished=False, is_accepted=False)
    with Store(tmp_path / "begun" / STORE) as store:
        store.put("key", 1)
        store.put("other", 2)
    found = {run.folder.name: run for run in runs(tmp_path)}
    assert (found["open"].state, found["open"].stored) == ("stopped", None)
    assert found["open"].result == "best: 100% w8a16 (2 scored)"
    assert (found["begun"].state, found["begun"].verb, found["begun"].stored) == ("stopped", "", 2)
    assert found["begun"].result == "nothing was written yet"


def test_the_latest_comes_first(finished, tmp_path):
    for name, day in (("a", "02"), ("b", "03"), ("c", "01")):
        write_record(tmp_path / name, finished.record, created=f"2025-01-{day}T00:00:00+00:00")
    assert [run.folder.name for run in runs(tmp_path)] == ["b", "a", "c"]


def test_three_levels_are_looked_through_and_no_hidden_folder(finished, tmp_path):
    for place in ("1/2/3", "1/2/other", ".hidden", "x/.fewbits.abc"):
        write_record(tmp_path / place, finished.record)
    write_record(tmp_path / "y/1/2/3", finished.record)
    assert {str(run.folder.relative_to(tmp_path)) for run in runs(tmp_path)} == {"1/2/3", "1/2/other"}
    assert [run.folder for run in runs(tmp_path / "y")] == [tmp_path / "y/1/2/3"]


def test_a_record_that_cannot_be_read_is_damaged(finished, tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / names.RECORD).write_text(finished.record.to_json()[:500])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / names.RECORD).write_text(json.dumps({"a": 1}))
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / names.RECORD).write_text("[1]")
    found = runs(tmp_path)
    assert {run.state for run in found} == {"damaged"}
    assert all(run.result.endswith(".") or "record" in run.result for run in found)


def test_a_store_that_cannot_be_read_is_no_obstacle(finished, tmp_path):
    write_record(tmp_path / "a", finished.record)
    (tmp_path / "a" / STORE).write_bytes(b"no database" * 999)
    (run,) = runs(tmp_path)
    assert (run.state, run.stored) == ("finished", None)


def test_looking_changes_nothing(finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in sorted(finished.output.rglob("*"))}
    runs(finished.output)
    assert {path: path.stat().st_mtime_ns for path in sorted(finished.output.rglob("*"))} == before


def test_other_verbs_say_what_came_of_them(tiny, quantized_folder, tmp_path):
    (run,) = runs(quantized_folder)
    assert (run.verb, run.state, run.stored) == ("quantize", "finished", None)
    assert run.result.startswith("w8a8, fp32: ")
    assert run.result.endswith(" %")
    options = {"data": tiny.calib, "samples": 8, "metric": "sqnr", "min_sqnr": 58, "run_options": RunOptions(threads=1)}
    baseline(tiny.model, precisions=["w8a8", "w8a16"], output=tmp_path / "b", **options)
    litemp(tiny.model, percents=[100], ranking="brute-force", output=tmp_path / "l", **options)
    analyze(
        tiny.model, data=tiny.calib, samples=8, method="brute-force", confirm=0, precisions=["w8a8"],
        output=tmp_path / "a", run_options=RunOptions(threads=1),
    )  # fmt: skip
    found = {run.verb: run.result for run in runs(tmp_path)}
    assert found == {"baseline": "accepted: w8a16", "litemp": "accepted: 100 % in w8a16", "analyze": "analysis"}


def test_an_empty_folder_holds_no_runs_and_a_missing_one_is_refused(tmp_path):
    assert runs(tmp_path) == ()
    with pytest.raises(SpecError, match=r"There is no folder '.*none': name one that holds output folders"):
        runs(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="There is no folder"):
        runs(tmp_path / "file")
