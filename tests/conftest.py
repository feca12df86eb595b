from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
tiny (float[N, 3, 8, 8] image) => (float[N, 4] logits)
{
  a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
  r = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
  s = Add (c, r)
  e = Erf (s)
  m = Mul (s, e)
  g = GlobalAveragePool (m)
  f = Flatten (g)
  logits = Gemm <transB = 1> (f, w3, b3)
}
"""
NODES = ("conv1", "relu", "conv2", "add", "erf", "mul", "pool", "flatten", "head")


@dataclass(frozen=True)
class Tiny:
    model: Path
    calib: Path
    evaluation: Path


def tiny_model() -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (4, 8), "b3": (4,)}
    model = onnx.parser.parse_model(TEXT)
    for node, name in zip(model.graph.node, NODES, strict=True):
        node.name = name
    for name, shape in shapes.items():
        array = (rng.standard_normal(shape) * 0.4).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model


def write_tiny(folder: Path) -> Tiny:
    from fewbits.runtime.session import open_session

    model = tiny_model()
    onnx.save(model, folder / "tiny.onnx")
    rng = np.random.default_rng(8)
    np.savez(folder / "calib.npz", image=rng.standard_normal((24, 3, 8, 8)).astype(np.float32))
    images = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    logits = open_session(model.SerializeToString())({"image": images})["logits"]
    np.savez(folder / "eval.npz", image=images, labels=logits.argmax(axis=1).astype(np.int64))
    return Tiny(folder / "tiny.onnx", folder / "calib.npz", folder / "eval.npz")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A network with residual, Erf (left in float by HTP) and head; labels are the float network's own decisions."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def quantized_folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of one w8a8 run; read it, do not write to it."""
    from fewbits.workflow.quantize import quantize

    folder = tmp_path_factory.mktemp("quantized") / "out"
    quantize(tiny.model, data=tiny.calib, eval_data=tiny.evaluation, output=folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, whose sums are the same on every machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
