"""A network whose channels differ in size, with all ways in which they hang together, quantized."""

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.runtime.session import RunOptions
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.improve_models import with_biases
from fewbits.workflow.quantized import quantize_calibrated
from networks import graph

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_walk import Start  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402

TEXT = """
g (float[N, 3, 8, 8] image, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2, float[6, 4, 3, 3] w3,
   float[8, 10, 1, 1] w4, float[8] b4, float[8, 5] w5, float[1, 5] b5, float[3, 5] w6, float[3] b6)
  => (float[N, 3] y) <int64[2] parts = {4, 4}> {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [depthwise] b = Conv <group = 8, pads = [1, 1, 1, 1]> (a, w2, b2)
    [leaky] c = LeakyRelu (b)
    [cut] d, e = Split <axis = 1> (c, parts)
    [inner] f = Conv <pads = [1, 1, 1, 1]> (e, w3)
    [join] h = Concat <axis = -3> (d, f)
    [back] i = Conv (h, w4, b4)
    [residual] j = Add (i, a)
    [mean] k = GlobalAveragePool (j)
    [flatten] l = Flatten (k)
    [dense] m = Gemm (l, w5, b5)
    [relu] n = Relu (m)
    [head] y = Gemm <transB = 1> (n, w6, b6)
}"""
LAYERS = ["first", "depthwise", "inner", "back", "dense", "head"]
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (6, 4, 3, 3), "w4": (8, 10, 1, 1),
    "b4": (8,), "w5": (8, 5), "b5": (1, 5), "w6": (3, 5), "b6": (3,),
}  # fmt: skip
UNEVEN = {"w1": 8, "b1": 8, "w2": 8, "w3": 6, "w4": 8, "w5": 5}
"""Weights whose outputs differ in size: how many they have, along axis 0 but for `w5`."""


def model(*, spread: float = 2.0, text: str = TEXT) -> ir.Model:
    """Return the network; channels differ by up to exp(2 `spread`)."""
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[-1])
        sizes = np.exp(rng.uniform(-spread, spread, UNEVEN.get(name, 1)))
        array *= sizes if name == "w5" else sizes.reshape(-1, *(1,) * (len(shape) - 1))
        arrays[name] = array.astype(np.float32)
    return graph(text, **arrays)


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)


def feeds() -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(images())}


def started(precision: str = "w8a8", *, target: str = "qnn-htp-v73", **options: object) -> Start:
    """Return it quantized; the biases of the current model make up for rounded weights."""
    threads = RunOptions(threads=1)
    given = {"data": {"image": images()}, "target": target, "run_options": threads}
    calibration = calibrate(model(**options), simplify=False, **given)
    made = quantize_calibrated(calibration, precision, ranges="minmax", weight_ranges="absmax")
    current = with_biases(calibration.model, made.plan, made.encoded)
    return Start(calibration.model, current, made.plan, made.encodings)


def output(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(feeds())["y"].double()


def power(start: Start) -> float:
    return float(output(TorchGraph(start.reference)).square().mean())
