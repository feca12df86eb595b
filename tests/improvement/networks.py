"""Small models as ONNX text, the development networks, and what the tests of improvers measure."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import open_session
from fewbits.workflow.source import open_source

ASSETS = Path(os.environ.get("FEWBITS_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))

# Weights are rounded once more (2^-24, -144 dB), amplified a little by depth; a wrong channel leaves less than 20 dB.
SAME_DB = 90

SHAPES = {
    "cifar10_resnet20": (2, 3, 32, 32),
    "cifar10_resnet56": (2, 3, 32, 32),
    "fastestdet_coco": (1, 3, 352, 352),
    "imdn_rtc_x2": (1, 3, 24, 32),
    "kwt1_speechcommands": (2, 98, 40),
    "mobilenetv1_0.75_imagenet": (1, 3, 224, 224),
    "mobilenetv2_1.0_imagenet": (1, 3, 224, 224),
    "stories260k": (2, 17),
}


def graph(text: str, **constants: np.ndarray) -> ir.Model:
    """Return the loaded graph of ONNX text; the named inputs become initializers with these values."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    for name, array in constants.items():
        value = next(info for info in proto.graph.input if info.name == name)
        proto.graph.input.remove(value)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model = load_model(proto)
    infer_shapes(model)
    return model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uneven(count: int, *, axis: int, rank: int, seed: int = 5) -> np.ndarray:
    """Return factors from 0.02 to 50 along one axis: what plants bad ranges."""
    factors = np.exp(np.random.default_rng(seed).uniform(-4, 4, count)).astype(np.float32)
    return factors.reshape([-1 if i == axis else 1 for i in range(rank)])


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return open_session(to_bytes(model))(feeds)


def least_db(before: ir.Model, after: ir.Model, feeds: dict[str, np.ndarray]) -> float:
    """Return the worst SQNR over all outputs."""
    old, new = outputs(before, feeds), outputs(after, feeds)
    assert old.keys() == new.keys()
    assert all(old[name].shape == new[name].shape for name in old)
    return min(sqnr_db(old[name], new[name]) for name in old)


def weight(model: ir.Model, name: str) -> np.ndarray:
    """Return the weight of the layer `name`."""
    node = next(node for node in model.graph if node.name == name)
    return node.inputs[1].const_value.numpy()


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@cache
def network(name: str) -> ir.Model:
    """Return a prepared development network; read it, do not change it."""
    path = ASSETS / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing: set FEWBITS_ASSETS to the folder of development networks")
    return open_source(path).model


def plausible(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    (key,) = (value.name for value in network(name).graph.inputs)
    if name == "stories260k":
        return {key: rng.integers(1, 500, SHAPES[name])}
    low = 0 if name in ("fastestdet_coco", "imdn_rtc_x2") else -1
    return {key: rng.uniform(low, 1, SHAPES[name]).astype(np.float32)}
