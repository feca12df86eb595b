"""What users get wrong, and what the command line says: exit code 2, one sentence that names the thing and the way out.

Each row of the tables is one mistake: a function that makes it in a folder and returns the arguments, and the words
that the sentence must hold. What goes wrong with the output, and Ctrl-C: `test_bad_output.py`.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from command_line import PROGRAM, ok, refused, words
from PIL import Image

from fewbits.artifact import names

Tiny = Any  # the fixture's value: paths of a model and its data
Mistake = Callable[[Tiny, Path], list[Any]]
# models


def broken_model(data: Callable[[bytes], bytes]) -> Mistake:
    def make(tiny: Tiny, at: Path) -> list[Any]:
        (at / "bad.onnx").write_bytes(data(tiny.model.read_bytes()))
        return [at / "bad.onnx", "--data", tiny.calib]

    return make


def model_is_a_folder(tiny: Tiny, at: Path) -> list[Any]:
    (at / "models").mkdir()
    return [at / "models", "--data", tiny.calib]


def model_in_parts(tiny: Tiny, at: Path) -> Path:
    """Write the model with its weights in a file beside it; return that file."""
    model = onnx.load(tiny.model)
    onnx.save(model, at / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return at / "m.data"


def external_data_missing(tiny: Tiny, at: Path) -> list[Any]:
    model_in_parts(tiny, at).unlink()
    return [at / "m.onnx", "--data", tiny.calib]


def external_data_cut(tiny: Tiny, at: Path) -> list[Any]:
    data = model_in_parts(tiny, at)
    data.write_bytes(data.read_bytes()[:-8])
    return [at / "m.onnx", "--data", tiny.calib]


def unknown_domain(tiny: Tiny, at: Path) -> list[Any]:
    text = '<ir_version: 10, opset_import: ["": 21, "my.ops": 1]> g (float[N, 2] image) => (float[N, 2] y) '
    onnx.save(onnx.parser.parse_model(text + "{ y = my.ops.Swirl (image) }"), at / "m.onnx")
    return [at / "m.onnx", "--data", tiny.calib]


def weight_of(value: float) -> Mistake:
    def make(tiny: Tiny, at: Path) -> list[Any]:
        model = onnx.load(tiny.model)
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
        weight = onnx.numpy_helper.to_array(stored).copy()
        weight[1, 2] = value
        stored.CopyFrom(onnx.numpy_helper.from_array(weight, "w2"))
        onnx.save(model, at / "m.onnx")
        return [at / "m.onnx", "--data", tiny.calib]

    return make


def sequence_input(tiny: Tiny, at: Path) -> list[Any]:
    text = '<ir_version: 10, opset_import: ["": 21]> g (seq(float[N]) s) => (int64 n) { n = SequenceLength (s) }'
    onnx.save(onnx.parser.parse_model(text), at / "m.onnx")
    return [at / "m.onnx", "--data", tiny.calib]


MODELS = {
    "missing": (lambda tiny, at: [at / "none.onnx", "--data", tiny.calib], ["none.onnx' does not exist", "path"]),
    "not ONNX": (broken_model(lambda _: b"<html>404</html>"), ["bad.onnx' is not an ONNX file", "download it again"]),
    "cut short": (broken_model(lambda data: data[:-500]), ["bad.onnx' is not an ONNX file, or it is cut short"]),
    "empty": (broken_model(lambda _: b""), ["bad.onnx'", "is empty", "export or download it again"]),
    "folder": (model_is_a_folder, ["models' holds no model.float.onnx", "name an .onnx file"]),
    "no external data": (external_data_missing, ["m.data", "not beside it", "copy that file there"]),
    "external data cut": (external_data_cut, ["m.data", "cut short", "download or export it again"]),
    "unknown domain": (unknown_domain, ["my.ops:Swirl", "not a registered function/op", "runs only what onnxruntime"]),
    "NaN weight": (weight_of(np.nan), ["'w2'", "'conv2'", "holds NaN", "export the model again"]),
    "infinite weight": (weight_of(np.inf), ["'w2'", "'conv2'", "holds an infinity", "export the model again"]),
    "sequence input": (sequence_input, ["input 's'", "seq(tensor(float))", "Export the model"]),
}


@pytest.mark.parametrize("mistake", MODELS)
def test_bad_model(tiny, tmp_path, mistake):
    make, said = MODELS[mistake]
    line = refused("quantize", *make(tiny, tmp_path), "-o", tmp_path / "out")
    assert not [word for word in said if word not in line], line
    assert not (tmp_path / "out").exists()


# data


def stored(**arrays: Any) -> Mistake:
    def make(_: Tiny, at: Path) -> list[Any]:
        np.savez(at / "d.npz", **arrays)
        return ["--data", at / "d.npz"]

    return make


def images(**values: float) -> np.ndarray:
    data = np.zeros((6, 3, 8, 8), np.float32)
    for place, value in values.items():
        data[int(place[1:]), 0, 0, 0] = value
    return data


def written(name: str, data: bytes) -> Mistake:
    def make(_: Tiny, at: Path) -> list[Any]:
        (at / name).write_bytes(data)
        return ["--data", at / name]

    return make


def empty_folder(_: Tiny, at: Path) -> list[Any]:
    (at / "images").mkdir()
    return ["--data", at / "images"]


def image_folder(at: Path) -> Path:
    folder = at / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def corrupt_image(_: Tiny, at: Path) -> list[Any]:
    folder = image_folder(at)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    return ["--data", folder, "--preset", "unit"]


def label_without_image(_: Tiny, at: Path) -> list[Any]:
    folder = image_folder(at)
    (folder / "labels.csv").write_text("file,label\n0.png,1\nzero.png,2\n")
    return ["--data", folder, "--preset", "unit"]


def failing_loader(_: Tiny, at: Path) -> list[Any]:
    (at / "load.py").write_text("def feeds():\n    yield {'image': open('no-such-file').read()}\n")
    return ["--data", f"{at / 'load.py'}:feeds"]


def array_file(_: Tiny, at: Path) -> list[Any]:
    np.save(at / "d.npy", np.array([object()]), allow_pickle=True)
    return ["--data", at / "d.npy"]


DATA = {
    "missing": (lambda tiny, at: ["--data", at / "none.npz"], ["none.npz' does not exist", "give an image folder"]),
    "unknown kind": (written("d.parquet", b"PAR1"), ["d.parquet' is of no known kind", "give an image folder"]),
    "not npz": (written("d.npz", b"nothing"), ["d.npz", "save it again"]),
    "pickled": (array_file, ["d.npy", "never unpickles", "save arrays of numbers"]),
    "wrong name": (stored(pixels=images()), ["'pixels', which the model does not take", "'image'", "rename the array"]),
    "wrong rank": (stored(image=np.zeros((4, 8), np.float32)), ["'image'", "[4, 8]", "reshape it"]),
    "wrong shape": (stored(image=np.zeros((4, 3, 8, 9), np.float32)), ["[4, 3, 8, 9]", "reshape or resize it"]),
    "text": (stored(image=np.full((2, 3, 8, 8), "a")), ["takes float32", "text and numbers do not convert"]),
    "complex": (
        stored(image=images().astype(np.complex64)),
        ["takes float32", "only real numbers convert"],
    ),
    "NaN": (stored(image=images(_4=np.nan)), ["'image' of sample 4", "holds nan", "Mend or remove that sample"]),
    "Inf": (stored(image=images(_2=np.inf)), ["'image' of sample 2", "holds inf", "Mend or remove that sample"]),
    "no samples": (stored(image=np.zeros((0, 3, 8, 8), np.float32)), ["d.npz", "holds no samples", "at least one"]),
    "empty folder": (empty_folder, ["images' holds no images", "give an image folder"]),
    "corrupt image": (corrupt_image, ["1.png", "cannot be read"]),
    "label of no image": (label_without_image, ["labels.csv", "zero.png"]),
    "failing loader": (failing_loader, ["load.py:2", "FileNotFoundError", "Mend it there"]),
    "labels too few": (stored(image=images(), labels=np.zeros(5, int)), ["5 labels for 6 samples", "one label per"]),
}


@pytest.mark.parametrize("mistake", DATA)
def test_bad_data(tiny, tmp_path, mistake):
    make, said = DATA[mistake]
    line = refused("quantize", tiny.model, *make(tiny, tmp_path), "-o", tmp_path / "out")
    assert not [word for word in said if word not in line], line
    assert not (tmp_path / "out").exists()


def test_labels_of_the_wrong_kind_are_refused(tiny, tmp_path):
    np.savez(tmp_path / "e.npz", image=images(), labels=np.full(6, 9))
    command = ("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out", "--metric", "top1", "--eval-data")
    line = refused(*command, tmp_path / "e.npz")
    assert "the label 9 is no class, they are 0 to 3: check the labels" in line
    np.savez(tmp_path / "f.npz", image=images(), labels=np.full(6, np.nan))
    assert "labels" in refused(*command, tmp_path / "f.npz")
    np.savez(tmp_path / "g.npz", image=images(), labels=np.full(6, "cat"))
    assert "labels" in refused(*command, tmp_path / "g.npz")


# metrics

METRIC_FILE = """
def fails(predict):
    return {}["top1"]

def none(predict):
    return None

def nan(predict):
    return float("nan")

def text(predict):
    return "97 %"

def greedy(predict, data):
    return 1.0

def wrong_input(predict):
    return float(predict({"pixels": [[1.0]]})["logits"][0])

number = 3
"""

METRICS = {
    "raises": ("m.py:fails", ["m.py:3", "KeyError: 'top1'", "Mend it there"]),
    "None": ("m.py:none", ["m.py:none'", "m.py:5", "returned None", "must return a number"]),
    "NaN": ("m.py:nan", ["m.py:nan'", "m.py:8", "returned nan", "must return a number"]),
    "string": ("m.py:text", ["m.py:text'", "returned '97 %'", "must return a number"]),
    "two arguments": ("m.py:greedy", ["must take predict alone", "'data'"]),
    "wrong input": ("m.py:wrong_input", ["pixels"]),
    "no function": ("m.py:number", ["no function under the name 'number'", "fails"]),
    "unknown function": ("m.py:accuracy", ["has no function 'accuracy'", "it has fails"]),
    "missing file": ("none.py:f", ["none.py', which does not exist", "check the path"]),
    "unknown": ("top3", ["no metric 'top3'", "choose one of top1"]),
    "no output": ("sqnr@scores", ["'scores'", "logits"]),
}


@pytest.mark.parametrize("mistake", METRICS)
def test_bad_metric(tiny, tmp_path, monkeypatch, mistake):
    metric, said = METRICS[mistake]
    (tmp_path / "m.py").write_text(METRIC_FILE)
    monkeypatch.chdir(tmp_path)
    line = refused("quantize", tiny.model, "--data", tiny.calib, "--metric", metric, "-o", "out")
    assert not [word for word in said if word not in line], line
    assert not (tmp_path / "out").exists()


def test_metric_without_labels_is_refused(tiny, tmp_path):
    line = refused("quantize", tiny.model, "--data", tiny.calib, "--metric", "top1", "-o", tmp_path / "out")
    assert "'top1' needs labels" in line
    assert "calib.npz" in line


# options

OPTIONS = {
    "precision": (["--precision", "w9a9"], ["Unknown precision 'w9a9'", "w8a8"]),
    "target": (["--target", "qnn-htp-v7"], ["Unknown target 'qnn-htp-v7'", "qnn-htp-v73"]),
    "target file": (["--target", "my.toml"], ["my.toml", "does not exist"]),
    "option": (["--precison", "w8a8"], ["No such option: --precison", "--precision"]),
    "value": (["--samples", "many"], ["--samples", "valid integer", "--help"]),
    "ranges": (["--ranges", "most"], ["Unknown range estimator 'most'", "minmax"]),
    "profile": (["--profile", "none.json"], ["none.json", "does not exist"]),
    "broken profile": (["--profile", "broken.json"], ["broken.json", "cannot be read"]),
    "encodings": (["--encodings", "none.json"], ["none.json", "does not exist"]),
    "broken encodings": (["--encodings", "broken.json"], ["broken.json"]),
    "metric and direction": (
        ["--metric", "mse", "--higher-is-better"],
        ["better when lower", "leave its direction out"],
    ),
    "no dimension": (["--dim", "N"], ["--dim 'N' is not NAME=SIZE", "batch=1"]),
    "unknown dimension": (["--dim", "M=1"], ["no open dimension 'M'", "it has N"]),
    "no samples": (["--samples", "0"], ["--samples", "--help"]),
    "no batch": (["--batch-size", "0"], ["--batch-size", "--help"]),
    "provider": (["--provider", "tpu"], ["no provider 'tpu'", "it has", "cpu"]),
    "preset": (["--preset", "imagenett"], ["no preprocessing preset", "imagenet"]),
    "preset of arrays": (["--preset", "unit"], ["no image folder", "leave its options out"]),
    "numbers": (["--mean", "a"], ["--mean 'a' is not a list of numbers", "--mean 224"]),
    "evaluation data": (["--eval-data", "none.npz"], ["none.npz' does not exist"]),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_bad_option(tiny, tmp_path, monkeypatch, mistake):
    options, said = OPTIONS[mistake]
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    line = refused("quantize", tiny.model, "--data", tiny.calib, "-o", "out", *options)
    assert not [word for word in said if word not in line], line
    assert not Path("out").exists()


def test_other_commands_refuse_in_one_sentence(tiny, tmp_path):
    assert "'none.onnx' does not exist" in refused("inspect", "none.onnx")
    assert "Missing option" in refused("quantize", tiny.model)
    assert "no record.json" in refused("verify", tmp_path)
    assert "Cannot verify on 'phone'" in refused("verify", tmp_path, "--on", "phone")
    assert "No such command" in refused("qantize")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert "not an ONNX" in refused("prepare", tmp_path / "bad.onnx", "-o", tmp_path / "p.onnx")


# an earlier run's folder


@pytest.fixture
def pinned_folder(tiny, tmp_path):
    """The output folder of a run whose grids were given: the next run keeps them."""
    ok("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "first", "-q")
    encodings = tmp_path / "first" / names.ENCODINGS
    ok("quantize", tiny.model, "--data", tiny.calib, "--encodings", encodings, "-o", tmp_path / "pinned", "-q")
    assert json.loads((tmp_path / "pinned" / names.RECORD).read_text())["pinned"]
    return tmp_path / "pinned"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (names.FLOAT, ["holds no model.float.onnx", "output folder of an earlier run"]),
        (names.ENCODINGS, ["model.encodings.json", "does not exist"]),
    ],
)
def test_pinned_folder_without_a_file(tiny, tmp_path, pinned_folder, name, said):
    (pinned_folder / name).unlink()
    line = refused("quantize", pinned_folder, "--data", tiny.calib, "-o", tmp_path / "again")
    assert not [word for word in said if word not in line], line
    assert not (tmp_path / "again").exists()


def test_folder_with_damaged_files(tiny, tmp_path, pinned_folder):
    (pinned_folder / names.RECORD).write_text("{")
    for command in (("quantize", pinned_folder, "--data", tiny.calib, "-o", tmp_path / "x"), ("verify", pinned_folder)):
        line = refused(*command)
        assert "record.json' cannot be read" in line
    (pinned_folder / names.ARTIFACT).unlink()
    line = refused("evaluate", pinned_folder, "--data", tiny.calib)
    assert "model.qdq.onnx' does not exist" in line


def test_some_mistakes_in_processes_of_their_own(tiny, tmp_path):
    """As a user sees them: no traceback, whatever a terminal or a library adds."""
    (tmp_path / "bad.onnx").write_bytes(b"x" * 100)
    (tmp_path / "m.py").write_text(METRIC_FILE)
    for arguments, said in (
        (["inspect", tmp_path / "bad.onnx"], "is not an ONNX file"),
        (["quantize", tiny.model, "--data", tmp_path / "none", "-o", tmp_path / "out"], "does not exist"),
        (["evaluate", tiny.model, "--data", tiny.calib, "--metric", f"{tmp_path / 'm.py'}:fails"], "KeyError"),
        (["quantize"], "Missing argument"),
    ):
        done = subprocess.run(words(*PROGRAM, *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
