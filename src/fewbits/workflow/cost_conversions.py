"""What conversions between groups cost in ONNX Runtime: what stands on an edge only because two types meet there.

Writers of 8 bits hand over integers, which a reader of another type dequantizes; those of 16 bits and of float16 leave
float32 behind, rounded. Readers of 8 bits take integers, of 16 bits and float16 float32 that is rounded first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from fewbits.analysis.cost_layout import Layout, conversions_of, elements
from fewbits.analysis.costs import Pair
from fewbits.artifact.folder import temporary_folder
from fewbits.runtime.data.types import Array
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_profiles import remembered_profile

_MOST_SIZES = 8  # of tensors, measured; between them the time is interpolated
_OPSET, _IR_VERSION = 21, 10
_SCALE = 0.05
_STEPS: Mapping[str, tuple[str, int, int]] = {
    "quantize8": ("QuantizeLinear", TensorProto.FLOAT, TensorProto.UINT8),
    "dequantize8": ("DequantizeLinear", TensorProto.UINT8, TensorProto.FLOAT),
    "quantize16": ("QuantizeLinear", TensorProto.FLOAT, TensorProto.UINT16),
    "dequantize16": ("DequantizeLinear", TensorProto.UINT16, TensorProto.FLOAT),
    "narrow": ("Cast", TensorProto.FLOAT, TensorProto.FLOAT16),
    "widen": ("Cast", TensorProto.FLOAT16, TensorProto.FLOAT),
}
"""Step -> operator, type that it reads, type that it writes."""
_LEAVE = {"uint8": ("dequantize8",), "uint16": (), "fp16": ("narrow", "widen"), "fp32": ()}
_ENTER = {"uint8": ("quantize8",), "uint16": ("quantize16", "dequantize16"), "fp16": ("narrow", "widen"), "fp32": ()}


def measured_conversions(context: CostContext, layout: Layout) -> dict[Pair, dict[Pair, float]]:
    """Return (type written, type read) -> (writer group, reader group) -> microseconds of the conversion.

    Raises:
        SpecError: a shape is not known.
        ModelError: onnxruntime cannot run the steps.
    """
    sizes = sorted({elements(value) for tensors in layout.passed.values() for value in tensors.values()})
    if not sizes or len(layout.plans) < 2:
        return {}
    measured = sorted({sizes[round(i)] for i in np.linspace(0, len(sizes) - 1, min(len(sizes), _MOST_SIZES))})
    times = _times(context, measured)

    def cost(tensors: Sequence[int], written: str, read: str) -> float:
        steps = (*_LEAVE[written], *_ENTER[read])
        return float(sum(np.interp(size, measured, times[step]) for step in steps for size in tensors))

    return conversions_of(layout, cost)[1]


def _times(context: CostContext, sizes: Sequence[int]) -> dict[str, list[float]]:
    """Return step -> microseconds for each size."""
    model, feeds = _bench(sizes)
    with context.stages.stage("profile conversions"), temporary_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        spent = {node.name: node.us for node in remembered_profile(context, path, feeds).nodes}
    return {step: [spent.get(f"{step}_{size}", 0.0) for size in sizes] for step in _STEPS}


def _bench(sizes: Sequence[int]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a model of one node per step and size, side by side, and what to feed it."""
    nodes, inputs, outputs, feeds = [], [], [], {}
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, [], [_SCALE])]
    constants += [helper.make_tensor(f"zero_{k}", k, [], [128]) for k in (TensorProto.UINT8, TensorProto.UINT16)]
    for size in sizes:
        for kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.UINT16):
            inputs.append(helper.make_tensor_value_info(f"x_{kind}_{size}", kind, [size]))
            feeds[f"x_{kind}_{size}"] = np.ones(size, helper.tensor_dtype_to_np_dtype(kind))
        for step, (op, read, written) in _STEPS.items():
            grid = [] if op == "Cast" else ["scale", f"zero_{min(read, written, key=_is_float)}"]
            node = helper.make_node(op, [f"x_{read}_{size}", *grid], [f"y_{step}_{size}"], name=f"{step}_{size}")
            node.attribute.extend([helper.make_attribute("to", written)] if op == "Cast" else [])
            nodes.append(node)
            outputs.append(helper.make_tensor_value_info(f"y_{step}_{size}", written, [size]))
    graph = helper.make_graph(nodes, "conversions", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION), feeds


def _is_float(kind: int) -> bool:
    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
