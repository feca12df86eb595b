"""What goes wrong while results are written: no place, no space, Ctrl-C. An earlier run in the folder stays whole."""

import errno
import json
import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM, fewbits, ok, refused, words

from fewbits.artifact import folder as folders
from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.artifact.samples import collect_samples

INTERRUPTED = "error: interrupted; nothing is half-written, and what was finished is kept.\n"


@pytest.mark.parametrize("place", ["/proc/fewbits", "/dev/null/out"])
def test_output_that_cannot_be_written(tiny, place):
    line = refused("quantize", tiny.model, "--data", tiny.calib, "-o", place)
    assert f"Cannot write to {place!r}" in line
    assert "-o" in line
    line = refused("prepare", tiny.model, "-o", f"{place}/m.onnx")
    assert f"{place}/m.onnx" in line
    assert "-o" in line


def test_output_is_a_file_that_stays(tiny, tmp_path):
    (tmp_path / "out").write_text("mine")
    line = refused("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out")
    assert "out': it is a file; name a folder with -o" in line
    line = refused("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out" / "deeper")
    assert "out/deeper'" in line
    assert (tmp_path / "out").read_text() == "mine"


def earlier_run(tiny: Any, at: Path) -> dict[str, str]:
    ok("quantize", tiny.model, "--data", tiny.calib, "-o", at / "out", "-q")
    return hashes(at / "out")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.mark.parametrize("files", range(6))
def test_full_disk_leaves_the_earlier_run_as_it_was(tiny, tmp_path, monkeypatch, files):
    """The disk takes some files, and fills up while the next one is written."""
    before, original, synced = earlier_run(tiny, tmp_path), os.fsync, []

    def fsync(handle):
        if len(synced) == files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced.append(handle)
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    line = refused("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out", "--precision", "w8a16")
    assert "the disk is full. Choose another folder with -o." in line
    assert f"{tmp_path / 'out'}" in line
    assert hashes(tmp_path / "out") == before


def test_file_too_large_for_the_system_leaves_nothing(tiny, tmp_path):
    """A process that may write no file above 2 kB meets the limit in the middle of the artifact."""
    command = words(*PROGRAM, "quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out")
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "out" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_room_for_temporary_files(tiny, tmp_path, monkeypatch):
    earlier_run(tiny, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/proc")
        assert "Set TMPDIR to a folder with space." in refused("verify", tmp_path / "out")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in refused("verify", tmp_path / "out")


@pytest.mark.parametrize("arguments", [["targets"], ["targets", "--json"]])
def test_full_disk_behind_stdout(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: Cannot write to the standard output: No space left on device.\n"


def test_reader_of_stdout_that_goes_away_is_no_error():
    """`fewbits targets | head -1`."""
    with subprocess.Popen(
        [*PROGRAM, "targets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pipesize=4096
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)


STOPPING = """
import os, signal
import numpy as np

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it

def feeds():
    for number in range({most}):
        if number == {stop}:
            os.kill(os.getpid(), signal.SIGINT)
        yield {{"image": np.zeros((1, 3, 8, 8), np.float32)}}
"""


def test_ctrl_c_in_the_middle_of_calibration(tiny, tmp_path):
    before = earlier_run(tiny, tmp_path)
    (tmp_path / "stop.py").write_text(STOPPING.format(most=1 << 30, stop=5))
    data = f"{tmp_path / 'stop.py'}:feeds"
    command = words(*PROGRAM, "quantize", tiny.model, "--data", data, "-o", tmp_path / "out", "--samples", 1 << 30)
    done = subprocess.run([*command, "--metric", "sqnr"], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == INTERRUPTED
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("step", range(1, 6))
def test_ctrl_c_while_files_are_moved_out_finishes_moving(tiny, tmp_path, monkeypatch, step):
    """A few renames: the new run is there as a whole, and can be verified."""
    before, moved, original = earlier_run(tiny, tmp_path), [], folders._move

    def interrupted(stage, folder, written):
        if not moved:
            for name in sorted(written)[:step]:
                (stage / name).replace(folder / name)
                moved.append(name)
            raise KeyboardInterrupt
        original(stage, folder, written)

    monkeypatch.setattr(folders, "_move", interrupted)
    command = ("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out", "--precision", "w8a16")
    assert fewbits(*command).exit_code == 130
    after = hashes(tmp_path / "out")
    assert set(after) == set(before)
    assert after[names.RECORD] != before[names.RECORD]
    assert json.loads((tmp_path / "out" / names.RECORD).read_text())["precision"].get("w8a16")
    ok("verify", tmp_path / "out")


def test_ctrl_c_while_samples_are_run_keeps_the_earlier_run(tiny, tmp_path, monkeypatch):
    before = earlier_run(tiny, tmp_path)

    def interrupted(*arguments, **options):
        collect_samples(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("fewbits.workflow.writing.collect_samples", interrupted)
    result = fewbits("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out", "--precision", "w8a16")
    assert result.exit_code == 130
    assert result.stderr == INTERRUPTED
    assert hashes(tmp_path / "out") == before
    ok("verify", tmp_path / "out")
