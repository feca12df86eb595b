"""The ONNX project's node models, run node by node through the torch operators."""

import re
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase as Case

from fewbits.runtime.torch_operators.table import OPERATORS, call_of

UNITS = {"float16": 2 * 2**-10, "bfloat16": 2 * 2**-7}
"""Two units in the last place of halves: what may differ where sums are rounded in another order."""

SKIPPED = {
    r"training_mode$|^test_training_dropout": "training mode",
    r"^test_(greater|less|add|sub|div|max|min|mod|bitshift)_.*uint(16|32|64)": "torch has no arithmetic of these types",
    r"^test_bitwise_not_3d$": "torch has no arithmetic of uint16",
    r"^test_resize_downsample_scales_(linear|cubic)_align_corners$": "the last element of 2.4; ONNX Runtime: of 2",
}
"""Pattern of a case -> why its operators do not compute it as ONNX's own reference does."""

Tensors = Mapping[str, torch.Tensor]


@cache
def all_cases() -> tuple[Case, ...]:
    """Return every node model that the installed onnx generates, with its inputs."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its samples divide by zero on purpose
        return tuple(collect_testcases(None))


@cache
def cases() -> tuple[Case, ...]:
    """Return those whose operators are all in the table, of tensors of types that torch has."""
    return tuple(case for case in all_cases() if _is_ours(case))


def skipped(case: Case) -> str | None:
    """Say why a case is not compared; None where it is."""
    return next((reason for pattern, reason in SKIPPED.items() if re.search(pattern, case.name)), None)


def _is_ours(case: Case) -> bool:
    graph = case.model.graph
    if any(node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS for node in graph.node):
        return False
    kinds = [value.type for value in (*graph.input, *graph.output)]
    return all(kind.HasField("tensor_type") and has_type(kind.tensor_type.elem_type) for kind in kinds)


def has_type(elem_type: int) -> bool:
    """Say whether torch has tensors of a type (of the float8 and 4-bit types it has no arithmetic)."""
    names = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT16", "INT32", "INT64", "BOOL")
    return TensorProto.DataType.Name(elem_type) in (*names, "UINT8", "UINT16", "UINT32", "UINT64")


def to_torch(value: Any) -> torch.Tensor:
    array = np.array(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def feeds_of(case: Case) -> dict[str, torch.Tensor]:
    names = [value.name for value in case.model.graph.input]
    return {name: to_torch(value) for name, value in zip(names, case.data_sets[0][0], strict=True)}


def run(
    model: onnx.ModelProto, feeds: Tensors, load: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
) -> dict[str, torch.Tensor]:
    """Run a model node by node, and check that no operator writes into what it is given.

    Args:
        model: its operators are in the table.
        feeds: inputs by name.
        load: applied to the initializers.
    """
    graph = ir.from_proto(model).graph
    values = {name: load(to_torch(value.const_value.numpy())) for name, value in graph.initializers.items()}
    values.update(feeds)
    for node in graph:
        given = [None if value is None or not value.name else values[value.name] for value in node.inputs]
        versions = [None if tensor is None else tensor._version for tensor in given]
        call = call_of(node, graph.opset_imports[""])
        found = OPERATORS[node.op_type](call, given)
        assert versions == [None if tensor is None else tensor._version for tensor in given], node.op_type
        outputs = found if isinstance(found, tuple) else (found,)
        assert len(outputs) == len(call.outputs), node.op_type
        values.update({v.name: t for v, t in zip(node.outputs, outputs, strict=True) if v.name})
    return {value.name: values[value.name] for value in graph.outputs}


def difference(given: torch.Tensor, wanted: Any, rtol: float, atol: float) -> str:
    """Say how a tensor differs from what is wanted; "" where it does not. Integers must be equal."""
    have = to_numpy(given)
    want = np.asarray(numpy_helper.to_array(wanted) if isinstance(wanted, TensorProto) else wanted)
    if (have.dtype, have.shape) != (want.dtype, want.shape):
        return f"{have.dtype}{list(have.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "iub":
        return "" if np.array_equal(have, want) else f"{np.count_nonzero(have != want)} of {want.size} differ"
    rtol = max(rtol, UNITS.get(want.dtype.name, 0.0))
    have, want = have.astype(np.float64), want.astype(np.float64)
    is_close = np.isclose(have, want, rtol, atol, equal_nan=True)
    return "" if is_close.all() else f"{np.count_nonzero(~is_close)} of {want.size} differ"
