"""Small QDQ files as other tools write them, healthy or with one fault."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT4, INT8 = np.dtype(ml_dtypes.int4), np.dtype(np.int8)


@dataclass(frozen=True)
class Conv:
    """One Conv between grids, with what follows it."""

    activation: type = np.uint8
    written: type | None = None
    weight: np.dtype = INT8
    channels: int = 8
    one_scale: bool = False
    weight_zero: int = 0
    bias_factor: float = 1.0
    bias_unit: int = 1
    int16_unit: int = 4000
    follower: str = ""
    grid_between: bool = True
    float_weight: bool = False
    block: int = 0


@dataclass(frozen=True)
class Norm:
    """One LayerNormalization between grids."""

    activation: type = np.uint8
    gamma: type = np.uint8
    zero: int = 0


@dataclass(frozen=True)
class Product:
    """One MatMul of two activations: both come from the input."""

    first: type = np.uint16
    second: type = np.int16


def scale_of(dtype: type, span: float = 8.0) -> float:
    return span / (np.iinfo(dtype).max - np.iinfo(dtype).min)


def middle(dtype: type) -> int:
    info = np.iinfo(dtype)
    return (int(info.max) + int(info.min) + 1) // 2


class Builder:
    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def constant(self, name: str, value: np.ndarray) -> str:
        if value.dtype == INT4:
            codes = value.astype(np.int8).ravel().tolist()
            self.constants.append(helper.make_tensor(name, TensorProto.INT4, value.shape, codes))
        else:
            self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def pair(self, name: str, source: str, dtype: type, result: str) -> str:
        grid = [self.constant(f"{name}_s", np.float32(scale_of(dtype)).reshape(())),
                self.constant(f"{name}_z", np.array(middle(dtype), dtype))]  # fmt: skip
        self.node("QuantizeLinear", [source, *grid], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", *grid], result)

    def stored(self, name: str, codes: np.ndarray, scale: np.ndarray, zero: int = 0, axis: int = 0) -> str:
        zeros = np.full(scale.shape, zero).astype(codes.dtype)
        block = codes.shape[axis] // scale.shape[axis] if scale.ndim > 1 else 0
        inputs = [
            self.constant(f"{name}_q", codes),
            self.constant(f"{name}_s", scale),
            self.constant(f"{name}_z", zeros),
        ]
        along = ({"axis": axis} if scale.ndim else {}) | ({"block_size": block} if block else {})
        return self.node("DequantizeLinear", inputs, name, **along)

    def model(self, shape: list[int], out: list[int]) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def conv(case: Conv) -> onnx.ModelProto:
    rng, made = np.random.default_rng(0), Builder()
    read = made.pair("x0", "x", case.activation, "xd")
    codes = rng.integers(-7, 8, (case.channels, 16, 1, 1))
    unit = np.float32(0.05 if case.weight == INT4 else 0.003 if case.weight == INT8 else 0.00001)
    codes = codes if case.weight == INT4 else codes * (16 if case.weight == INT8 else case.int16_unit)
    scale = unit.reshape(()) if case.one_scale else np.full(case.channels, unit, np.float32)
    if case.float_weight:
        weight, bias = made.constant("w", (codes * unit).astype(np.float32)), []
    elif case.block:
        scales = np.full((case.channels, 16 // case.block, 1, 1), unit, np.float32)
        weight = made.stored("w", codes.astype(case.weight), scales, axis=1)
        bias = [made.constant("b", np.arange(case.channels, dtype=np.float32))]
    else:
        weight = made.stored("w", codes.astype(case.weight), scale, case.weight_zero)
        at = np.float32(scale_of(case.activation)) * scale * np.float32(case.bias_factor)
        bias = [
            made.stored("b", (np.arange(case.channels) * case.bias_unit).astype(np.int32), np.asarray(at, np.float32))
        ]
    last = made.node("Conv", [read, weight, *bias], "conv")
    written = case.written or case.activation
    if case.follower:
        last = made.pair("c0", last, written, "cd") if case.grid_between else last
        last = made.node(case.follower, [last], "after")
    made.pair("y0", last, written, "y")
    return made.model([1, 16, 6, 6], [1, case.channels, 6, 6])


def norm(case: Norm) -> onnx.ModelProto:
    rng, made = np.random.default_rng(0), Builder()
    read = made.pair("x0", "x", case.activation, "xd")
    step = np.float32(1.5 / np.iinfo(case.gamma).max if case.zero == 0 else 3.0 / np.iinfo(case.gamma).max)
    gamma = np.clip(np.rint((1 + rng.random(64) * 0.4) / step) + case.zero, 0, np.iinfo(case.gamma).max)
    gamma_value = made.stored("gamma", gamma.astype(case.gamma), step.reshape(()), case.zero)
    beta = made.stored(
        "beta", np.arange(64).astype(np.int32), (np.float32(scale_of(case.activation)) * step).reshape(())
    )
    last = made.node("LayerNormalization", [read, gamma_value, beta], "norm", axis=-1)
    made.pair("y0", last, case.activation, "y")
    return made.model([1, 9, 64], [1, 9, 64])


def product(case: Product) -> onnx.ModelProto:
    made = Builder()
    left = made.pair("x0", "x", case.first, "xd")
    turned = made.node("Transpose", [left], "turned", perm=[0, 2, 1])
    second = made.pair("t0", turned, case.first, "td")
    if case.second is not case.first:
        second = made.pair("t1", second, case.second, "t1d")
    last = made.node("MatMul", [left, second], "matmul")
    grid = [made.constant("y_s", np.float32(16.0 / np.iinfo(case.first).max).reshape(())),
            made.constant("y_z", np.array(middle(case.first), case.first))]  # fmt: skip
    made.node("QuantizeLinear", [last, *grid], "y_q")
    made.node("DequantizeLinear", ["y_q", *grid], "y")
    return made.model([1, 12, 8], [1, 12, 12])


def model_of(case: Conv | Norm | Product) -> onnx.ModelProto:
    return {Conv: conv, Norm: norm, Product: product}[type(case)](case)
