"""Runs of the whole workflow that are killed or meet a full disk, and what is not found out twice after that."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from amp_cases import METRIC, THREADS, files_of, logged
from auto_cases import assert_whole, auto_of, evaluations_of, plain, quickly, steps_of

from fewbits.artifact import names
from fewbits.errors import DataError, FewbitsError, OutputError
from fewbits.reporting.read import read_any
from fewbits.runtime.session import open_session
from fewbits.runtime.store import STORE
from fewbits.workflow.auto import auto
from fewbits.workflow.verify import verify


@pytest.fixture
def metric(tiny, tmp_path):
    """A metric of the user's own that counts its calls in the file `log`, and stops at the call that `stop` names."""
    image = np.load(tiny.evaluation)["image"][:16]
    np.savez(tmp_path / "before.npz", image=image, **open_session(tiny.model.read_bytes())({"image": image}))
    (tmp_path / "metric.py").write_text(METRIC)
    return f"{tmp_path / 'metric.py'}:quality"


def options_of(tiny, metric, folder):
    # quality: float 100, w8a8 97.9, w8a16 98.8
    return {"data": tiny.calib, "metric": metric, "max_drop": 1.6, "samples": 16, "output": folder} | THREADS


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 4, 7])
def test_an_interrupted_run_goes_on_where_it_was(tiny, metric, tmp_path, call):
    """Ctrl-C while the float model, a uniform precision, a mixed one is scored."""
    folder = tmp_path / "run"
    options = options_of(tiny, metric, folder)
    (tmp_path / "stop").write_text(str(call))
    with quickly():
        with pytest.raises(KeyboardInterrupt):
            auto(tiny.model, **options)
        assert (folder / names.RECORD).exists() == (call == 7)  # float model, four precisions, two percentages
        assert not list(folder.rglob(".fewbits.*"))
        (tmp_path / "stop").unlink()
        record = auto(tiny.model, **options).record
    assert steps_of(record)[:2] == ["baseline", "litemp"]
    assert record.is_met
    calls = logged(tmp_path)
    assert len(set(calls)) == len(calls) - 1  # the one that was interrupted did not finish
    assert_whole(folder)


def test_a_metric_that_is_an_object_is_never_remembered(tiny, tmp_path):
    calls = []

    def norm(predict):
        calls.append(1)
        return float(np.abs(predict({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]).sum())

    with quickly():
        first = auto(tiny.model, **options_of(tiny, norm, tmp_path / "run") | {"max_drop": 9}).record
        again = auto(tiny.model, **options_of(tiny, norm, tmp_path / "run") | {"max_drop": 9}).record
    assert evaluations_of(first) == evaluations_of(again) == 4
    assert len(calls) == 10


def test_a_metric_that_is_reached_by_a_link_is_remembered(tiny, metric, tmp_path):
    file, _, function = metric.rpartition(":")
    (tmp_path / "link.py").symlink_to(file)
    options = options_of(tiny, f"{tmp_path / 'link.py'}:{function}", tmp_path / "run") | {"max_drop": 9}
    with quickly():
        assert evaluations_of(auto(tiny.model, **options).record) == 4
        assert evaluations_of(auto(tiny.model, **options).record) == 0
    assert len(logged(tmp_path)) == 5


@pytest.mark.parametrize("place", ["run/baseline/w8a16/.fewbits.", "run/baseline/.fewbits.", "run/.fewbits."])
def test_a_full_disk_leaves_a_whole_folder(tiny, tmp_path, monkeypatch, place):
    """The disk fills up in a precision, in the record of a step, and while the best so far is published."""
    original, folder, met = os.fsync, tmp_path / "run", []

    def fsync(handle):
        if place in str(Path(f"/proc/self/fd/{handle}").readlink()):
            met.append(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    with quickly():
        auto_of(tiny, folder, min_sqnr=30.0)
        before = files_of(folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(OutputError, match=r"the disk is full\. Choose another folder with -o\."):
                auto_of(tiny, folder, min_sqnr=60.0)
    assert met
    assert files_of(folder) == before
    assert_whole(folder)


def test_a_full_disk_while_files_are_copied_is_said(tiny, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with quickly(), monkeypatch.context() as patch:
        patch.setattr("fewbits.workflow.candidates.shutil.copyfile", full)
        with pytest.raises(OutputError, match=r"Cannot write .*Choose another folder with -o\.") as said:
            auto_of(tiny, tmp_path / "run", min_sqnr=30.0)
    assert str(tmp_path / "run") in str(said.value)
    assert not (tmp_path / "run" / names.RECORD).exists()


def test_nan_in_the_data_is_refused(tiny, tmp_path):
    image = np.load(tiny.calib)["image"].copy()
    image[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", image=image)
    with pytest.raises(DataError, match="holds nan: every value must be finite"):
        auto_of(tiny, tmp_path / "run", data=tmp_path / "nan.npz")
    assert not (tmp_path / "run" / names.RECORD).exists()


def test_settings_that_prove_impossible_do_not_replace_those_of_the_run(tiny, tmp_path):
    with quickly():
        auto_of(tiny, tmp_path / "run", min_sqnr=30.0, settings="# good\n")
        with pytest.raises(FewbitsError, match="--min-sqnr is for the metric sqnr"):
            auto_of(tiny, tmp_path / "run", data=tiny.evaluation, metric="top1", settings="# bad\n")
    assert (tmp_path / "run" / "fewbits.toml").read_text() == "# good\n"
    assert_whole(tmp_path / "run")


def test_a_damaged_store_is_refused_and_can_be_deleted(tiny, tmp_path):
    folder = tmp_path / "run"
    with quickly():
        first = auto_of(tiny, folder, min_sqnr=30.0).record
        (folder / STORE).write_bytes(np.random.default_rng(1).bytes(20000))
        with pytest.raises(OutputError, match=r"is damaged: .* Delete it"):
            auto_of(tiny, folder, min_sqnr=30.0)
        assert_whole(folder)
        (folder / STORE).unlink()
        again = auto_of(tiny, folder, min_sqnr=30.0).record
    assert evaluations_of(again) == evaluations_of(first)
    assert again.contenders == first.contenders


RUN = """
import sys
from fewbits.runtime.session import RunOptions
from fewbits.workflow.auto import auto
model, data, metric, output = sys.argv[1:]
auto(model, data=data, metric=metric, max_drop=1.6, samples=16, output=output, run_options=RunOptions(threads=1))
"""
MOMENTS = {
    "two precisions are there": lambda run: len(list(run.glob("baseline/*/record.json"))) == 2,
    "the best so far is published": lambda run: (run / names.RECORD).exists(),
    "a percentage is there": lambda run: len(list(run.glob("litemp/p*/record.json"))) == 1,
}


def killed(command, folder, moment):
    """Kill a run when `moment` has come; return whether it had."""
    with subprocess.Popen(command) as process:
        while process.poll() is None and not moment(folder):
            time.sleep(0.002)
        has_come = moment(folder) and process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    return has_come


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_at_any_moment(tiny, metric, tmp_path, moment):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", RUN, str(tiny.model), str(tiny.calib), metric, str(folder)]
    assert killed(command, folder, MOMENTS[moment])
    if (folder / names.RECORD).exists():
        assert_whole_but_for_scratch(folder)
    known = len(logged(tmp_path))
    assert known >= 3
    subprocess.run(command, check=True)
    calls, resumed, files = logged(tmp_path), plain(folder), files_of(folder)
    calls = calls[:1] + [call for call in calls if call != calls[0]]  # the preflight of each run starts the metric, too
    assert len(set(calls)) >= len(calls) - 1  # the one that was being scored, at most
    assert_whole_but_for_scratch(folder)
    shutil.rmtree(folder)
    subprocess.run(command, check=True)
    assert files_of(folder) == files
    assert plain(folder) == resumed


def assert_whole_but_for_scratch(folder: Path) -> None:
    """Check a folder whose run was killed: scratch folders may lie there, hidden, and nobody reads them."""
    for scratch in list(folder.rglob(".*")):
        shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
    assert_whole(folder)
    assert verify(folder).passed
    assert read_any(folder / names.RECORD).chosen
