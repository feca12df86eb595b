"""Runs of `fewbits amp` that are killed, find no room, or share a store with another: nothing is lost or done twice."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.read import read_any
from fewbits.runtime.store import STORE
from fewbits.workflow.verify import verify

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'fewbits'; from fewbits.cli import main; main()"]
METRIC = """
import os
from pathlib import Path
import numpy as np

def top1(predict):
    data = np.load({data!r})
    logits = predict({{"image": data["image"][:300]}})["logits"]
    with Path({log!r}).open("a") as log:
        log.write(f"{{os.getpid()}} {{float(logits.astype(np.float64).sum())!r}}\\n")
        log.flush()
        os.fsync(log.fileno())
    return 100 * float((logits.argmax(axis=1) == data["labels"][:300]).mean())
"""
KILLS = 20
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """A folder with a metric that counts how often it came to its end."""

    at: Path

    @property
    def output(self):
        return self.at / "run"

    @property
    def command(self):
        options = {
            "--data": DIGITS / "calib.npz", "--metric": f"{self.at / 'metric.py'}:top1", "--candidates": "w8a8,w8a16",
            "--max-drop": 0.5, "--samples": 64, "--ranking": "brute-force", "--rank-samples": 8, "--threads": 1,
            "-o": self.output,
        }  # fmt: skip
        words = ["amp", DIGITS / "digits.onnx", *(word for pair in options.items() for word in pair), "-q"]
        return [*PROGRAM, *map(str, words)]

    @property
    def finished(self):
        """What each finished scoring of the metric found."""
        log = self.at / "log"
        return [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []

    def start(self, **more):
        return subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def run(self, **more):
        return subprocess.run(self.command, capture_output=True, text=True, check=False, **more)

    def result(self):
        """Return record and files without what differs between any two runs."""
        text = (self.output / names.RECORD).read_text().replace(str(self.at), "AT")
        document = json.loads(text)
        files = {path: sha256(self.output / path) for path in (names.ARTIFACT, names.FLOAT, names.ENCODINGS)}
        return {k: v for k, v in document.items() if k not in ("created", "timings", "files")}, files

    def require_whole(self):
        """Whatever lies in the folder is one whole run: its record vouches for its files."""
        if not (self.output / names.RECORD).exists():
            return
        record = read_any(self.output / names.RECORD)
        assert isinstance(record, AmpRecord)
        chosen = record.point(record.chosen)
        document = json.loads((self.output / names.RECORD).read_text())
        for folder in (self.output, self.output / chosen.folder):
            for name, facts in document["files"].items():
                assert sha256(folder / name) == facts["sha256"], name
        for point in record.points:
            assert (point.folder is None) == (point.score is None)
            assert point.folder is None or (self.output / point.folder / names.RECORD).is_file()


def place_in(folder):
    folder.mkdir(parents=True)
    log, data = str(folder / "log"), str(DIGITS / "eval.npz")
    (folder / "metric.py").write_text(METRIC.format(log=log, data=data))
    return Place(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing happened to, and how long it took."""
    place = place_in(tmp_path_factory.mktemp("undisturbed") / "a")
    begin = time.monotonic()
    done = place.run()
    assert done.returncode == 0, done.stderr
    record = read_any(place.output / names.RECORD)
    assert record.is_finished
    assert len(place.finished) == record.evaluations + 1 > 5
    assert set(Counter(place.finished).values()) == {1}
    return place, time.monotonic() - begin


def require_same(place, undisturbed):
    other, files = undisturbed.result()
    assert place.result() == (other, files)
    found = Counter(place.finished)
    assert set(found) == set(undisturbed.finished)
    assert sum(count - 1 for count in found.values()) <= 1  # a kill between the end of a score and its storing


@pytest.mark.timeout(3600)
def test_twenty_kills_change_nothing_and_repeat_nothing(undisturbed, tmp_path):
    """What was done stays done, so that a run comes to its end between kills; then another one begins."""
    undisturbed, seconds = undisturbed
    rng, kills, ends = random.Random(20), 0, 0
    while kills < KILLS:
        place, is_open = place_in(tmp_path / f"{ends}"), True
        while is_open:
            process = place.start(start_new_session=True)
            try:
                _, said = process.communicate(timeout=rng.uniform(0.1, 0.8) * seconds if kills < KILLS else None)
                assert process.returncode == 0, said
                is_open = False
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                place.require_whole()
        ends += 1
        require_same(place, undisturbed)
        assert verify(place.output).passed
        assert not [path for path in place.output.iterdir() if path.name.startswith(f"{STORE}-")]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("room", [3000, 20000, 60000, 120000])
def test_a_process_that_may_write_no_large_file_ends_in_a_sentence(undisturbed, tmp_path, room):
    """The limit is met by the store or by the files, whichever grows beyond it first; without it, the run goes on."""
    undisturbed, _ = undisturbed
    place = place_in(tmp_path / "a")

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = place.run(preexec_fn=limited)
    if done.returncode != 0:
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Highs")]  # the solver's own
        assert line.startswith("error: ")
        assert line.endswith(".")
        assert str(place.output) in line
    else:
        assert room > 60000
    place.require_whole()
    done = place.run()
    assert done.returncode == 0, done.stderr
    # a score that found no room is found again; no other is
    again = Counter(place.finished)
    assert set(again) == set(undisturbed.finished)
    assert sum(count - 1 for count in again.values()) <= 1
    other, files = undisturbed.result()
    assert place.result() == (other, files)


@pytest.mark.timeout(1800)
def test_two_runs_in_one_folder_both_end_well(undisturbed, tmp_path):
    undisturbed, _ = undisturbed
    place = place_in(tmp_path / "a")
    processes = [place.start(), place.start()]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    place.require_whole()
    other, files = undisturbed.result()
    assert place.result() == (other, files)
    assert set(place.finished) == set(undisturbed.finished)
    assert (place.output / STORE).is_file()
    assert verify(place.output).passed
