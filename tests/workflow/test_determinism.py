"""The same inputs give the same bytes, whatever the process, the folder, the names of files, the hour, the workers."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fewbits.artifact import names
from fewbits.runtime.session import RunOptions
from fewbits.workflow.quantize import quantize

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'fewbits'; from fewbits.cli import main; main()"]
DATA = ("calib.npz", "eval.npz")
VERBS = {
    "quantize": ["--precision", "w8a8"],
    "baseline": ["--precisions", "w8a8,w4a8,fp16"],
    "litemp": ["--base", "w4a8", "--high", "w8a16", "--percent", "10,20"],
    "amp": ["--candidates", "w8a8,w4a8,w8a16", "--max-evaluations", "4"],
    "improve": ["--precision", "w4a8", "--method", "cle,gptq"],
    "adaround": ["--precision", "w4a8", "--iterations", "20"],
    "qat": ["--precision", "w4a4", "--steps", "3"],
}
TORCH = ("improve", "adaround", "qat")
"""What learns: its sums, and so its bytes, differ with the number of threads, which the record holds."""
ABOUT_THE_RUN = (names.RECORD, names.REPORT, "store.sqlite", "store.sqlite-wal", "store.sqlite-shm")
"""Files that say when, where and how long; all others are the result."""
MAY_DIFFER = re.compile(
    r"created|timings\..*|.*\.seconds|options\.(model|data|eval_data|output|workers\.count|run_options\.threads)|"
    r"model\.source|data\.\w+\.name|.*next_steps\.\d+\.1"
)
"""Fields of a record that say when, where and how long: times, paths as given, and commands that hold them."""


@dataclass(frozen=True)
class Place:
    """Where and how a command runs."""

    folder: Path
    model: str = "digits.onnx"
    seed: str = "0"
    threads: int = 1
    workers: int = 1

    def run(self, verb: str) -> Path:
        """Run a verb in a process of its own and return its output folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(DIGITS / "digits.onnx", self.folder / self.model)
        for name in DATA:
            shutil.copy(DIGITS / name, self.folder / name)
        output = self.folder / ("of " + verb)
        command = [
            *PROGRAM, verb, self.folder / self.model, "--data", self.folder / DATA[0], "--eval-data", DATA[1],
            "--samples", 64, "--eval-samples", 64, "--threads", self.threads, "--quiet", "-o", output, *VERBS[verb],
            *(["--workers", self.workers] if self.workers > 1 else []),
        ]  # fmt: skip
        variables = {**os.environ, "PYTHONHASHSEED": self.seed, "OMP_NUM_THREADS": str(self.threads)}
        subprocess.run(list(map(str, command)), cwd=self.folder, env=variables, check=True, timeout=500)
        return output


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def fields(value, name=""):
    """Yield every field of a record as (path, value)."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield name[1:], value
    else:
        for key, item in pairs:
            yield from fields(item, f"{name}.{key}")


def unlike(one: Path, two: Path) -> list[str]:
    """Return the files, and the fields of records, that differ and should not."""
    left, right = files(one), files(two)
    results = [{name for name in found if Path(name).name not in ABOUT_THE_RUN} for found in (left, right)]
    found = sorted(results[0] ^ results[1])
    found += [name for name in sorted(results[0] & results[1]) if left[name].read_bytes() != right[name].read_bytes()]
    for name in left:
        if Path(name).name == names.RECORD:
            first, second = (dict(fields(json.loads(found[name].read_text()))) for found in (left, right))
            keys = [key for key in first | second if first.get(key) != second.get(key)]
            found += [f"{name}: {key}" for key in keys if not MAY_DIFFER.fullmatch(key)]
    return found


def traces(folder: Path, *words: str) -> list[str]:
    """Return which results hold one of the words, or the date of the run."""
    dates = {
        json.loads(path.read_text())["created"][:10] for n, path in files(folder).items() if n.endswith("record.json")
    }
    known = [
        word for word in (*words, socket.gethostname(), getpass.getuser()) if len(word) > 4
    ]  # less occurs by chance
    results = {name: path.read_bytes() for name, path in files(folder).items() if Path(name).name not in ABOUT_THE_RUN}
    return [f"{word} in {name}" for name, data in results.items() for word in (*known, *dates) if word.encode() in data]


def test_quantize_twice_gives_the_same_bytes_wherever_and_under_whatever_name(tmp_path):
    here = Place(tmp_path / "here").run("quantize")
    there = Place(tmp_path / "some where" / "else", "ein Mödell.onnx", seed="12345", threads=2).run("quantize")
    assert (here / names.ARTIFACT).is_file()
    assert unlike(here, there) == []
    assert traces(there, str(tmp_path), "some where", "dell.onnx", str(DIGITS)) == []


def test_a_difference_would_be_found(tmp_path):
    """What the other tests compare by: another precision, and a path in a file, do not go unnoticed."""
    options = {"data": DIGITS / DATA[0], "samples": 16, "ranges": "minmax", "run_options": RunOptions(threads=1)}
    folders = []
    for precision in ("w8a8", "w8a8", "w4a8"):
        folders.append(tmp_path / str(len(folders)))
        quantize(DIGITS / "digits.onnx", precision=precision, output=folders[-1], **options)
    assert unlike(*folders[:2]) == []
    found = unlike(*folders[1:])
    assert {names.ARTIFACT, names.ENCODINGS, names.SAMPLES, "record.json: options.precision"} <= set(found)
    assert traces(folders[0], str(tmp_path)) == []
    (folders[0] / names.COMMANDS).write_text(f"--input_network {folders[0]}")
    assert traces(folders[0], str(tmp_path)) == [f"{tmp_path} in {names.COMMANDS}"]


def test_batch_size_and_memory_layout_of_the_data_do_not_matter(tmp_path):
    images = np.load(DIGITS / DATA[0])["image"][:32]
    options = {"samples": 32, "ranges": "minmax", "run_options": RunOptions(threads=1)}
    made = [
        quantize(DIGITS / "digits.onnx", data=data, batch_size=size, **options).quantized.to_bytes()
        for data, size in (({"image": images}, 8), ({"image": images}, 5), ({"image": np.asfortranarray(images)}, 8))
    ]
    assert made[0] == made[1] == made[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_gives_the_same_bytes_in_another_process_folder_and_hour(verb, tmp_path):
    workers = 3 if verb == "amp" else 1
    here = Place(tmp_path / "here").run(verb)
    there = Place(tmp_path / "some where" / "else", "ein Mödell.onnx", seed="12345", workers=workers).run(verb)
    assert len([name for name in files(here) if name.endswith(names.ARTIFACT)]) >= 1
    assert unlike(here, there) == []
    assert traces(there, str(tmp_path), "some where", "dell.onnx", str(DIGITS)) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", VERBS)
def test_threads_change_nothing_but_what_is_learned(verb, tmp_path):
    two = Place(tmp_path / "two", threads=2).run(verb)
    other = Place(tmp_path / "other", seed="7", threads=2 if verb in TORCH else 1).run(verb)
    assert unlike(two, other) == []
