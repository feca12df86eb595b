"""Stage insert: (float graph, plan, encodings) -> QDQ graph. What is scored is what is shipped; there is no other form.

Weights become stored integers behind a DequantizeLinear, activations pass a QuantizeLinear -> DequantizeLinear pair,
biases are int32, fp16 nodes hold float16 weights between Casts, and a change of width is an explicit DQ -> Q pair.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.naming import all_nodes, value_names
from fewbits.graph.opset import QDQ_OPSET
from fewbits.graph.topology import constant, is_float32
from fewbits.numerics.affine import quantize
from fewbits.quantization.encode import Encoded
from fewbits.quantization.half import HalfPrecision
from fewbits.spec.dtypes import DType, PerBlock, PerChannel
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role

_NEWEST_QDQ_OPSET = 27  # ORT 1.32 has no kernel for the QuantizeLinear of 28, but runs its own, of any width
_REQUANTIZED = frozenset({"Conv", "ConvTranspose", "Gemm"})  # by ORT's WeightBiasQuantization
_ONNX_TYPES = {
    DType.INT4: ir.DataType.INT4,
    DType.UINT4: ir.DataType.UINT4,
    DType.INT8: ir.DataType.INT8,
    DType.UINT8: ir.DataType.UINT8,
    DType.INT16: ir.DataType.INT16,
    DType.UINT16: ir.DataType.UINT16,
    DType.INT32: ir.DataType.INT32,
}


def insert_qdq(model: ir.Model, plan: Plan, encoded: Encoded) -> ir.Model:
    """Return a copy of `model` with the plan carried out; names of inputs, outputs and float tensors are kept.

    Raises:
        SpecError: the model's opset is too old for a width in the plan.
    """
    copy = model.clone()
    _Inserter(copy, plan, encoded).run()
    return copy


@dataclass
class _Inserter:
    model: ir.Model
    plan: Plan
    encoded: Encoded
    values: dict[str, ir.Value] = field(default_factory=dict)
    dequantized: dict[str, ir.Value] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    passed: list[ir.Node] = field(default_factory=list)
    domain: str = ""

    def run(self) -> None:
        graph = self.model.graph
        self.domain = self._domain()
        nodes = list(graph)
        for value in (*graph.inputs, *graph.initializers.values(), *(v for n in nodes for v in n.outputs)):
            self.values[str(value.name)] = value
        # a node's name, too: ONNX Runtime wants all of them to differ; and those inside control flow
        self.taken = value_names(self.model) | {str(node.name) for node in all_nodes(self.model)}
        readers = {v: [(u.node, u.idx) for u in v.uses()] for v in self.values.values()}
        for value in (self.values[name] for name in self.plan.outputs):
            if readers[value] or value.is_graph_output():
                self._detach(value, readers[value])
        for node in nodes:
            for position in range(len(node.inputs)):
                key = self.plan.inputs.get((str(node.name), position))
                if key is not None:
                    node.replace_input_with(position, self._read(key))
        half = HalfPrecision(graph, self.plan, self._unique)
        half.apply(nodes)
        half.drop_unused()
        self._guard_floats(nodes)
        self._guard_blocks(nodes)
        self._drop_unused()

    def _guard_floats(self, nodes: list[ir.Node]) -> None:
        """Keep float layers float: ORT turns float weights between DequantizeLinear and QuantizeLinear to int8 unasked.

        A Max with the lowest number, which changes nothing, behind the DequantizeLinear stops its
        WeightBiasQuantization under every session option.
        """
        lowest: ir.Value | None = None
        for node in nodes:
            source = node.inputs[0] if node.op_type in _REQUANTIZED and node.inputs else None
            above = source.producer() if source is not None else None
            if source is None or above is None or above.op_type != "DequantizeLinear":
                continue
            if not is_float32(node.inputs[1]) or constant(node.inputs[1]) is None:
                continue
            lowest = lowest or self._initializer("lowest_float", ir.Tensor(np.array(np.finfo(np.float32).min)))
            guard = self._node("Max", [source, lowest], f"{source.name}_kept_float", {}, domain="")
            guard.dtype, guard.shape = ir.DataType.FLOAT, source.shape
            node.replace_input_with(0, guard)

    def _guard_blocks(self, nodes: list[ir.Node]) -> None:
        """Keep a Conv whose int8 weight has blocks out of ORT's QLinearConv, which fails on several scales per channel.

        A bias in float, of zeros, which changes nothing, stops the fusion.
        """
        for node in nodes:
            key = self.plan.inputs.get((str(node.name), 1))
            if node.op_type != "Conv" or key is None or (len(node.inputs) > 2 and node.inputs[2] is not None):
                continue
            spec = self.plan.grids[key].spec
            if isinstance(spec.granularity, PerBlock) and spec.dtype.bits == 8:
                node.resize_inputs(3)
                zeros = ir.Tensor(np.zeros(self.encoded.encodings[key].scale.shape[0], np.float32))
                node.replace_input_with(2, self._initializer(f"{key}_kept_float", zeros))

    def _domain(self) -> str:
        opset = self.model.graph.opset_imports.get("", 0)
        if QDQ_OPSET <= opset <= _NEWEST_QDQ_OPSET:
            return ""
        if opset < QDQ_OPSET and any(g.spec.dtype.bits == 4 for g in self.plan.grids.values()):
            raise SpecError(
                f"4-bit grids need ONNX opset {QDQ_OPSET}, and this model could only be kept at opset {opset}: see the "
                f"reason that `fewbits prepare` prints, or use 8 bits."
            )
        if 13 <= opset < QDQ_OPSET and all(g.spec.dtype.bits in (8, 32) for g in self.plan.grids.values()):
            return ""
        self.model.graph.opset_imports["com.microsoft"] = 1
        return "com.microsoft"

    def _detach(self, value: ir.Value, uses: list[tuple[ir.Node, int]]) -> None:
        """Let every reader of a quantized tensor, and the graph's output, see it dequantized."""
        result = self._read(str(value.name))
        for node, position in uses:
            node.replace_input_with(position, result)
        graph = self.model.graph
        if value.is_graph_output():
            for i, out in enumerate(graph.outputs):
                if out is value:
                    graph.outputs[i] = result
            name = str(value.name)
            value.name = self._unique(f"{name}_float")
            result.name = name

    def _read(self, key: str) -> ir.Value:
        """Return the dequantized value of grid `key`, made on first use."""
        if key not in self.dequantized:
            grid = self.plan.grids[key]
            stored = grid.role is not Role.ACTIVATION
            self.dequantized[key] = self._stored(key) if stored else self._pair(key)
        return self.dequantized[key]

    def _pair(self, key: str) -> ir.Value:
        grid = self.plan.grids[key]
        source = self._read(grid.converts) if grid.converts else self.values[grid.tensor]
        parameters = self._parameters(key)
        if grid.spec.bits == grid.spec.dtype.bits or grid.fixed_range is not None:
            return self._on_grid(key, source, parameters, "")
        # the container has codes that the grid lacks, and QuantizeLinear clips to those of the container
        encoding, spec = self.encoded.encodings[key], grid.spec
        codes: list[Any] = [spec.qmin, spec.qmax]
        clip = source.producer()
        if clip is not None and self._is_fused(clip):
            source, codes = self._without(clip, encoding)
        bounds = [(np.float32(q - encoding.zero_point) * encoding.scale).astype(np.float32) for q in codes]
        result = self._on_grid(key, source, parameters, "")
        limits = [
            self._initializer(f"{key}_{end}", ir.Tensor(b)) for end, b in zip(("low", "high"), bounds, strict=True)
        ]
        clipped = self._node("Clip", [result, *limits], f"{key}_clipped", {}, domain="")
        clipped.dtype, clipped.shape = ir.DataType.FLOAT, source.shape
        return self._on_grid(key, clipped, parameters, "_clipped")

    def _is_fused(self, node: ir.Node) -> bool:
        """Whether it is a Clip with constant bounds that is fused with the layer whose output it reads."""
        source = node.inputs[0]
        return (
            node.op_type == "Clip"
            and source is not None
            and source.producer() is not None
            and str(source.name) not in self.plan.outputs
            and (str(node.name), 0) not in self.plan.inputs
            and not self.plan.nodes[str(node.name)].precision.is_float
            and all(bound is None or constant(bound) is not None for bound in node.inputs[1:])
        )

    def _without(self, clip: ir.Node, encoding: Encoding) -> tuple[ir.Value, list[Any]]:
        """Return what a fused Clip reads, and the codes of its bounds: rounding keeps the order of values.

        Qualcomm's compiler takes no second Clip between a layer and its grid.
        """
        source, spec = clip.inputs[0], encoding.spec
        assert source is not None
        self.passed.append(clip)
        tensors = [constant(bound) for bound in (*clip.inputs[1:], None, None)][:2]
        ends = zip(tensors, (spec.qmin, spec.qmax), strict=True)
        return source, [end if tensor is None else quantize(tensor.numpy(), encoding).item() for tensor, end in ends]

    def _on_grid(self, key: str, source: ir.Value, parameters: tuple[ir.Value, ir.Value], suffix: str) -> ir.Value:
        quantized = self._node("QuantizeLinear", [source, *parameters], f"{key}{suffix}_q", {})
        quantized.dtype, quantized.shape = _ONNX_TYPES[self.plan.grids[key].spec.dtype], source.shape
        result = self._node("DequantizeLinear", [quantized, *parameters], f"{key}{suffix}_dq", {})
        result.dtype, result.shape = ir.DataType.FLOAT, source.shape
        return result

    def _stored(self, key: str) -> ir.Value:
        grid, encoding = self.plan.grids[key], self.encoded.encodings[key]
        tensor = constant(self.values[grid.tensor])
        assert tensor is not None
        dtype = _ONNX_TYPES[grid.spec.dtype]
        codes: ir.Tensor[Any] | ir.LazyTensor
        if isinstance(tensor, ir.ExternalTensor) and key not in self.encoded.biases:  # in a file: when it is written
            codes = ir.LazyTensor(
                lambda: ir.Tensor(quantize(tensor.numpy(), encoding), dtype=dtype), dtype=dtype, shape=tensor.shape
            )
        else:
            codes = ir.Tensor(quantize(self.encoded.biases.get(key, tensor.numpy()), encoding), dtype=dtype)
        stored = self._initializer(f"{key}_q", codes)
        scale, zero = self._parameters(key)
        match encoding.spec.granularity:
            case PerChannel(axis):
                attributes = {"axis": axis}
            case PerBlock(axis, size):
                attributes = {"axis": axis, "block_size": size}
            case _:
                attributes = {}
        result = self._node("DequantizeLinear", [stored, scale, zero], f"{key}_dq", attributes)
        result.dtype, result.shape = ir.DataType.FLOAT, stored.shape
        return result

    def _parameters(self, key: str) -> tuple[ir.Value, ir.Value]:
        encoding, dtype = self.encoded.encodings[key], self.plan.grids[key].spec.dtype
        zero = encoding.zero_point.astype(np.int32).astype(dtype.numpy)
        return (
            self._initializer(f"{key}_scale", ir.Tensor(encoding.scale)),
            self._initializer(f"{key}_zero_point", ir.Tensor(zero, dtype=_ONNX_TYPES[dtype])),
        )

    def _initializer(self, name: str, tensor: ir.Tensor[Any] | ir.LazyTensor) -> ir.Value:
        value = ir.Value(
            name=self._unique(name), shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        tensor.name = value.name
        self.model.graph.register_initializer(value)
        return value

    def _node(
        self, op: str, inputs: list[ir.Value], output: str, attributes: dict[str, int], *, domain: str | None = None
    ) -> ir.Value:
        name = self._unique(output)
        attrs = [ir.AttrInt64(k, v) for k, v in attributes.items()]
        where = self.domain if domain is None else domain
        node = ir.Node(where, op, inputs, attrs, num_outputs=1, name=self._unique(f"{name}_node"))
        node.outputs[0].name = name
        producer = inputs[0].producer()
        graph = self.model.graph
        if producer is not None:
            graph.insert_after(producer, node)
        else:
            first = next(iter(graph), None)
            graph.append(node) if first is None else graph.insert_before(first, node)
        return node.outputs[0]

    def _unique(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self.taken:
            n += 1
            name = f"{wanted}_{n}"
        self.taken.add(name)
        return name

    def _drop_unused(self) -> None:
        graph = self.model.graph
        for clip in self.passed:
            if not clip.outputs[0].uses() and not clip.outputs[0].is_graph_output():
                graph.remove(clip, safe=True)
        for name, value in list(graph.initializers.items()):
            if not list(value.uses()) and not value.is_graph_output() and is_float32(value):
                del graph.initializers[name]
