"""The affine map that an inference-mode BatchNormalization is: y = x * scale + shift, per channel, in float64.

scale = gamma / sqrt(variance + epsilon)        shift = beta - mean * scale
"""

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import Declined, FloatArray, constant


def affine(node: ir.Node) -> tuple[FloatArray, FloatArray]:
    """Return scale [C] and shift [C] of a BatchNormalization.

    Raises:
        Declined: it is in training mode, or a parameter is not a finite constant.

    Source: ONNX BatchNormalization-15.
    """
    if node.attributes.get_int("training_mode", 0) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise Declined("it is in training mode: its statistics come from the batch")
    if node.attributes.get_int("spatial", 1) != 1:
        raise Declined("it normalizes per element (spatial=0), not per channel")
    parameters = [constant(value) for value in node.inputs[1:5]]
    if len(parameters) != 4:
        raise Declined("it lacks parameters")
    arrays = []
    for value, array in zip(node.inputs[1:5], parameters, strict=True):
        if array is None:
            raise Declined(f"its parameter {value.name if value is not None else ''!r} is not a constant")
        arrays.append(array.reshape(-1))
    gamma, beta, mean, variance = arrays
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Declined("its variance plus epsilon is not positive, or a parameter is not finite")
    return scale, shift
