"""A network with most kinds of grids, quantized, as a module to train; shared by the tests of that module."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from fewbits.runtime.session import RunOptions
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated

torch = pytest.importorskip("torch")

from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402
from fewbits.training.torch_trainable import Trainable  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
OPTIONS = RunOptions(threads=1)
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 3, 8, 8] image, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2, float[8, 16, 1, 1] w3,
   float[1, 8, 4, 4] half, float[8, 6] w4, float[1, 6] b4, float[6] gamma, float[6] beta, float[4, 6] w5, float[4] b5)
  => (float[N, 4] y, float[N, 6] side) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu1] b = Relu (a)
    [pool] c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    [depthwise] d = Conv <group = 8, pads = [1, 1, 1, 1]> (c, w2, b2)
    [silu] e = Sigmoid (d)
    [product] f = Mul (d, e)
    [join] h = Concat <axis = 1> (c, f)
    [unbiased] i = Conv (h, w3)
    [shift] j = Add (i, half)
    [mean] k = GlobalAveragePool (j)
    [flatten] l = Flatten (k)
    [dense] m = Gemm (l, w4, b4)
    [norm] n = LayerNormalization (m, gamma, beta)
    [shares] side = Softmax (n)
    [head] y = Gemm <transB = 1> (n, w5, b5)
}"""
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (8, 16, 1, 1), "half": (1, 8, 4, 4),
    "w4": (8, 6), "b4": (1, 6), "gamma": (6,), "beta": (6,), "w5": (4, 6), "b5": (4,),
}  # fmt: skip
PRECISIONS = ["w8a8", "w4a8", "w4a16"]


def images(count: int = 48, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def feeds() -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(images())}


@cache
def calibration():
    model, rng = parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
        array = (rng.standard_normal(shape) * 0.5).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return calibrate(model.SerializeToString(), data={"image": images()}, run_options=OPTIONS, simplify=False)


@cache
def made_of(precision: str):
    return quantize_calibrated(calibration(), precision, ranges="minmax")


def trainable(precision: str = "w4a8", **options: object) -> Trainable:
    made = made_of(precision)
    return Trainable(calibration().model, made.plan, made.encodings, **options)


def train(net: Trainable, steps: int = 12, lr: float = 3e-3) -> list[float]:
    """Return the loss at every step of learning one and a half times what the float network gives."""
    with torch.no_grad():
        wanted = {name: 1.5 * value for name, value in TorchGraph(calibration().model)(feeds()).items()}
    optimizer = torch.optim.Adam(net.parameter_groups(lr))
    losses = []
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        given = net(feeds())
        loss = (given["y"] - wanted["y"]).square().mean() + 0.1 * (given["side"] - wanted["side"]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@cache
def trained(precision: str) -> Trainable:
    """Return a network after some training, in evaluation mode; only read."""
    net = trainable(precision)
    train(net)
    return net.eval()


def outputs(net: torch.nn.Module) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in net(feeds()).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name
