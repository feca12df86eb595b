"""`fewbits init`: its questions, its answers from options, and the file that it writes."""

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import PROGRAM, ok, refused
from PIL import Image
from typer.testing import CliRunner

from fewbits.cli import app, init_questions
from fewbits.cli.init_text import settings_text
from fewbits.cli.settings import open_settings
from fewbits.cli.settings_keys import KEYS

FILE = Path("fewbits.toml")


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    for path in (tiny.model, tiny.calib, tiny.evaluation):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(*lines: str, options: tuple[str, ...] = ()):
    """Run `init` with these answers."""
    return CliRunner().invoke(app, ["init", *options], input="".join(f"{line}\n" for line in lines))


def written(path: Path = FILE) -> dict:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {section: keys for section, keys in table.items() if keys}


def images(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def test_empty_answers_take_what_is_proposed(folder):
    result = answer("", "calib.npz", "eval.npz", "", "", "", "")
    assert result.exit_code == 0, result.output
    assert written() == {
        "model": {"path": "tiny.onnx"},
        "data": {"calibration": "calib.npz", "evaluation": "eval.npz"},
        "metric": {"name": "top1"},
        "target": {"name": "qnn-htp-v73"},
        "goal": {"max-drop": "1%"},
        "run": {"output": "out"},
    }
    assert "inputs: image: float32 [N, 3, 8, 8]" in result.output
    assert "outputs: logits: float32 [N, 4]" in result.output
    assert "ort-cpu: ONNX Runtime on CPU" in result.output
    assert result.output.rstrip().endswith("the next command is\n  fewbits auto")


def test_the_file_is_enough_for_a_run(folder):
    answer("", "calib.npz", "eval.npz", "", "", "0.5", "made")
    assert "top1 on 40 samples" in ok("quantize", "--threads", 1).stdout
    assert written()["goal"] == {"max-drop": 0.5}
    assert (folder / "made" / "record.json").is_file()


def test_what_cannot_be_used_is_asked_again(folder):
    (folder / "bad.npz").write_bytes(b"no")
    lines = ("nope.onnx", "tiny.onnx", "nope.npz", "bad.npz", "calib.npz", "nope", "", "top1", "psnr", "sqnr",
             "nope", "ort-cpu", "x", "15", "eval.npz", "out2")  # fmt: skip
    result = answer(*lines)
    assert result.exit_code == 0, result.output
    for words in (
        "Model file 'nope.onnx' does not exist", "The data 'nope.npz' does not exist", "bad.npz", "The data 'nope'",
        "Metric 'top1' needs labels", "Metric 'psnr' needs labels", "Unknown target 'nope'", "'x' is no number",
        "'eval.npz' is a file",
    ):  # fmt: skip
        assert words in result.output
    assert written() == {
        "model": {"path": "tiny.onnx"},
        "data": {"calibration": "calib.npz"},
        "metric": {"name": "sqnr"},
        "target": {"name": "ort-cpu"},
        "goal": {"min-sqnr": 15},
        "run": {"output": "out2"},
    }


def test_images_bring_the_questions_of_preprocessing(folder):
    images(folder / "pictures")
    lines = ("", "pictures", "nope", "imagenet", "own", "8", "8", "0.5,x", "0.5,0.5,0.5", "0.2", "", "bgr", "",
             "", "", "", "", "")  # fmt: skip
    result = answer(*lines)
    assert result.exit_code == 0, result.output
    assert "There is no preprocessing preset 'nope'" in result.output
    assert "--mean '0.5,x' is not a list of numbers" in result.output
    assert written()["preprocess"] == {
        "resize": 8, "crop": 8, "mean": [0.5, 0.5, 0.5], "std": 0.2, "channel-order": "bgr",
    }  # fmt: skip
    assert written()["metric"] == {"name": "top1"}


def test_a_preset_is_kept_by_its_name_and_none_leaves_it_to_fewbits(folder):
    images(folder / "pictures")
    common = ("--yes", "--force", "--model", "tiny.onnx", "--data", "pictures")
    ok("init", *common, "--preset", "unit", "--resize", "8,8")
    assert written()["preprocess"] == {"preset": "unit", "resize": [8, 8]}
    ok("init", *common)
    assert "preprocess" not in written()
    assert "smaller than the crop" in refused("init", *common, "--crop", "64")


def test_a_metric_of_ones_own_has_its_direction_asked(folder):
    Path("score.py").write_text("def loss(predict):\n    return 1.0\n", encoding="utf-8")
    result = answer("", "calib.npz", "", "score.py:loss", "", "", "", "")
    assert result.exit_code == 0, result.output
    assert written()["metric"] == {"name": "score.py:loss", "higher-is-better": False}


def test_options_answer_questions(folder):
    options = ("--model", "tiny.onnx", "--data", "calib.npz", "--dim", "N=4", "--target", "ort-cpu", "-o", "o")
    result = answer("", "agreement", "2", options=options)
    assert result.exit_code == 0, result.output
    assert "Target" not in result.output
    assert written()["model"] == {"path": "tiny.onnx", "dim": {"N": 4}}
    assert written()["goal"] == {"max-drop": 2}


def test_yes_asks_nothing_and_writes_where_it_is_told(folder):
    result = ok("init", "sub/deep", "--yes", "--model", "tiny.onnx", "--data", "calib.npz", "--eval-data", "eval.npz")
    assert result.stdout.endswith("cd sub/deep && fewbits auto\n")
    path = Path("sub/deep/fewbits.toml")
    assert written(path)["model"] == {"path": "../../tiny.onnx"}
    assert written(path)["run"] == {"output": "out"}
    ok("--config", path, "quantize", "-q", "--threads", 1)
    assert (folder / "sub" / "deep" / "out" / "record.json").is_file()


def test_yes_refuses_what_is_missing_or_cannot_be(folder):
    assert "--yes asks nothing, so --model must be given" in refused("init", "--yes", "--data", "calib.npz")
    assert "--yes asks nothing, so --data must be given" in refused("init", "--yes", "--model", "tiny.onnx")
    enough = ("--yes", "--model", "tiny.onnx", "--data", "calib.npz")
    assert "Metric 'top1' needs labels" in refused("init", *enough, "--metric", "top1")
    assert "give --min-sqnr" in refused("init", *enough, "--metric", "sqnr", "--max-drop", "1")
    assert "give --max-drop" in refused("init", *enough, "--min-sqnr", "9")
    assert not FILE.exists()


def test_a_file_that_is_there_is_kept_unless_the_user_says_otherwise(folder):
    FILE.write_text("= whatever\n", encoding="utf-8")
    enough = ("--yes", "--model", "tiny.onnx", "--data", "calib.npz")
    assert "--force replaces it" in refused("init", *enough)
    assert answer("n").exit_code == 0
    assert answer("").exit_code == 0
    assert FILE.read_text(encoding="utf-8") == "= whatever\n"
    assert answer("y", "", "calib.npz", "", "", "", "", "").exit_code == 0
    assert written()["metric"] == {"name": "agreement"}
    FILE.write_text("= whatever\n", encoding="utf-8")
    ok("init", *enough, "--force")
    assert written()["model"] == {"path": "tiny.onnx"}


def test_a_folder_that_cannot_be_is_one_sentence(folder):
    enough = ("--yes", "--model", "tiny.onnx", "--data", "calib.npz")
    assert "Cannot make the folder" in refused("init", "calib.npz/x", *enough)


def test_input_that_ends_leaves_no_file(folder):
    result = answer("", "calib.npz")
    assert result.exit_code == 130
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .endswith("error: interrupted; nothing is half-written, and what was finished is kept.")
    )
    assert not FILE.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_a_question_leaves_no_file(folder):
    process = subprocess.Popen(
        [*PROGRAM, "init"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    )
    assert process.stdout.read(5) == b"Model"  # the question is there
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr
    assert not FILE.exists()


def test_every_key_has_its_line_in_the_file_and_a_comment_before_it():
    text = settings_text({"data.samples": 7})
    for key in KEYS:
        assert f"\n{key.name} = 7\n" in text if key.where == "data.samples" else f"\n# {key.name} = " in text
    with pytest.raises(KeyError, match=r"data\.nonsense"):
        settings_text({"data.nonsense": 1})


def test_the_commented_examples_are_settings_when_uncommented(tmp_path):
    lines = settings_text({}).splitlines()
    names = {f"# {key.name} = " for key in KEYS}
    live = [line[2:] if any(line.startswith(name) for name in names) else line for line in lines]
    (tmp_path / "s.toml").write_text("\n".join(live), encoding="utf-8")
    settings = open_settings(tmp_path / "s.toml")
    assert settings is not None
    assert sum(map(len, settings.values.values())) == len(KEYS)


@pytest.mark.parametrize(
    ("text", "value"),
    [("224", 224), ("0.5,0.4", [0.5, 0.4]), ("8, 9", [8, 9]), ("bgr", "bgr"), ("1%", "1%"), (0.25, 0.25)],
)
def test_listed_numbers_become_numbers(text, value):
    assert init_questions.listed(text) == value
