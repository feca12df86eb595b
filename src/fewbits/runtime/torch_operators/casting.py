"""Changes of type."""

from collections.abc import Mapping

import onnx_ir as ir
import torch

from fewbits.runtime.torch_operators.arguments import lacks, needed
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator

_DTYPES: Mapping[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
}


def dtype_of(call: Call, attribute: str) -> torch.dtype:
    """Return the torch type that an attribute names.

    Raises:
        ModelError: torch has no such type.
    """
    wanted = ir.DataType(call.attributes[attribute])
    if wanted not in _DTYPES:
        raise lacks(call, f"the type {wanted.name}")
    return _DTYPES[wanted]


def cast(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the input in another type; floats are cut off towards zero. Source: ONNX Cast-25."""
    return needed(call, inputs).to(dtype_of(call, "to"))


def cast_like(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return the first input in the second's type. Source: ONNX CastLike-25."""
    return needed(call, inputs).to(needed(call, inputs, 1).dtype)


OPERATORS: Mapping[str, Operator] = {"Cast": cast, "CastLike": cast_like}
