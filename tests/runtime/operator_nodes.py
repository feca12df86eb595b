"""Single nodes that ONNX Runtime runs: windows, opsets and attributes that ONNX's own cases leave out."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import helper

I64 = np.int64


@dataclass(frozen=True)
class Node:
    """One node, as `onnx.helper.make_node` takes it: `arrays` are its inputs, None for one left out."""

    op: str
    arrays: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1

    def __str__(self) -> str:
        shapes = "-".join("x".join(map(str, np.shape(array))) for array in self.arrays if array is not None)
        return f"{self.op}-{self.opset}-{shapes}-{','.join(f'{k}={v}' for k, v in self.attributes.items())}"


def values(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, I64)


def convolutions() -> list[Node]:
    x, w, b = values(2, 4, 11, 10), values(6, 4, 3, 4, seed=1), values(6, seed=2)
    plain = [
        {"auto_pad": mode, "strides": strides}
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ]
    plain.append({"auto_pad": "VALID", "dilations": [2, 2]})
    plain += [{"pads": [0, 1, 2, 0]}, {"pads": [1, 1, 1, 1], "strides": [2, 2], "dilations": [1, 2]}]
    found = [Node("Conv", (x, w, b), attributes) for attributes in plain]
    found.append(Node("Conv", (x, values(8, 1, 3, 3), None), {"group": 4, "pads": [1, 1, 1, 1]}, 11))
    found.append(Node("Conv", (values(1, 3, 9), values(2, 3, 4)), {"pads": [2, 1]}))
    found.append(Node("Conv", (values(1, 2, 5, 6, 7), values(3, 2, 2, 3, 2)), {"strides": [1, 2, 2]}))
    return found


def transposed() -> list[Node]:
    x, w, b = values(2, 4, 5, 6), values(4, 3, 3, 4, seed=1), values(3, seed=2)
    plain: list[dict[str, Any]] = [
        {},
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
        {"strides": [2, 2], "pads": [0, 1, 1, 2]},
        {"strides": [1, 1], "dilations": [2, 1], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "output_shape": [10, 12]},
        {"strides": [2, 2], "output_shape": [12, 15]},
        {"strides": [2, 2], "output_shape": [9, 11], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
    ]
    found = [Node("ConvTranspose", (x, w, b), attributes) for attributes in plain]
    found.append(Node("ConvTranspose", (x, values(4, 2, 3, 3)), {"group": 2, "strides": [2, 2]}))
    found.append(Node("ConvTranspose", (values(1, 3, 9), values(3, 2, 4)), {"strides": [3]}))
    found.append(Node("ConvTranspose", (values(1, 2, 3, 4, 5), values(2, 2, 2, 3, 2)), {"strides": [1, 2, 2]}))
    return found


def pools() -> list[Node]:
    found, planes = [], (values(1, 2, 7, 8), values(1, 2, 10, 5))
    geometry = product(([2, 2], [3, 3]), ([1, 1], [2, 2], [3, 2]), ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]), (0, 1))
    for x, (kernel, strides, pads, ceil_mode) in product(planes, geometry):
        shared = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": ceil_mode}
        found += [Node("MaxPool", (x,), shared), Node("LpPool", (x,), {**shared, "p": 3}, 18)]
        found += [Node("AveragePool", (x,), {**shared, "count_include_pad": with_pads}) for with_pads in (0, 1)]
    for op, mode, strides in product(
        ("MaxPool", "AveragePool"), ("SAME_UPPER", "SAME_LOWER", "VALID"), ([1, 1], [2, 3])
    ):
        found.append(Node(op, (planes[0],), {"kernel_shape": [3, 2], "strides": strides, "auto_pad": mode}, 11))
    x = planes[0]
    for order, pads in product((0, 1), ([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1])):
        shared = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads, "storage_order": order}
        found.append(Node("MaxPool", (values(2, 3, 9, 8),), shared, outputs=2))
    found.append(Node("MaxPool", (x,), {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}))
    found.append(Node("AveragePool", (x,), {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}, 19))
    found.append(Node("MaxPool", (values(1, 2, 9),), {"kernel_shape": [3], "strides": [2]}, 8, outputs=2))
    found.append(Node("AveragePool", (values(1, 2, 5, 6, 7),), {"kernel_shape": [2, 3, 3], "pads": [0, 1, 1, 1, 1, 1]}))
    found.append(Node("MaxPool", ((100 * values(1, 2, 7, 8)).astype(np.int8),), {"kernel_shape": [3, 3]}, 12))
    found += [Node(op, (values(2, 3, 4, 5),)) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")]
    return found


def resizes() -> list[Node]:
    found, x = [], values(1, 2, 5, 6)
    scales = ([1, 1, 2, 2], [1, 1, 0.6, 0.7], [1, 1, 1.5, 3], [1, 1, 2.3, 0.4])
    coordinates = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    for place, scale in product(coordinates, scales):
        given = (x, None, np.array(scale, np.float32))
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            shared = {"mode": "nearest", "coordinate_transformation_mode": place, "nearest_mode": rounding}
            found.append(Node("Resize", given, shared, 13))
        for mode in ("linear", "cubic"):
            shared = {"mode": mode, "coordinate_transformation_mode": place}
            found.append(Node("Resize", given, shared, 13))
    for mode, size in product(("nearest", "linear", "cubic"), ([1, 2, 3, 4], [1, 2, 10, 12], [1, 2, 7, 1])):
        found.append(Node("Resize", (x, None, None, ints(*size)), {"mode": mode}, 19))
    for place, size in product(coordinates, ([1, 2, 1, 9], [1, 2, 15, 18])):
        shared = {"mode": "linear", "coordinate_transformation_mode": place}
        found.append(Node("Resize", (x, None, None, ints(*size)), shared, 18))
    for scale in scales[:3]:
        shared = {"mode": "cubic", "exclude_outside": 1}
        found.append(Node("Resize", (x, None, np.array(scale, np.float32)), shared, 13))
    cut = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32)
    shared = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    found.append(Node("Resize", (x, cut, None, ints(1, 2, 4, 9)), shared, 13))
    for mode, scale in product(("nearest", "linear"), ([1, 1, 2, 2], [1, 1, 2, 3])):
        array = np.array(scale, np.float32)
        found += [Node("Resize", (x, array), {"mode": mode}, 10), Node("Upsample", (x, array), {"mode": mode}, 9)]
        found.append(Node("Upsample", (x,), {"mode": mode, "scales": [float(s) for s in scale]}, 7))
    found.append(Node("Resize", (values(1, 2, 4, 3, 5), None, np.array([1, 1, 2, 1.5, 2], np.float32)), {}, 13))
    found.append(Node("Resize", (x, None, np.array([2, 0.5], np.float32)), {"mode": "linear", "axes": [3, 2]}, 18))
    return found


def older_forms() -> list[Node]:
    """Return nodes of opsets in which attributes were what inputs are now."""
    x, positive = values(2, 3, 4, 5), np.abs(values(2, 3, 4, 5)) + 0.5
    channel = [values(3, seed=s) for s in (1, 2, 3)]
    reduces = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"]
    reduces += ["ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]
    return [
        *(Node(op, (positive,), {"axes": [1, -1], "keepdims": k}, 11) for op in reduces for k in (0, 1)),
        *(Node(op, (positive, ints(0, 2)), {}, 18) for op in reduces),
        *(Node(op, (positive,), {"keepdims": 0}, 13) for op in reduces),
        *(Node(op, (x,), {"axis": axis}, 11) for op in ("Softmax", "LogSoftmax", "Hardmax") for axis in (1, 2, 3)),
        *(Node(op, (x,), {}, 9) for op in ("Softmax", "LogSoftmax", "Hardmax")),
        *(Node("Clip", (x,), attributes, 7) for attributes in ({}, {"min": -0.5}, {"min": -0.1, "max": 0.3})),
        *(Node("Clip", (x, low, np.float32(0.2)), {}, 13) for low in (None, np.float32(-0.5), np.float32(0.4))),
        Node("Slice", (x,), {"starts": [1, -3], "ends": [3, 100], "axes": [1, 3]}, 9),
        Node("Slice", (x, ints(3, -1), ints(-100, 0), ints(3, 2), ints(-1, -2)), {}, 10),
        Node("Squeeze", (values(1, 3, 1, 2),), {"axes": [0, -2]}, 11),
        Node("Squeeze", (values(1, 3, 1, 2),), {}, 7),
        Node("Unsqueeze", (values(3, 2),), {"axes": [0, 3]}, 11),
        Node("Unsqueeze", (values(3, 2), ints(-1, 0)), {}, 13),
        Node("Split", (values(6, 2),), {"split": [1, 3, 2]}, 11, outputs=3),
        Node("Split", (values(6, 2),), {}, 7, outputs=3),
        Node("Split", (values(2, 7), ints(3, 4)), {"axis": -1}, 13, outputs=2),
        Node("Split", (values(2, 7),), {"axis": 1, "num_outputs": 3}, 18, outputs=3),
        Node("TopK", (x,), {"k": 2, "axis": 1}, 7, outputs=2),
        Node("TopK", (np.round(x), ints(3)), {"largest": 0}, 11, outputs=2),
        Node("Dropout", (x,), {"ratio": 0.3}, 7),
        Node("Dropout", (x, np.float32(0.3)), {}, 13, outputs=2),
        *(
            Node("BatchNormalization", (x, *channel, np.abs(values(3, seed=4))), {"epsilon": 0.1}, o)
            for o in (7, 9, 15)
        ),
        Node("BatchNormalization", (values(2, 3), *channel, np.abs(values(3, seed=4))), {}, 14),
        Node("Upsample", (x,), {"scales": [1.0, 1.0, 2.0, 2.0]}, 7),
        Node("CumSum", (x, np.int32(-2)), {"exclusive": 1, "reverse": 1}, 14),
        Node("Gemm", (values(3, 4), values(4, 5), values(5)), {"alpha": 0.5, "beta": 2.0}, 7),
        Node("Gemm", (values(4, 3), values(5, 4), values(3, 1)), {"transA": 1, "transB": 1}, 9),
        Node("Gemm", (values(3, 4), values(4, 5)), {"alpha": 3.0}, 11),
        Node("PRelu", (x, values(3, 1, 1)), {}, 9),
        Node("Scatter", (values(3, 4), np.array([[0, 1, 2, 0]], I64), values(1, 4)), {"axis": 0}, 9),
        Node("Flatten", (x,), {"axis": -2}, 11),
        Node("OneHot", (ints(1, -1, 9), ints(4), np.array([2, 5], np.float32)), {"axis": 0}, 9),
    ]


def pads() -> list[Node]:
    x, amounts = values(2, 3, 4, 5), [0, 1, 2, 1, 0, 0, 1, 3]
    modes = ("constant", "reflect", "edge")
    return [
        *(Node("Pad", (x,), {"mode": mode, "pads": amounts}, 7) for mode in modes),
        *(Node("Pad", (x, ints(*amounts)), {"mode": mode}, 13) for mode in modes),
        *(Node("Pad", (x, ints(2, -1, 1, 3), None, ints(-1, 1)), {"mode": mode}, 18) for mode in ("constant", "edge")),
        Node("Pad", (x, ints(2, 1, 4, 3), None, ints(3, 2)), {"mode": "wrap"}, 19),
        Node("Pad", (x, ints(*amounts), np.float32(3.5)), {}, 11),
        Node("Pad", (np.arange(6).reshape(2, 3), ints(1, 0, -1, 2), np.int64(7)), {}, 13),
        Node("Pad", (np.eye(3) > 0, ints(1, 0, 0, 2), np.bool_(True)), {}, 13),
    ]


def others() -> list[Node]:
    x = values(2, 6, 4, 5)
    scale, shift = values(6, seed=1), values(6, seed=2)
    grid = 1.2 * np.tanh(values(2, 3, 7, 2))
    sampling = product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (0, 1))
    return [
        *(Node("LRN", (x,), {"size": size, "alpha": 0.3, "bias": 2.0}) for size in (1, 3, 5)),
        *(Node("LpNormalization", (x,), {"p": p, "axis": axis}) for p in (1, 2) for axis in (1, -1)),
        *(Node("LayerNormalization", (x, values(4, 5), bias), {"axis": 2}, 17) for bias in (None, values(4, 5))),
        Node("LayerNormalization", (x, values(5), values(5, seed=1)), {"epsilon": 0.1}, 17, outputs=3),
        Node("InstanceNormalization", (x, scale, shift), {"epsilon": 0.2}),
        Node("InstanceNormalization", (values(2, 6, 1), scale, shift), {}),
        Node("GroupNormalization", (x, values(3), values(3, seed=1)), {"num_groups": 3}, 18),
        Node("GroupNormalization", (x, scale, shift), {"num_groups": 3}, 21),
        Node("MeanVarianceNormalization", (x,), {}, 13),
        Node("Gelu", (3 * x,), {"approximate": "tanh"}, 20),
        Node("Gelu", (3 * x,), {}, 20),
        Node("Mish", (3 * x,), {}, 18),
        Node("Softplus", (20 * x,)),
        Node("Selu", (x,), {"alpha": 2.0, "gamma": 3.0}),
        Node("HardSigmoid", (3 * x,), {}),
        Node("Shrink", (x,), {"lambd": 0.4, "bias": 0.1}),
        Node("Pow", (np.abs(x), np.float32(0.5))),
        Node("Pow", (x, np.array(3, I64))),
        Node("Pow", (ints(1, 2, 3), np.array([2.0, 0.5, 3.0], np.float32))),
        Node("Div", (ints(7, -7, 7), ints(2, 2, -2))),
        Node("Mod", (ints(7, -7, 7), ints(2, 4, -4))),
        *(Node("ArgMax", (np.round(x),), {"axis": 2, "select_last_index": last}, 13) for last in (0, 1)),
        *(Node("ArgMin", (np.round(x),), {"axis": -1, "keepdims": keep}, 13) for keep in (0, 1)),
        *(Node("GridSample", (values(2, 3, 5, 6), grid), {"mode": m, "padding_mode": p, "align_corners": a}, 16)
          for m, p, a in sampling),
        *(Node("DepthToSpace", (values(1, 8, 2, 3),), {"blocksize": 2, "mode": mode}, 13) for mode in ("DCR", "CRD")),
        Node("SpaceToDepth", (x,), {"blocksize": 1}),
        Node("GatherND", (x, np.array([[[1, -1], [0, 2]], [[3, 0], [5, 1]]], I64)), {"batch_dims": 1}),
        Node("Gather", (x, np.array(-1, I64)), {"axis": 2}),
        Node("Reshape", (x, ints(0, -1, 10))),
        Node("Expand", (values(3, 1), ints(2, 1, 4))),
        Node("Tile", (values(2, 3), ints(2, 3))),
        Node("Trilu", (values(2, 4, 5), np.array(-1, I64)), {"upper": 0}),
        Node("Compress", (values(3, 4), np.array([False, True, True])), {"axis": 1}),
        Node("Einsum", (values(2, 3, 4), values(2, 4, 5)), {"equation": "bij,bjk->bki"}),
        Node("MatMul", (values(4), values(2, 4, 5))),
        Node("EyeLike", (values(3, 4),), {"k": -1, "dtype": onnx.TensorProto.INT32}, 9),
        Node("Range", (np.float32(1), np.float32(-2), np.float32(-0.4))),
        Node("Cast", (3 * x,), {"to": onnx.TensorProto.INT8}),
    ]  # fmt: skip


GROUPS = {
    "conv": convolutions, "transposed": transposed, "pools": pools, "resize": resizes, "older": older_forms,
    "pads": pads, "others": others,
}  # fmt: skip


def build(node: Node) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """Return the model of one node, and its feeds."""
    names = [f"in{place}" if array is not None else "" for place, array in enumerate(node.arrays)]
    feeds = {name: np.asarray(array) for name, array in zip(names, node.arrays, strict=True) if array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [f"out{place}" for place in range(node.outputs)]
    proto = helper.make_node(node.op, names, outputs, name="it", **node.attributes)
    graph = helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", node.opset)]), feeds
