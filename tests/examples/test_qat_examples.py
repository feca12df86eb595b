"""The examples of examples/qat run as a reader runs them: in a process of their own, from the command line."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fewbits.artifact import names

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
has_images = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn for the training images"
)
WITHIN = 2.5
"""Points of top-1 that training may end below float: 1.6 are recorded in benchmarks/results, and runs differ by 0.5."""


@pytest.fixture
def images(tmp_path):
    """A few labelled images, for runs too short to learn: those that are scored, at a brightness of 0 to 1."""
    with np.load(EXAMPLES / "digits" / "eval.npz") as arrays:
        image, labels = arrays["image"][:200], arrays["labels"][:200]
    bright = image / np.maximum(image.max(axis=(1, 2, 3), keepdims=True), 1e-6)
    np.savez(tmp_path / "images.npz", image=bright, labels=labels)
    return tmp_path / "images.npz"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / "qat" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def figure(text: str, pattern: str) -> float:
    return float(re.search(pattern, text)[1])


def test_the_loop_trains_exports_scores_and_verifies(images, tmp_path):
    said = run("train_w4a4.py", "--epochs", 2, "--images", images, "--output", tmp_path / "out")
    assert figure(said, r"float ([\d.]+) %") == pytest.approx(95.17, abs=0.1)
    assert "verify in a fresh process: passed" in said
    assert "Qualcomm's emulator" in said
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        assert "pip install 'fewbits[qnn]'" in said
    else:
        # a ReLU6 before a grid of 4 bits has no form yet that the compiler takes
        assert "emulator (sm8650): passed" in said or "Qualcomm's compiler for sm8650 (HTP v75) does not take" in said
    assert (tmp_path / "out" / "trained" / names.ARTIFACT).is_file()
    assert (tmp_path / "out" / "float.pt").is_file()


def test_the_class_trains_and_goes_on_from_its_checkpoint(images, tmp_path):
    first = run("lightning_style.py", "--epochs", 1, "--images", images, "--output", tmp_path / "out")
    assert first.count("training loss") == 1
    again = run("lightning_style.py", "--epochs", 1, "--images", images, "--output", tmp_path / "out")
    assert "training loss" not in again
    scores = [figure(said, r"trained ([\d.]+) %") for said in (first, again)]
    assert scores[0] == scores[1]
    assert (tmp_path / "out" / "trained" / names.ARTIFACT).is_file()


@pytest.mark.slow
@has_images
def test_training_with_labels_comes_close_to_float(tmp_path):
    said = run("train_w4a4.py", "--output", tmp_path / "out")
    start, float_ = figure(said, r"without training ([\d.]+) %"), figure(said, r"float ([\d.]+) %")
    trained = figure(said, r"and trained ([\d.]+) %")
    assert start < 70
    assert trained >= float_ - WITHIN


@pytest.mark.slow
@has_images
def test_the_class_learns(tmp_path):
    said = run("lightning_style.py", "--epochs", 10, "--output", tmp_path / "out")
    assert figure(said, r"trained ([\d.]+) %") > 70
