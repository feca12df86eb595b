"""`qat` on the command line."""

import json

import pytest
from command_line import ok, refused

from fewbits.artifact import names

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
