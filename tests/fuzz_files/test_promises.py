"""What docs/security.md promises of files from outside, each promise seen to hold on a file made to break it."""

import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from borrowed import record_of_a_baseline
from damage_arrays import CANARY, pickled
from damage_others import _EPS
from PIL import Image

from fewbits.artifact import names
from fewbits.artifact.folder import file_facts, staged, temporary_folder
from fewbits.artifact.samples import unpack_runs
from fewbits.errors import DataError, FewbitsError, ModelError, OutputError, SpecError
from fewbits.runtime.data import open_data
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.store import STORE, Store, count_results
from fewbits.spec.target import load_target
from fewbits.workflow.export import export

INPUTS = (InputInfo("image", np.dtype(np.float32), ("N", 3, 8, 8)),)


@pytest.fixture
def canary(tmp_path, monkeypatch) -> Path:
    """The file that is there once hidden code has run."""
    path = tmp_path / "code-was-run"
    monkeypatch.setenv(CANARY, str(path))
    return path


def npy(kind: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + body


def npz(folder: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder / "d.npz", "w", method) as archive:
        archive.writestr("image.npy", content)
    return folder / "d.npz"


def read(path: Path) -> list[int]:
    return [batch.size for batch in open_data(path, inputs=INPUTS).batches(4)]


# nothing is unpickled


def test_the_canary_would_be_touched(canary):
    """Else the tests below show nothing."""
    import pickle

    pickle.loads(pickled())
    assert canary.exists()


def test_arrays_of_objects_are_not_unpickled(canary, tmp_path):
    (tmp_path / "d.npy").write_bytes(npy("|O", "(1,)", pickled()))
    for path in (tmp_path / "d.npy", npz(tmp_path, npy("|O", "(1,)", pickled()))):
        with pytest.raises(DataError, match="holds Python objects, which fewbits never unpickles"):
            read(path)
    with pytest.raises(ValueError, match="holds Python objects"):
        unpack_runs((tmp_path / "d.npz").read_bytes())
    assert not canary.exists()


@pytest.mark.parametrize("is_archive", [False, True])
def test_checkpoints_and_weights_are_not_unpickled(canary, tmp_path, is_archive):
    torch = pytest.importorskip("torch")
    from fewbits.runtime.torch_load import load_torch
    from fewbits.training.torch_checkpoint import Checkpoint

    path = tmp_path / "c.pt"
    path.write_bytes(pickled())
    if is_archive:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("c/data.pkl", pickled())
            archive.writestr("c/version", "3\n")
    with pytest.raises(OutputError, match="cannot be read: delete it"):
        Checkpoint(path).read()
    with pytest.raises(ModelError, match=r"cannot be loaded|hold more than tensors"):
        load_torch(torch.nn.Linear(2, 2), path)
    assert not canary.exists()


# a few bytes cannot ask for all memory or time


@pytest.mark.parametrize("shape", ["(10000000000000, 3, 8, 8)", "(4611686018427387904, 16)", "(-1, 3, 8, 8)"])
def test_an_array_that_claims_terabytes_is_refused_before_anything_is_allocated(tmp_path, shape):
    (tmp_path / "d.npy").write_bytes(npy("<f4", shape, bytes(64)))
    packed = npz(tmp_path, npy("<f4", shape, bytes(64)), zipfile.ZIP_DEFLATED)
    for path in (tmp_path / "d.npy", packed):
        with pytest.raises(DataError, match="claims"):
            read(path)


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = npz(tmp_path, npy("<f4", "(5000, 3, 8, 8)", bytes(5000 * 192 * 4)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    assert sum(read(path)) == 5000  # what fits is read
    monkeypatch.setattr("fewbits.runtime.data.archive._memory_bytes", lambda: 1e6)
    with pytest.raises(DataError, match=r"unpacked it takes 0\.0 GB, more than this machine has"):
        read(path)


def test_a_directory_of_an_archive_that_lies_is_refused(tmp_path):
    data = bytearray(npz(tmp_path, npy("<f4", "(1, 3, 8, 8)", bytes(768)), zipfile.ZIP_DEFLATED).read_bytes())
    place = data.rfind(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2**31).to_bytes(4, "little")  # the size once unpacked
    (tmp_path / "d.npz").write_bytes(data)
    with pytest.raises(DataError, match="claims 2147483648 bytes, more than the file can hold"):
        read(tmp_path / "d.npz")


def test_samples_cannot_claim_runs_without_end():
    out = io.BytesIO()
    np.savez(out, **{"feeds.names": np.array([], np.str_), "feeds.count": np.array(10**15)})
    with pytest.raises(ValueError, match="claims 1000000000000000 runs"):
        unpack_runs(out.getvalue())


@pytest.mark.parametrize("name", ["../../../../tmp/evil", "é" * 300, "qnn-htp-v" + "9" * 5000])
def test_a_target_extends_those_of_fewbits_only(tmp_path, name):
    (tmp_path / "t.toml").write_text(f'description = "d"\nextends = "{name}"\n', encoding="utf-8")
    with pytest.raises(SpecError, match="to extend: choose one of"):
        load_target(tmp_path / "t.toml")


# stores, pictures, records


def database(folder: Path, statement: str) -> Path:
    with Store(folder / STORE) as store:
        store.put("key", 0.5)
    with closing(sqlite3.connect(folder / STORE)) as opened:
        opened.executescript(statement)
    return folder / STORE


ENDLESS = """
DROP TABLE results;
CREATE VIEW results AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
SELECT i AS key, i AS value, '' AS digest FROM n;
"""
TRIGGER = "CREATE TRIGGER t AFTER INSERT ON results BEGIN DELETE FROM results; END;"


@pytest.mark.parametrize("statement", [ENDLESS, TRIGGER])
def test_a_store_with_statements_of_its_own_is_refused(tmp_path, statement):
    path = database(tmp_path, statement)
    with pytest.raises(OutputError, match="damaged: it holds other tables than fewbits makes"):
        Store(path)
    assert count_results(path) is None


def test_a_store_whose_texts_are_none_holds_nothing(tmp_path):
    path = database(tmp_path, "")
    path.write_bytes(path.read_bytes().replace(b"tableresultsresults\x02", b"table\xa9esultsresults\x03"))
    assert count_results(path) is None
    with pytest.raises(OutputError, match=r"is damaged|cannot be used"):
        Store(path)


def test_what_sqlite_says_of_a_damaged_text_is_one_line(tmp_path):
    with Store(tmp_path / STORE) as store:
        store.put("key", "a" * 50)
    data = (tmp_path / STORE).read_bytes()
    assert b"a" * 50 in data
    (tmp_path / STORE).write_bytes(data.replace(b"a" * 50, b"a" * 20 + b"\xe2\n\n" + b"a" * 27))
    with Store(tmp_path / STORE) as store, pytest.raises(OutputError, match="decode") as caught:
        store.get("key")
    assert len(str(caught.value).splitlines()) == 1


def test_a_picture_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    def none_left(*_args, **_more):
        raise MemoryError

    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", none_left)
    with pytest.raises(DataError, match=r"0\.png' does not fit into memory: scale it down"):
        read(tmp_path)


def test_weights_that_begin_as_an_archive_in_parts_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from fewbits.runtime.torch_load import load_torch

    with zipfile.ZipFile(tmp_path / "w.pt", "w", allowZip64=True) as archive:
        archive.writestr("w/data.pkl", pickled())
    end = b"PK\x06\x07" + (0).to_bytes(4, "little") + (0).to_bytes(8, "little") + (9).to_bytes(4, "little")
    data = (tmp_path / "w.pt").read_bytes()
    cut = data.rfind(b"PK\x05\x06")
    # what does not begin as an archive goes to torch's reader of pickles, which refuses it as one
    (tmp_path / "w.pt").write_bytes(b"\xd0" + data[1:cut] + end + data[cut:])
    with pytest.raises(zipfile.BadZipFile, match="multiple disks"):
        zipfile.is_zipfile(tmp_path / "w.pt")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_torch(torch.nn.Linear(2, 2), tmp_path / "w.pt")


def test_a_result_that_was_changed_is_not_taken_for_one(tmp_path):
    path = database(tmp_path, "UPDATE results SET value = '0.25'")
    with Store(path) as store, pytest.raises(OutputError, match="a result in it is not what was put there"):
        store.get("key")


def test_a_store_of_the_first_layout_begins_anew(tmp_path):
    with closing(sqlite3.connect(tmp_path / STORE)) as opened:
        opened.executescript(
            "CREATE TABLE results (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID; PRAGMA user_version = 1;"
            "INSERT INTO results VALUES ('key', '0.5')"
        )
    with Store(tmp_path / STORE) as store:
        assert store.get("key") is None
        store.put("key", 0.75)
        assert store.get("key") == 0.75
    assert count_results(tmp_path / STORE) == 1


def test_a_picture_goes_to_the_readers_of_its_formats_only(tmp_path, monkeypatch):
    """Pillow goes by content: an EPS file, whatever its name, would be run by Ghostscript."""
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_args, **_more: ran.append(1))
    (tmp_path / "0.png").write_bytes(_EPS)
    with Image.open(tmp_path / "0.png") as opened:
        assert opened.format == "EPS"
    with pytest.raises(DataError, match=r"0\.png' cannot be read"):
        read(tmp_path)
    assert not ran


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..\\evil", "C:evil", ""])
def test_a_record_cannot_name_files_outside_of_its_folder(quantized_folder, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(quantized_folder, folder)
    (tmp_path / "evil").write_bytes(b"evil")
    document = json.loads((folder / names.RECORD).read_text())
    document["files"] = {**file_facts(folder), name: {"sha256": "0" * 64, "bytes": 4}}
    (folder / names.RECORD).write_text(json.dumps(document))
    with pytest.raises(SpecError, match="which is no name of a file in the run's folder"):
        export(folder, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_that_is_nested_deeply_is_refused(quantized_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(quantized_folder, folder)
    text = (folder / names.RECORD).read_text()
    (folder / names.RECORD).write_text(text.rstrip()[:-1] + ', "more": ' + "[" * 700 + "]" * 700 + "}")
    with pytest.raises(SpecError, match="nested too deeply"):
        export(folder, output=tmp_path / "out")


@pytest.mark.parametrize("accepted", ["../elsewhere", "/tmp", "a/../../b"])
def test_a_record_cannot_name_folders_outside_of_its_own(tmp_path, accepted):
    from fewbits.reporting.read import read_any

    document = json.loads(record_of_a_baseline())
    document["verdict"]["accepted"] = accepted
    (tmp_path / "record.json").write_text(json.dumps(document))
    with pytest.raises(SpecError, match="which is not inside the run's"):
        read_any(tmp_path / "record.json")


# what fewbits itself writes, runs and asks for


RUN = """
import os, pathlib, socket, sys
import fewbits
from fewbits.workflow.report import report

def refuse(*_args, **_more):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refuse
fewbits.quantize(sys.argv[1], data=sys.argv[2], output="out")
report("out")
opened = [os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if os.path.lexists(path)]
assert not [name for name in opened if name.startswith("socket:")], opened
"""


def run_apart(code: str, *arguments: object, folder: Path, **changes: str | None) -> str:
    """Run code in a fresh process with a home of its own; onnxruntime looks at its environment once, when loaded."""
    given = {**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), **changes}
    kept = {name: value for name, value in given.items() if value is not None and name not in ("CI", "XDG_CACHE_HOME")}
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder / "work", env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed on Linux")
def test_files_are_written_under_the_output_only_and_nothing_asks_the_network(tiny, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tiny.model.parent.iterdir()}
    run_apart(RUN, tiny.model, tiny.calib, folder=tmp_path, ORT_DISABLE_TELEMETRY=None)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"out"}
    assert not list((tmp_path / "home").rglob("*"))
    assert not list((tmp_path / "tmp").iterdir())
    assert before == {path: path.stat().st_mtime_ns for path in tiny.model.parent.iterdir()}


def test_the_telemetry_of_onnxruntime_is_off_unless_the_user_says_otherwise(tmp_path):
    say = "import os, fewbits; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run_apart(say, folder=tmp_path, ORT_DISABLE_TELEMETRY=None) == "1\n"
    (tmp_path / "own").mkdir()
    assert run_apart(say, folder=tmp_path / "own", ORT_DISABLE_TELEMETRY="0") == "0\n"


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_scratch_folders_are_private(tmp_path):
    with temporary_folder() as scratch, staged(tmp_path / "out") as stage:
        for folder in (scratch, stage):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_processes_do_not_import_from_the_current_folder(quantized_folder, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('code was run')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('code was run')")
    folder = tmp_path / "run"
    shutil.copytree(quantized_folder, folder)
    program = "import sys; sys.argv[0] = 'fewbits'; from fewbits.cli import main; main()"
    command = [sys.executable, "-P", "-c", program, "verify", str(folder)]  # -P: as the installed program begins
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "code was run" not in done.stdout + done.stderr


def test_a_settings_file_names_code_and_does_not_run_it_when_it_is_read(canary, tmp_path):
    from fewbits.cli.settings import open_settings

    (tmp_path / "data.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    (tmp_path / "fewbits.toml").write_text('[data]\ncalibration = "data.py:load"\n')
    settings = open_settings(tmp_path / "fewbits.toml")
    assert settings is not None
    given = settings.defaults("quantize", [])
    assert [one.value for one in given.values()] == [f"{tmp_path / 'data.py'}:load"]
    assert not canary.exists()
    with pytest.raises(FewbitsError, match="load"):  # what it names is run by the verb, on purpose
        open_data(f"{tmp_path / 'data.py'}:load", inputs=INPUTS)
    assert canary.exists()


def test_a_name_that_is_too_long_for_a_file_is_one_sentence(capsys):
    from typer.main import get_command

    from fewbits.cli.app import app

    with pytest.raises(SystemExit) as ended:
        get_command(app).main(["inspect", "x" * 5000])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("is too long for a file: check the path.\n")
