"""Raise old models to the opset whose QuantizeLinear knows 4 and 16 bits; newer models stay as they are."""

import importlib.util
import logging
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter

from fewbits.errors import ModelError
from fewbits.graph.bridge import rewrite, without_weights
from fewbits.graph.naming import all_nodes, name_nodes
from fewbits.graph.passes.base import PassResult, Skipped, constant, is_onnx, set_constant
from fewbits.graph.save import EXTERNAL_BYTES, to_bytes, weights_bytes
from fewbits.graph.shapes import infer_shapes

logger = logging.getLogger(__name__)

QDQ_OPSET = 21
QDQ_IR_VERSION = 10
ONNXSCRIPT_OLDEST = 18
Check = Callable[[bytes], None]


def raise_opset(model: ir.Model, target: int = QDQ_OPSET, *, check: Check | None = None) -> tuple[ir.Model, PassResult]:
    """Return `model` at ai.onnx opset `target` or newer and ir_version 10 or newer.

    Two converters are tried, onnx's own and onnxscript's (where it is installed); a result counts only if the ONNX
    checker accepts it with strict shape inference, and `check` too. `model` is left as it is.

    Args:
        model: any opset from 1 on.
        target: the opset wanted.
        check: called with the bytes of the converted model; raises if the model does not run. Pass a loader of the
            runtime: a converter can stamp an opset without rewriting a node. It is left out above 1.5 GB of weights.

    Returns:
        The model and what was done. Where no converter succeeds: the original opset, and the reason in `declined`.
    """
    version = model.opset_imports.get("")
    stays = version is None or version >= target
    if stays and model.ir_version >= QDQ_IR_VERSION:
        return model, PassResult()
    if stays:
        result = model.clone()
        result.ir_version = QDQ_IR_VERSION
        return result, PassResult(changed=(f"ir_version {model.ir_version} -> {QDQ_IR_VERSION}",))
    assert version is not None
    reasons = []
    for name, converter in (("onnx", _convert_onnx), ("onnxscript", _convert_onnxscript)):
        try:
            result = _verified(converter(model, target), check)
        except Exception as error:  # converters raise RuntimeError, ConvertError, ValueError, assertion errors
            reasons.append(f"{name}: {_reason(error)}")
            continue
        return result, PassResult(changed=(f"ai.onnx opset {version} -> {target} ({name}'s converter)",))
    logger.warning("The model stays at opset %d: no converter could raise it to %d.", version, target)
    reason = f"stays at {version}, because no converter could raise it to {target} ({'; '.join(reasons)})"
    return model, PassResult(declined=(Skipped("ai.onnx opset", reason),))


def _convert_onnx(model: ir.Model, target: int) -> ir.Model:
    version = model.opset_imports[""]
    if version < 21 <= target and any(is_onnx(node, "GroupNormalization") for node in all_nodes(model)):
        # its scale has one value per group before 21, one per channel from 21 on; this converter leaves it as it is
        raise ModelError("it does not rewrite GroupNormalization-18")
    if version < 9 <= target and any(is_onnx(node, "Scan") for node in all_nodes(model)):
        raise ModelError("it does not rewrite Scan-8")  # which has a batch axis that later ones lack

    def convert(proto: onnx.ModelProto) -> onnx.ModelProto:
        proto.ir_version = max(proto.ir_version, QDQ_IR_VERSION)  # below 4 the converter wants weights as inputs
        return version_converter.convert_version(proto, target)

    result = rewrite(model, convert)
    if version < 7 <= target and any(is_onnx(node, "PRelu") for node in all_nodes(result)):
        infer_shapes(result)
        _restore_slopes(result)
    if version < 11 <= target:
        for node in all_nodes(result):
            if is_onnx(node, "Resize"):
                _restore_sampling(node)
    return result


def _restore_slopes(model: ir.Model) -> None:
    """Let the slopes of PRelu stand along the channels, as they did before opset 7, and not along the last axis."""
    for node in all_nodes(model):
        if not is_onnx(node, "PRelu"):
            continue
        data, slope = node.inputs[0], constant(node.inputs[1])
        if slope is None or data is None or data.shape is None:
            raise ModelError(f"the slopes of PRelu {node.name!r} or the rank of its input are not known")
        if slope.ndim == 1 and slope.size > 1 and data.shape.rank() > 2:
            array = slope.astype(np.float32).reshape(-1, *([1] * (data.shape.rank() - 2)))
            set_constant(model, node, 1, array, wanted=f"{node.name}_slope")


def _restore_sampling(node: ir.Node) -> None:
    """Say what Upsample and Resize meant before opset 11, and what the converter leaves at its newer default."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    shrinks = scales is not None and scales.size > 0 and bool((scales < 1).any())
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "asymmetric")
    # ONNX Runtime's rule for the old operators: the next pixel when it shrinks, the previous one when it grows
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "ceil" if shrinks else "floor")


def _convert_onnxscript(model: ir.Model, target: int) -> ir.Model:
    if importlib.util.find_spec("onnxscript") is None:
        raise ModelError("not installed (pip install onnxscript)")
    if model.opset_imports[""] < ONNXSCRIPT_OLDEST:
        raise ModelError(f"it only stamps models older than opset {ONNXSCRIPT_OLDEST}, it does not rewrite them")
    from onnxscript.version_converter import convert_version

    result = model.clone()
    convert_version(result, target, fallback=False)
    return result


def _verified(model: ir.Model, check: Check | None) -> ir.Model:
    model.ir_version = max(model.ir_version, QDQ_IR_VERSION)
    name_nodes(model)
    proto, _ = without_weights(model)
    onnx.checker.check_model(proto, full_check=True)
    if check is not None and weights_bytes(model) <= EXTERNAL_BYTES:
        check(to_bytes(model))
    return model


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
