"""Types behind operators that are not ONNX's: onnx infers nothing there, but the runtime that runs them knows.

Without a type nothing behind such an operator could be quantized, whatever it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from fewbits.graph.passes.base import PassResult, Skipped
from fewbits.graph.save import EXTERNAL_BYTES, to_bytes, weights_bytes
from fewbits.graph.shapes import infer_shapes

NAME = "foreign-types"
TypesOf = Callable[[bytes], Mapping[str, tuple[np.dtype[Any], Sequence[int | str | None]]]]


def learn(model: ir.Model, types_of: TypesOf | None) -> PassResult:
    """Give each untyped tensor that such an operator writes its type and shape, in place, and infer what follows.

    Args:
        model: its shapes are inferred.
        types_of: told the bytes of a model, returns type and shape of its outputs. Those are tensors of numpy's types.
    """
    unknown = [v for node in model.graph if node.domain not in ("", "ai.onnx") for v in node.outputs if _is_untyped(v)]
    if not unknown or types_of is None or weights_bytes(model) > EXTERNAL_BYTES:
        return PassResult()
    try:
        found = types_of(to_bytes(_handing_out(model, [str(value.name) for value in unknown])))
    except Exception as error:  # what the runtime cannot load or hand out, it says when the model itself is loaded
        reason = f"the types behind it are not known ({str(error).splitlines()[0].rstrip('.')})"
        return PassResult(declined=(Skipped(str(unknown[0].name), reason),))
    for value in unknown:
        dtype, shape = found[str(value.name)]
        value.dtype = ir.DataType.from_numpy(dtype)
        if shape:  # ONNX Runtime says [] of a number and of a tensor whose shape it does not know
            value.shape = ir.Shape(shape)
    infer_shapes(model)
    return PassResult((f"{len(unknown)} tensors behind operators that are not ONNX's have the types that they run in",))


def _is_untyped(value: ir.Value) -> bool:
    return bool(value.name) and value.dtype is None and bool(value.uses())


def _handing_out(model: ir.Model, names: list[str]) -> ir.Model:
    """Return a copy of `model` whose only outputs are these."""
    copy = model.clone()
    values = {str(value.name): value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    return copy
