"""Stage strip: a QDQ graph, whoever wrote it, -> the float graph behind it and the grids that it was quantized on.

The inverse of insert. Stored integers become the floats that they stand for, pairs of QuantizeLinear and
DequantizeLinear go, and float16 regions between Casts become float32 nodes whose tensors are noted.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import unique_name, value_names
from fewbits.graph.passes import dead_code
from fewbits.graph.topology import constant
from fewbits.numerics.affine import dequantize
from fewbits.quantization.strip_clamps import restore_clamps
from fewbits.quantization.strip_half import widen_halves
from fewbits.quantization.strip_narrow import join_clipped
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.given import Edge, GivenGrids

_INTEGER_OPERATORS = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "MatMulNBits")
_STORED = ("_quantized", "_quant", "_q")
"""What tools append to the name of a weight whose codes they store."""
_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True, eq=False)
class Stripped:
    """What is behind a QDQ model.

    Attributes:
        model: the float graph.
        given: its grids.
        clamps: how many activations were put back that the file leaves to its grids.
    """

    model: ir.Model
    given: GivenGrids
    clamps: int


def strip_qdq(model: ir.Model, source: str) -> Stripped:
    """Return the float graph of a QDQ model, and its grids.

    Args:
        model: loaded, constants as initializers, types known; left as it is.
        source: what messages call it.

    Raises:
        ModelError: it holds no QuantizeLinear or DequantizeLinear, integer operators in their place, or pairs that
            are not pairs.
    """
    copy = model.clone()
    _refuse_integers(copy.graph, source)
    _drop_guards(copy.graph)
    halves = widen_halves(copy, source)
    if not halves and not any(node.op_type in _PAIR for node in copy.graph):
        raise ModelError(
            f"{source} holds no QuantizeLinear or DequantizeLinear: it is a float model, which the other commands "
            f"take as it is."
        )
    work = _Stripper(copy, source, join_clipped(copy))
    work.run()
    dead_code.run(copy)
    alive = {*copy.graph.initializers.values(), *copy.graph.inputs, *(v for node in copy.graph for v in node.outputs)}
    work.found = [grid for grid in work.found if grid.value in alive]  # scales may be stored as integers, too
    left = next((node for node in copy.graph if node.op_type in _PAIR), None)
    if left is not None:
        raise ModelError(
            f"{source} has {left.op_type} {left.name!r} without its other half: models whose inputs or outputs are "
            f"integers cannot be read."
        )
    given, half = work.given(frozenset(str(value.name) for value in halves)), set(halves)
    written = [(value, encoding) for value, encoding in work.written() if value not in half]
    return Stripped(copy, given, restore_clamps(copy, written))


@dataclass(slots=True)
class _Found:
    """One grid: of a tensor, seen by some of its readers."""

    value: ir.Value
    encoding: Encoding
    edges: list[tuple[ir.Node, int]]
    is_conversion: bool = False
    is_partial: bool = False


@dataclass
class _Stripper:
    model: ir.Model
    source: str
    narrow: dict[ir.Node, int]
    found: list[_Found] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def run(self) -> None:
        nodes = list(self.model.graph)
        self.taken = value_names(self.model)
        quantizers = [node for node in nodes if node.op_type == "QuantizeLinear"]
        conversions = {node for node in quantizers if _is_conversion(node)}
        partial = {node for node in quantizers if _is_partial(node)}
        for node in nodes:
            if node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None:
                self._store(node)
            elif node.op_type == "QuantizeLinear":
                self._join(node, node in conversions, node in partial)

    def _store(self, node: ir.Node) -> None:
        """Replace codes and their DequantizeLinear by the floats that they stand for."""
        codes, out = node.inputs[0], node.outputs[0]
        tensor = constant(codes)
        assert codes is not None
        assert tensor is not None
        encoding = self._encoding(node, tensor)
        stem = next((str(codes.name).removesuffix(end) for end in _STORED if str(codes.name).endswith(end)), "")
        if (
            stem in ("", out.name) and not out.is_graph_output()
        ):  # the name of the floats is that of their reader's input
            stem, out.name = str(out.name), unique_name(f"{out.name}_dequantized", self.taken)
            self.taken.discard(stem)
        name = unique_name(stem or f"{out.name}_float", self.taken)
        floats = ir.Tensor(dequantize(tensor.numpy(), encoding), name=name)
        kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(floats.shape)
        value = ir.Value(name=name, shape=shape, type=kind, const_value=floats)
        self.model.graph.register_initializer(value)
        self.found.append(_Found(value, encoding, self._move(out, value)))

    def _join(self, quantizer: ir.Node, is_conversion: bool, is_partial: bool) -> None:
        """Remove a QuantizeLinear and every DequantizeLinear behind it."""
        source = quantizer.inputs[0]
        assert source is not None
        encoding = self._encoding(quantizer, constant(source))
        edges: list[tuple[ir.Node, int]] = []
        for use in list(quantizer.outputs[0].uses()):
            if use.node.op_type != "DequantizeLinear":
                raise ModelError(
                    f"{self.source} reads the codes of {source.name!r} with {use.node.op_type} {use.node.name!r}: only "
                    f"QuantizeLinear followed by DequantizeLinear can be read."
                )
            edges += self._move(use.node.outputs[0], source)
        for known in self.found:
            if known.value is source and _alike(known.encoding, encoding):
                known.edges += edges
                known.is_partial |= is_partial
                return
        self.found.append(_Found(source, encoding, edges, is_conversion, is_partial))

    def _move(self, old: ir.Value, new: ir.Value) -> list[tuple[ir.Node, int]]:
        """Let the readers of `old` read `new`, and the model give it out; return the operators among them."""
        edges = []
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
            if use.node.op_type not in _PAIR:
                edges.append((use.node, use.idx))
        if old.is_graph_output():
            self._give_out(old, new)
        return edges

    def _give_out(self, old: ir.Value, new: ir.Value) -> None:
        """Make `new` the output of the model that `old` was, under its name."""
        graph, name = self.model.graph, str(old.name)
        old.name = unique_name(f"{name}_dequantized", self.taken)
        if new.producer() is None or new.is_graph_output():
            node = ir.Node("", "Identity", [new], num_outputs=1, name=unique_name(f"{name}_identity", self.taken))
            node.outputs[0].type, node.outputs[0].shape = new.type, new.shape
            graph.append(node)
            new = node.outputs[0]
        new.name = name
        for i, out in enumerate(graph.outputs):
            if out is old:
                graph.outputs[i] = new

    def _encoding(self, node: ir.Node, tensor: ir.TensorProtocol | None) -> Encoding:
        scale = constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or (zero is None and len(node.inputs) > 2 and node.inputs[2] is not None):
            raise ModelError(
                f"{self.source} computes the scale or zero point of {node.op_type} {node.name!r}: only constant ones "
                f"can be read."
            )
        scales = scale.numpy().astype(np.float32)
        zeros = np.zeros(scales.shape, np.int64) if zero is None else zero.numpy().astype(np.int64)
        granularity = _granularity(node, scales.shape, tensor)
        if isinstance(granularity, PerTensor):
            scales, zeros = scales.reshape(()), zeros.reshape(())
        dtype = self._dtype(node, tensor)
        uses_lowest = not dtype.is_signed or np.any(zeros) or _lowest(node, tensor, dtype)
        return Encoding(
            QuantSpec(dtype, self.narrow.get(node, dtype.bits), not uses_lowest, granularity), scales, zeros
        )

    def _dtype(self, node: ir.Node, tensor: ir.TensorProtocol | None) -> DType:
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        is_stored = node.op_type == "DequantizeLinear" and tensor is not None
        kind = tensor.dtype if is_stored and tensor is not None else None if zero is None else zero.dtype
        if kind is None:
            kind = ir.DataType(node.attributes.get_int("output_dtype", 0) or int(ir.DataType.UINT8))
        try:
            return DType(kind.name.lower())
        except ValueError:
            raise ModelError(
                f"{self.source} quantizes to {kind.name.lower()} at {node.op_type} {node.name!r}: fewbits knows the "
                f"integer types of 4, 8 and 16 bits, and int32."
            ) from None

    def written(self) -> list[tuple[ir.Value, Encoding]]:
        """Return the tensors that nothing reads but through their one grid."""
        counts = Counter(grid.value for grid in self.found)
        return [
            (grid.value, grid.encoding)
            for grid in self.found
            if counts[grid.value] == 1 and not grid.is_partial and not grid.is_conversion
        ]

    def given(self, halves: frozenset[str]) -> GivenGrids:
        """Return what was found, under the names that tensors have in the end."""
        encodings: dict[str, Encoding] = {}
        tensors: dict[str, str] = {}
        readers: dict[str, tuple[Edge, ...]] = {}
        converted = set()
        raw: dict[ir.Value, int] = {}
        names = value_names(self.model)
        for grid in self.found:
            raw[grid.value] = raw.get(grid.value, 0) + (not grid.is_conversion)
        for grid in self.found:
            tensor = str(grid.value.name)
            key = (
                tensor if tensor not in encodings else unique_name(f"{tensor}@{grid.encoding.spec.dtype.value}", names)
            )
            encodings[key] = grid.encoding
            if key != tensor:
                tensors[key] = tensor
            if grid.is_conversion:
                converted.add(key)
            seen = {(use.node, use.idx) for use in grid.value.uses()}
            is_whole = not grid.is_conversion and raw[grid.value] == 1 and not grid.is_partial
            if key != tensor or not (is_whole and (grid.value.producer() is not None or seen == set(grid.edges))):
                readers[key] = tuple((str(node.name), position) for node, position in grid.edges)
        return GivenGrids(encodings, tensors, readers, frozenset(converted), halves, self.source)


def _refuse_integers(graph: ir.Graph, source: str) -> None:
    for node in graph:
        if node.op_type.startswith(_INTEGER_OPERATORS):
            raise ModelError(
                f"{source} computes in integers with {node.op_type} {node.name!r}: only the QDQ form can be read. "
                f"Export it with QuantizeLinear and DequantizeLinear around float operators."
            )


def _drop_guards(graph: ir.Graph) -> None:
    """Remove the Max that keeps float layers float: see insert."""
    for node in list(graph):
        bound = constant(node.inputs[1]) if node.op_type == "Max" and len(node.inputs) == 2 else None
        if bound is None or bound.size != 1 or node.outputs[0].is_graph_output():
            continue
        if bound.numpy().item() == np.finfo(np.float32).min and node.inputs[0] is not None:
            for use in list(node.outputs[0].uses()):
                use.node.replace_input_with(use.idx, node.inputs[0])
            graph.remove(node, safe=True)


def _is_conversion(quantizer: ir.Node) -> bool:
    above = quantizer.inputs[0].producer() if quantizer.inputs[0] is not None else None
    return above is not None and above.op_type == "DequantizeLinear" and constant(above.inputs[0]) is None


def _is_partial(quantizer: ir.Node) -> bool:
    """Whether something reads the float tensor beside its QuantizeLinear."""
    source = quantizer.inputs[0]
    return source is not None and not _is_conversion(quantizer) and (source.is_graph_output() or _has_other(source))


def _has_other(value: ir.Value) -> bool:
    return any(use.node.op_type != "QuantizeLinear" for use in value.uses())


def _granularity(node: ir.Node, scales: tuple[int, ...], tensor: ir.TensorProtocol | None) -> Granularity:
    axis, size = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    if size:
        return PerBlock(axis, size)
    is_one = len(scales) == 1 and scales[0] == 1
    if not scales or (is_one and not (tensor is not None and "axis" in node.attributes)):
        return PerTensor()
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else axis + 1
    return PerChannel(axis % max(rank, 1))


def _lowest(node: ir.Node, tensor: ir.TensorProtocol | None, dtype: DType) -> bool:
    """Whether the lowest signed code may be in use: symmetric grids of fewbits leave it out."""
    if node.op_type == "QuantizeLinear" or tensor is None or dtype is DType.INT32:
        return node.op_type == "QuantizeLinear"
    return bool(np.any(tensor.numpy().astype(np.int32) == -(2 ** (dtype.bits - 1))))


def _alike(left: Encoding, right: Encoding) -> bool:
    return (
        left.spec == right.spec
        and np.array_equal(left.scale, right.scale)
        and np.array_equal(left.zero_point, right.zero_point)
    )
