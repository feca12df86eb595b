"""Which nodes may not run in float16, because a tensor they touch would overflow there."""

import numpy as np
import onnx_ir as ir

from fewbits.graph.topology import constant, is_float32, op_rule
from fewbits.quantization.half import FLOAT16_MAX
from fewbits.quantization.observe import Statistics

MARGIN = 2.0
"""Unseen data may exceed what calibration saw by this factor."""
_SATURATING = frozenset({"Add", "Sub", "Where", "Min", "Max", "Clip", "Concat", "Pad"})


def half_overflows(graph: ir.Graph, statistics: Statistics) -> dict[str, str]:
    """Return node name -> reason for every node that float16 cannot hold.

    A node is named when the calibrated absmax of an input or output, times MARGIN, exceeds 65504, or when one of its
    constants does. Masks and bounds (constants of Add, Where, Min, Max, Clip ...) saturate instead: they mean "as low
    as possible". Settings that stay float32 and infinities do not count.
    """
    found: dict[str, str] = {}
    for node in graph:
        reason = _reason(node, statistics)
        if reason:
            found[str(node.name)] = reason
    return found


def _reason(node: ir.Node, statistics: Statistics) -> str:
    if op_rule(node) is None:
        return ""
    for value in (*node.inputs, *node.outputs):
        if value is None or not is_float32(value):
            continue
        tensor = constant(value)
        if tensor is None:
            histogram = statistics.histogram(str(value.name))
            largest = 0.0 if histogram is None else max(-histogram.low, histogram.high)
            if MARGIN * largest > FLOAT16_MAX:
                return (
                    f"fp16 overflows: {value.name!r} reaches {largest:g} on the calibration data, and with a margin of "
                    f"{MARGIN:g} that exceeds {FLOAT16_MAX:g}"
                )
        elif node.op_type not in _SATURATING:
            values = np.abs(tensor.numpy())
            largest = float(values[np.isfinite(values)].max(initial=0.0))
            if largest > FLOAT16_MAX:
                return f"fp16 overflows: the constant {value.name!r} reaches {largest:g}, above {FLOAT16_MAX:g}"
    return ""
