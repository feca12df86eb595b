"""`--memory`: verbs in processes of their own, below ceilings that bite: what they take, and equal results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.artifact import names

sys.path.append(str(Path(__file__).parents[1] / "improvement"))
from network_data import network_data

from networks import ASSETS

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell memory")

CHILD = """
import sys
from fewbits.cli.app import app
from fewbits.runtime.memory import peak_mb
try:
    app(sys.argv[1:])
finally:
    print(f"PEAK {peak_mb()}", flush=True)
"""
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
wide (float[N, 3, 96, 96] image) => (float[N, 10] logits)
{
  a = Conv <pads = [1, 1, 1, 1]> (image, w1)
  r = Relu (a)
  b = Conv <pads = [1, 1, 1, 1]> (r, w2)
  s = Add (b, r)
  t = Relu (s)
  c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (t, w3)
  u = Relu (c)
  g = GlobalAveragePool (u)
  f = Flatten (g)
  logits = Gemm <transB = 1> (f, w4)
}
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> tuple[Path, Path]:
    """Return a network whose activations are much larger than its weights, and samples."""
    folder, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(3)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in {"w1": (24, 3, 3, 3), "w2": (24, 24, 3, 3), "w3": (24, 24, 3, 3), "w4": (10, 24)}.items():
        array = (rng.standard_normal(shape) * 0.2).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "wide.onnx")
    np.savez(folder / "data.npz", image=rng.standard_normal((48, 3, 96, 96)).astype(np.float32))
    return folder / "wide.onnx", folder / "data.npz"


def child(*words: object) -> tuple[int, float, str]:
    """Return exit code, peak in MB and what a verb wrote to stderr."""
    command = [sys.executable, "-c", CHILD, *map(str, words), "--threads", "1", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    peak = re.search(r"PEAK ([\d.]+)", done.stdout)
    assert peak is not None, done.stderr
    return done.returncode, float(peak[1]), done.stderr


def held(tmp_path: Path, *words: object) -> tuple[Path, Path]:
    """Run a verb freely and below a ceiling that bites; return both folders."""
    code, free_mb, error = child(*words, "-o", tmp_path / "free")
    assert code == 0, error
    code, _, error = child(*words, "-o", tmp_path / "refused", "--memory", "1MB")
    assert code != 0
    assert not (tmp_path / "refused").exists()
    told = re.search(r"expected to take (\d+) MB at least, one sample at a time, and --memory allows 1 MB", error)
    assert told is not None, error
    ceiling = (free_mb + float(told[1])) / 2
    assert ceiling < free_mb, "the ceiling does not bite"
    code, held_mb, error = child(*words, "-o", tmp_path / "held", "--memory", f"{ceiling:.0f}MB")
    assert code == 0, error
    assert held_mb <= ceiling < free_mb
    return tmp_path / "free", tmp_path / "held"


def assert_equal_files(left: Path, right: Path) -> None:
    files = [p.relative_to(left) for p in left.rglob("*") if p.suffix == ".onnx" or p.name == names.ENCODINGS]
    assert files
    for file in files:
        assert (left / file).read_bytes() == (right / file).read_bytes(), file


def assert_close_figures(left: Path, right: Path, most: float) -> None:
    """Figures of sensitivity are equal but for a share of `most`; facts of tensors but for their last digits."""
    one, other = (json.loads((folder / names.RECORD).read_text()) for folder in (left, right))
    assert one["groups"]
    for mine, yours in zip(one["groups"], other["groups"], strict=True):
        for precision, parts in mine["figures"].items():
            for part, figure in parts.items():
                assert yours["figures"][precision][part]["error"] == pytest.approx(figure["error"], rel=most, abs=0)
    for mine, yours in zip(one["tensors"], other["tensors"], strict=True):
        for key in ("low", "high", "scale", "error_db"):
            if mine[key] is None:
                assert yours[key] is None
            else:
                assert yours[key] == pytest.approx(mine[key], rel=1e-4)


def test_quantize_holds_its_ceiling_with_the_same_bits(wide, tmp_path):
    model, data = wide
    assert_equal_files(*held(tmp_path, "quantize", model, "--data", data))


def test_analyze_holds_its_ceiling_with_the_same_figures(wide, tmp_path):
    pytest.importorskip("torch")
    model, data = wide
    own = ("--precisions", "w8a8,w8a16", "--batch-size", 8, "--probes", 8)
    free, below = held(tmp_path, "analyze", model, "--data", data, *own)
    assert_close_figures(free, below, most=0.0)


@pytest.mark.slow  # the ceiling lies 4 % above what it takes, and another processor may take some MB more
@pytest.mark.parametrize("methods", ["gptq", "balance,gptq"])
def test_improve_holds_its_ceiling_with_the_same_bits(methods, wide, tmp_path):
    pytest.importorskip("torch")
    model, data = wide
    words = ("improve", model, "--data", data, "--method", methods, "--precision", "w4a8", "--batch-size", 8)
    assert_equal_files(*held(tmp_path, *words))


@pytest.mark.slow
def test_adaround_holds_its_ceiling_with_the_same_bits(wide, tmp_path):
    pytest.importorskip("torch")
    model, data = wide
    words = ("adaround", model, "--data", data, "--method", "adaround", "--precision", "w4a8", "--batch-size", 8)
    assert_equal_files(*held(tmp_path, *words, "--iterations", 20))


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("network", ["cifar10_resnet56", "mobilenetv2_1.0_imagenet"])
@pytest.mark.parametrize("verb", ["baseline", "analyze", "improve"])
def test_real_networks_hold_their_ceilings(network, verb, tmp_path):
    pytest.importorskip("torch")
    model = ASSETS / "models" / f"{network}.onnx"
    if not model.exists():
        pytest.skip(f"{model} is missing: set FEWBITS_ASSETS to the folder of development networks")
    np.savez(tmp_path / "data.npz", **network_data(network, 64))
    own = {
        "baseline": ("--precisions", "w8a8,w8a16"),
        "analyze": ("--precisions", "w8a8,w8a16"),
        "improve": ("--method", "gptq", "--precision", "w4a8"),
    }[verb]
    free, below = held(tmp_path, verb, model, "--data", tmp_path / "data.npz", *own)
    if verb != "analyze":
        assert_equal_files(free, below)
        return
    assert_close_figures(free, below, most=1e-5)  # a batch of ResNet-56 may not fit as a whole
