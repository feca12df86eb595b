"""Runs of `amp` that were stopped or are repeated: what is not found out twice, and stores that cannot be used."""

import errno
import os
import shutil
import sqlite3

import numpy as np
import onnx
import pytest
from amp_cases import BRUTE, METRIC, TWO, files_of, logged, options_of, plain, scored
from onnx import numpy_helper

from fewbits.artifact import names
from fewbits.errors import FewbitsError, OutputError
from fewbits.reporting.read import read_any
from fewbits.runtime import store as store_module
from fewbits.runtime.store import STORE
from fewbits.workflow.amp import amp
from fewbits.workflow.export import export
from fewbits.workflow.verify import verify


@pytest.fixture
def metric(tiny, tmp_path):
    """A metric of the user's own that counts its calls in the file `log`, and stops at the call that `stop` names."""
    from fewbits.runtime.session import open_session

    image = np.load(tiny.evaluation)["image"][:16]
    np.savez(tmp_path / "before.npz", image=image, **open_session(tiny.model.read_bytes())({"image": image}))
    (tmp_path / "metric.py").write_text(METRIC)
    return f"{tmp_path / 'metric.py'}:quality"


def test_a_second_run_scores_nothing_and_comes_to_the_same(tiny, metric, tmp_path):
    options = options_of(tiny, metric, output=tmp_path / "run")
    first = amp(tiny.model, **options)
    before, hashes, calls = plain(tmp_path / "run"), files_of(tmp_path / "run"), len(logged(tmp_path))
    assert first.evaluations == calls == first.record.evaluations + 1 > 3
    assert first.record.is_accepted
    again = amp(tiny.model, **options)
    assert (again.evaluations, len(logged(tmp_path))) == (0, calls)
    assert plain(tmp_path / "run") == before
    assert files_of(tmp_path / "run") == hashes
    # another threshold reuses what is known
    looser = amp(tiny.model, **{**options, "max_drop": 1.8})
    assert looser.evaluations < looser.record.evaluations
    assert looser.chosen.drop <= 1.8
    assert len(logged(tmp_path)) == len(set(logged(tmp_path)))


def test_a_metric_that_is_an_object_is_never_remembered(tiny, tmp_path):
    calls = []

    def norm(predict):
        calls.append(1)
        return float(np.abs(predict({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]).sum())

    options = options_of(tiny, norm, output=tmp_path / "run", max_evaluations=2, max_drop=0.0)
    first = amp(tiny.model, **options)
    again = amp(tiny.model, **options)
    assert first.evaluations == again.evaluations == len(calls) / 2 == first.record.evaluations + 1


def change_model(tiny, folder, options):
    model = onnx.load(tiny.model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "b3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.5), "b3"))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx", {}


def change_data(tiny, folder, options):
    np.savez(folder / "other.npz", image=np.load(tiny.calib)["image"][::-1][:20] * 1.5)
    return tiny.model, {"data": folder / "other.npz"}


def change_evaluation(tiny, folder, options):
    arrays = np.load(tiny.evaluation)
    np.savez(folder / "other.npz", image=arrays["image"][:30], labels=arrays["labels"][:30])
    return tiny.model, {"eval_data": folder / "other.npz"}


def change_ranges(tiny, folder, options):
    return tiny.model, {"ranges": "percentile:99"}


@pytest.mark.parametrize("change", [change_model, change_data, change_evaluation, change_ranges])
def test_scores_of_something_else_are_not_reused(tiny, tmp_path, change):
    options = {**BRUTE, "data": tiny.calib, "eval_data": tiny.evaluation, "candidates": TWO, "min_sqnr": 52.0}
    options |= {"max_evaluations": 3, "samples": 16}
    amp(tiny.model, **options, output=tmp_path / "run")
    model, changed = change(tiny, tmp_path, options)
    stale = amp(model, **{**options, **changed}, output=tmp_path / "run")
    fresh = amp(model, **{**options, **changed}, output=tmp_path / "fresh")
    assert [point.score for point in stale.record.points] == [point.score for point in fresh.record.points]
    assert stale.record.points == fresh.record.points
    is_float_known = change in (change_ranges, change_data)  # scored on other data
    assert stale.evaluations == fresh.evaluations - is_float_known
    assert files_of(tmp_path / "run") == files_of(tmp_path / "fresh")


def test_a_metric_file_that_was_edited_is_asked_again(tiny, metric, tmp_path):
    options = options_of(tiny, metric, output=tmp_path / "run", max_evaluations=2)
    first = amp(tiny.model, **options)
    (tmp_path / "metric.py").write_text(METRIC.replace("100 - 100 *", "100 - 90 *"))
    other = amp(tiny.model, **options)
    assert other.evaluations == first.evaluations
    assert other.record.points[0].score > first.record.points[0].score


# runs that are stopped


@pytest.mark.parametrize("call", [2, 4])
def test_an_interrupted_run_goes_on_where_it_was(tiny, metric, tmp_path, call):
    folder = tmp_path / "run"
    options = options_of(tiny, metric, output=folder)
    (tmp_path / "stop").write_text(str(call))
    with pytest.raises(KeyboardInterrupt):
        amp(tiny.model, **options)
    assert len(logged(tmp_path)) == call
    if call <= 2:  # float model, and the cheapest profile
        assert not (folder / names.RECORD).exists()
    else:
        record = read_any(folder / names.RECORD)
        assert (record.is_finished, record.ended) == (False, "")
        assert record.evaluations == len(scored(record)) >= 1
        assert files_of(folder) == files_of(folder / record.point(record.chosen).folder)
        assert verify(folder).passed
        export(folder, output=tmp_path / "handed", point=record.chosen)
    (tmp_path / "stop").unlink()
    amp(tiny.model, **options)
    assert read_any(folder / names.RECORD).is_finished
    resumed, files, calls = plain(folder), files_of(folder), logged(tmp_path)
    assert len(set(calls)) == len(calls) - 1  # the one that was interrupted did not finish
    shutil.rmtree(folder)
    amp(tiny.model, **options)
    assert plain(folder) == resumed
    assert files_of(folder) == files


def test_ctrl_c_while_files_are_published_leaves_a_whole_folder(tiny, tmp_path, monkeypatch):
    from fewbits.workflow import amp_run

    published, original = [], amp_run.publish

    def stopping(source, made, record, folder):
        original(source, made, record, folder)
        published.append(source)
        if len(published) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(amp_run, "publish", stopping)
    options = {**BRUTE, "data": tiny.calib, "candidates": TWO, "min_sqnr": 51.5, "output": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        amp(tiny.model, **options)
    record = read_any(tmp_path / "run" / names.RECORD)
    assert not record.is_finished
    assert files_of(tmp_path / "run") == files_of(tmp_path / "run" / record.point(record.chosen).folder)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(amp_run, "publish", original)
    folders = [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert len(folders) > record.evaluations  # the round was scored before it was published
    again = amp(tiny.model, **options)
    assert again.evaluations == again.record.evaluations - len(folders)


# a store that cannot be used


class FailingDatabase:
    """A connection to SQLite whose n-th result finds the disk full."""

    def __init__(self, database, fails_at):
        self._database, self._fails_at, self.puts = database, fails_at, 0

    def execute(self, text, values=()):
        if text.startswith("INSERT"):
            self.puts += 1
            if self.puts == self._fails_at:
                raise sqlite3.OperationalError("database or disk is full")
        return self._database.execute(text, values)

    def close(self):
        self._database.close()


@pytest.mark.parametrize("put", [1, 4, 12])
def test_a_store_without_space_ends_the_run_in_a_sentence_and_loses_nothing(tiny, metric, tmp_path, monkeypatch, put):
    options, connect = options_of(tiny, metric, output=tmp_path / "run"), sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(
            store_module.sqlite3, "connect", lambda *args, **more: FailingDatabase(connect(*args, **more), put)
        )
        with pytest.raises(
            OutputError, match=r"store\.sqlite' cannot be used: database or disk is full\. Choose a fol"
        ):
            amp(tiny.model, **options)
    if (tmp_path / "run" / names.RECORD).exists():
        assert verify(tmp_path / "run").passed
    calls = len(logged(tmp_path))
    again = amp(tiny.model, **options)
    assert again.record.is_accepted
    # what was scored is known, but for the one that found no room
    assert calls - 1 <= again.record.evaluations + 1 - again.evaluations <= calls


def test_a_full_disk_behind_the_files_ends_the_run_in_a_sentence(tiny, metric, tmp_path, monkeypatch):
    original, synced = os.fsync, []

    def fsync(handle):
        if len(synced) == 9:  # the second folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced.append(handle)
        original(handle)

    options = options_of(tiny, metric, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match=r"the disk is full\. Choose another folder with -o\."):
            amp(tiny.model, **options)
    calls = len(logged(tmp_path))
    assert calls >= 1
    again = amp(tiny.model, **options)
    assert again.evaluations == again.record.evaluations + 1 - calls


def test_a_store_that_cannot_be_written_is_refused(tiny, tmp_path, monkeypatch):
    options = {**BRUTE, "data": tiny.calib, "candidates": TWO, "min_sqnr": 51.5}
    with pytest.raises(
        OutputError, match=r"The store '/proc/amp/store\.sqlite' cannot be used: .*Choose a folder with"
    ):
        amp(tiny.model, **options, output="/proc/amp")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be used"):
        amp(tiny.model, **options, output=tmp_path / "file")
    amp(tiny.model, **{**options, "min_sqnr": 40}, output=tmp_path / "run")
    connect = sqlite3.connect
    monkeypatch.setattr(
        store_module.sqlite3, "connect", lambda where, **more: connect(f"file:{where}?mode=ro", uri=True, **more)
    )
    with pytest.raises(OutputError, match=r"cannot be used: attempt to write a readonly database\. Choose a folder"):
        amp(tiny.model, **options, output=tmp_path / "run")
    assert verify(tmp_path / "run").passed


def test_a_damaged_store_is_refused_and_can_be_deleted(tiny, metric, tmp_path):
    options = options_of(tiny, metric, output=tmp_path / "run", max_evaluations=2)
    first = amp(tiny.model, **options)
    path = tmp_path / "run" / STORE
    before = files_of(tmp_path / "run")
    path.write_bytes(np.random.default_rng(1).bytes(20000))
    with pytest.raises(OutputError, match=r"store\.sqlite' is damaged: .* Delete it; what it held is computed again\."):
        amp(tiny.model, **options)
    assert files_of(tmp_path / "run") == before
    path.unlink()
    again = amp(tiny.model, **options)
    assert (again.evaluations, again.record.points) == (first.evaluations, first.record.points)


@pytest.mark.parametrize("seed", range(2))
def test_a_store_that_is_damaged_inside_ends_in_a_sentence_or_in_the_same_result(tiny, metric, tmp_path, seed):
    options = options_of(tiny, metric, output=tmp_path / "run", max_evaluations=2)
    first = amp(tiny.model, **options)
    path, rng = tmp_path / "run" / STORE, np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    begin = int(rng.integers(4096, len(data) - 2000))
    data[begin : begin + 2000] = rng.bytes(2000)
    path.write_bytes(data)
    said = ""
    try:
        again = amp(tiny.model, **options)
    except FewbitsError as error:
        said = str(error)
    assert "Delete it" in said or (not said and again.record.points == first.record.points)
