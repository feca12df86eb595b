"""A QDQ file seen as operators between grids, whoever wrote it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

_BETWEEN = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Constant"})
FUSED = frozenset({"Relu", "Clip"})
"""Activations that may stand between an operator and its grid."""
_TYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT16: "int16", onnx.TensorProto.UINT4: "uint4", onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.INT32: "int32",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The grid of one value.

    Attributes:
        dtype: container type, as ONNX names it.
        scale: float64, one value, one per channel, or one per block of each channel.
        zero_point: int64, as many.
        is_stored: the codes are a constant of the file: a weight, a bias or another parameter.
        block_size: how many values along an axis share a scale; 0 where scales are per tensor or per channel.
    """

    dtype: str
    scale: npt.NDArray[np.float64]
    zero_point: npt.NDArray[np.int64]
    is_stored: bool
    block_size: int = 0


class QdqView:
    """Answers what stands before and behind an operator.

    Args:
        model: any ONNX model; subgraphs are not looked into.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants |= {
            node.output[0]: value for node in model.graph.node if (value := _constant(node)) is not None
        }
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }

    @cached_property
    def operators(self) -> list[onnx.NodeProto]:
        """All nodes but the pairs themselves, Casts and constants."""
        return [node for node in self._graph.node if node.op_type not in _BETWEEN]

    @cached_property
    def output_scales(self) -> dict[str, float]:
        """Output of the model -> step of its grid, where that has one scale."""
        found = {}
        for name in (value.name for value in self._graph.output):
            source = self._producers.get(name)
            grid = self._seen(source) if source is not None and source.op_type == "DequantizeLinear" else None
            if grid is not None and grid.scale.size == 1:
                found[name] = float(grid.scale[0])
        return found

    def read(self, node: onnx.NodeProto, position: int) -> Seen | None:
        """Return the grid of what a node reads; None where it reads a float."""
        if position >= len(node.input) or not node.input[position]:
            return None
        source = self._producers.get(node.input[position])
        return self._seen(source) if source is not None and source.op_type == "DequantizeLinear" else None

    def highest_code(self, node: onnx.NodeProto, position: int) -> int | None:
        """Return the largest absolute code of what a node reads; None where the codes are not stored in the file."""
        source = self._producers.get(node.input[position])
        codes = self._value(source.input[0]) if source is not None and source.op_type == "DequantizeLinear" else None
        return None if codes is None else int(np.abs(codes).max(initial=0))

    def written(self, node: onnx.NodeProto) -> Seen | None:
        """Return the grid of what a node writes, behind its activation; None where it writes a float."""
        for quantizer in self._quantizers(node.output[0]):
            return self._seen(quantizer)
        return None

    def follower(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the only reader of what a node writes."""
        readers = self._readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 else None

    def is_half(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes in float16."""
        return any(self._types.get(name) == onnx.TensorProto.FLOAT16 for name in node.output) or any(
            name in self._constants and self._constants[name].data_type == onnx.TensorProto.FLOAT16
            for name in node.input
        )

    def is_float_constant(self, node: onnx.NodeProto, position: int) -> bool:
        """Whether a node reads a float32 constant of the file."""
        name = node.input[position] if position < len(node.input) else ""
        return name in self._constants and self._constants[name].data_type == onnx.TensorProto.FLOAT

    def _quantizers(self, name: str) -> Iterator[onnx.NodeProto]:
        readers = self._readers.get(name, [])
        for reader in readers:
            if reader.op_type == "QuantizeLinear":
                yield reader
            elif reader.op_type in FUSED and len(readers) == 1:
                yield from self._quantizers(reader.output[0])

    def _seen(self, node: onnx.NodeProto) -> Seen | None:
        scale = self._value(node.input[1])
        if scale is None:
            return None
        tensor = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        zero = np.zeros(scale.shape) if tensor is None else self._value(node.input[2])
        is_stored = self._is_stored(node)
        kind = tensor.data_type if tensor is not None else self._default_type(node)
        zeros = np.asarray(zero, np.float64).astype(np.int64).ravel()
        block_size = next((a.i for a in node.attribute if a.name == "block_size"), 0)
        return Seen(_TYPES.get(kind, ""), scale.ravel(), zeros, is_stored, block_size)

    def _is_stored(self, node: onnx.NodeProto) -> bool:
        """Whether codes are stored, or are made of a stored float."""
        source = self._producers.get(node.input[0])
        is_behind = source is not None and source.op_type == "QuantizeLinear" and source.input[0] in self._constants
        return node.input[0] in self._constants or is_behind

    def _default_type(self, node: onnx.NodeProto) -> int:
        """Return the type of codes where no zero point tells it: that of the codes, output_dtype, or uint8."""
        if node.op_type == "DequantizeLinear":
            if node.input[0] in self._constants:
                return int(self._constants[node.input[0]].data_type)
            source = self._producers.get(node.input[0])
            return self._default_type(source) if source is not None and source.op_type == "QuantizeLinear" else 0
        named = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
        return int(named or onnx.TensorProto.UINT8)

    def _value(self, name: str) -> npt.NDArray[np.float64] | None:
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant":
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
