import errno
import os
from pathlib import Path

import pytest

from fewbits.artifact.folder import staged, write_file
from fewbits.errors import OutputError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_half(output: Path, error: type[BaseException]) -> None:
    with staged(output) as scratch:
        (scratch / "model.qdq.onnx").write_text("half")
        raise error


def test_staged_moves_files_out_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged(out) as scratch:
        (scratch / "record.json").write_text("{}")
        (scratch / "report.html").write_text("")
        assert not names(out) - {scratch.name}
    assert names(out) == {"record.json", "report.html"}


def test_staged_removes_what_an_earlier_run_left(tmp_path):
    for name in ("certificate.json", "model.qdq.onnx", "mine.txt"):
        (tmp_path / name).write_text("old")
    with staged(tmp_path) as scratch:
        (scratch / "model.qdq.onnx").write_text("new")
    assert names(tmp_path) == {"model.qdq.onnx", "mine.txt"}
    assert (tmp_path / "model.qdq.onnx").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_staged_leaves_nothing_when_the_block_fails(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "a" / "b", error)
    assert names(tmp_path) == set()


def test_staged_keeps_an_earlier_run_when_the_block_fails(tmp_path):
    (tmp_path / "model.qdq.onnx").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path, KeyboardInterrupt)
    assert (tmp_path / "model.qdq.onnx").read_text() == "old"
    assert names(tmp_path) == {"model.qdq.onnx"}


def test_staged_finishes_moving_when_interrupted_there(tmp_path, monkeypatch):
    replace, calls = Path.replace, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    def run():
        with staged(tmp_path) as scratch:
            for name in ("model.qdq.onnx", "model.float.onnx", "record.json"):
                (scratch / name).write_text("new")
            monkeypatch.setattr(Path, "replace", interrupted)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert names(tmp_path) == {"model.qdq.onnx", "model.float.onnx", "record.json"}
    assert Path(calls[-1]).name == "record.json"


def test_staged_without_output_keeps_nothing():
    with staged(None) as scratch:
        (scratch / "model.qdq.onnx").write_text("x")
    assert not scratch.exists()


def test_staged_refuses_a_file(tmp_path):
    (tmp_path / "f").write_text("")
    for output in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(OutputError, match="Cannot write to"), staged(output):
            pass


def test_staged_speaks_of_the_folder_that_the_caller_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def run():
        with staged(tmp_path / "out") as scratch:
            write_file(scratch / "x.json", b"{}")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"out/x\.json': the disk is full"):
        run()


def test_write_file_says_that_the_disk_is_full_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_file(tmp_path / "x.json", b"{}")
    assert names(tmp_path) == set()
