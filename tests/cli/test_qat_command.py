"""`qat` on the command line."""

import json
import subprocess
import sys

import pytest
from command_line import ok, refused

from fewbits.artifact import names
from fewbits.training.schedule import CHECKPOINT

pytest.importorskip("torch")


def arguments(tiny, output, *more):
    return (
        "qat",
        tiny.model,
        "--data",
        tiny.calib,
        "--eval-data",
        tiny.evaluation,
        "-o",
        output,
        "--threads",
        1,
        *more,
    )


def test_qat_trains_and_says_how(tiny, tmp_path):
    out = tmp_path / "out"
    more = ("-p", "w4a4", "--method", "qat", "--steps", 30, "--rate", 0.01, "--train-batch", 8, "--json")
    result = ok(*arguments(tiny, out, *more))
    document = json.loads(result.stdout)
    (row,) = document["improvement"]["methods"]
    assert (document["verb"], row["name"]) == ("qat", "qat")
    before, after = row["objective"]
    assert after < before
    assert any(note.startswith("qat: Training took") and "at a rate of 0.01" in note for note in document["notes"])
    assert (out / names.REFERENCE).is_file()
    record = json.loads((out / names.RECORD).read_text())
    assert len(document["pinned"]) == len(record["pinned"]) > 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "gptq"), "No method that trains was named: end --method with qat"),
        (("--method", "qat,gptq"), "gptq would undo qat: name qat last"),
        (("--rate", 3), "The learning rate is a share above 0 and at most 1, not 3.0"),
        (("--minutes", 0), "positive number of minutes"),
        (("--memory", "much"), "--memory 'much' is no size"),
        (("--device", "gpu"), "'gpu' is no device: write cpu or cuda"),
        (("-p", "fp16"), "There is nothing to round in fp16"),
    ],
)
def test_what_cannot_be_is_one_sentence(tiny, tmp_path, more, said):
    assert said in refused(*arguments(tiny, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


KILLED = """
import os, sys
from fewbits.training import torch_loop
take, steps = torch_loop.take_step, []
def count(*args):
    steps.append(1)
    if len(steps) == 25:
        os.kill(os.getpid(), 9)
    take(*args)
torch_loop.take_step = count
from fewbits.cli.app import main
sys.argv[0] = "fewbits"
main()
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tiny, tmp_path):
    more = ("-p", "w4a4", "--method", "qat", "--steps", 40, "--rate", 0.01, "--train-batch", 8, "--quiet")
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, "-c", KILLED, *map(str, arguments(tiny, killed, *more))]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert (killed / CHECKPOINT).is_file()
    assert not (killed / names.ARTIFACT).exists()
    for output in (killed, straight):
        ok(*arguments(tiny, output, *more))
        assert not (output / CHECKPOINT).exists()
    assert (killed / names.ARTIFACT).read_bytes() == (straight / names.ARTIFACT).read_bytes()


def test_labels_are_used_where_they_are_asked_for(tiny, tmp_path):
    more = ("-p", "w4a4", "--method", "qat", "--steps", 20, "--rate", 0.01, "--train-batch", 8, "--labels")
    line = list(arguments(tiny, tmp_path / "out", *more, "--json"))
    assert "have no labels to train with: leave out --labels" in refused(*line[:-1])
    line[line.index("--data") + 1] = tiny.evaluation
    notes = json.loads(ok(*line).stdout)["notes"]
    assert any("cross-entropy of labels" in note for note in notes)


def test_a_window_that_the_model_has_no_axis_for_is_refused(tiny, tmp_path):
    said = refused(*arguments(tiny, tmp_path / "out", "--method", "qat", "--window", 4))
    assert "--window 4 needs inputs with open axes" in said
