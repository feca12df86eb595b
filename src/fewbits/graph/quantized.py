"""Models that are quantized already: recognize them, and bring integer operators into the form of QDQ.

QLinearConv (x, w, y in codes) = DequantizeLinear (x), DequantizeLinear (w), Conv, QuantizeLinear (y); likewise the
others of `_FORMS`, and operators that only pass codes on. DynamicQuantizeLinear goes where MatMulInteger and
ConvInteger read its codes: its scale is 1 from then on, and they multiply floats.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import all_nodes, unique_name, value_names
from fewbits.graph.passes.base import add_initializer, is_onnx
from fewbits.graph.topology import constant, op_rule
from fewbits.spec.optable import Kind

_PREFIXES = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize", "MatMulNBits",
             "QMoE", "GatherBlockQuantized", "QEmbed", "QOrdered")  # fmt: skip
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def quantized_nodes(model: ir.Model) -> dict[str, int]:
    """Return operator -> count of the nodes that quantize, dequantize or compute in integers; empty for float."""
    found = (node.op_type for node in all_nodes(model) if node.domain in ("", "ai.onnx", "com.microsoft"))
    return dict(Counter(op for op in found if op in _PAIR or op.startswith(_PREFIXES)).most_common())


def refuse_quantized(model: ir.Model, what: str) -> None:
    """Refuse a model that is quantized already: rounding it a second time must be asked for.

    Args:
        model: loaded.
        what: what the message calls it.

    Raises:
        ModelError: it is.
    """
    counts = quantized_nodes(model)
    if counts:
        parts = ", ".join(f"{count} {op}" for op, count in counts.items())
        can_import = " take its grids as they are with `fewbits import`," if set(counts) <= set(_PAIR) else ""
        raise ModelError(
            f"The model {what!r} is quantized already ({parts}): give the float model that it was made from,"
            f"{can_import} or get the float model behind it with `fewbits prepare --requantize` and quantize that."
        )


@dataclass(frozen=True, slots=True)
class _Form:
    """An integer operator: the float operator in it, and where its codes are; each is followed by scale and zero point.

    Attributes:
        op: the float operator.
        operands: positions of codes.
        result: position of the scale of what it writes.
        bias: position of an int32 bias, whose scale is the product of the first two.
    """

    op: str
    operands: tuple[int, ...]
    result: int
    bias: int | None = None


_FORMS = {
    "QLinearConv": _Form("Conv", (0, 3), 6, 8),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearSigmoid": _Form("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), 3),
    "QLinearSoftmax": _Form("Softmax", (0,), 3),
    "QLinearAveragePool": _Form("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), 3),
    "QGemm": _Form("Gemm", (0, 3), 7, 6),
}
_NOT_ONNX = ("channels_last", "opset")
"""Attributes of ONNX Runtime's own operators that ONNX's do not have."""

Parameters = tuple[ir.Value, ir.Value | None]


def as_qdq(model: ir.Model) -> ir.Model:
    """Return the model with its integer operators as float ones between QuantizeLinear and DequantizeLinear.

    What has no such form is left; the model given is left as it is.

    Args:
        model: loaded, constants as initializers, types known.
    """
    copy = model.clone()
    work = _Rewriter(copy, value_names(copy))
    for node in list(copy.graph):
        work.rewrite(node)
    copy.graph.sort()
    return copy


@dataclass
class _Rewriter:
    model: ir.Model
    taken: set[str]
    grids: dict[ir.Value, Parameters] = field(default_factory=dict)

    def rewrite(self, node: ir.Node) -> None:
        """Bring one node into the form of QDQ, where there is one."""
        if node.op_type in _FORMS and not node.attributes.get_int("channels_last", 0):
            self._expand(node, _FORMS[node.op_type])
        elif node.op_type == "QLinearConcat":
            self._expand_concat(node)
        elif is_onnx(node, "QuantizeLinear") and node.inputs[1] is not None:
            self.grids[node.outputs[0]] = (node.inputs[1], _at(node, 2))
        elif is_onnx(node, "DynamicQuantizeLinear"):
            self._undo_dynamic(node)
        elif (rule := op_rule(node)) is not None and rule.kind is Kind.PASS and node.inputs[0] in self.grids:
            self._pass(node)

    def _expand(self, node: ir.Node, form: _Form) -> None:
        """Put floats in the place of codes around one operator."""
        axes = (None, 0 if form.op == "Conv" else 1)
        floats: list[ir.Value | None] = [
            self._dequantized(node, position, axis) for position, axis in zip(form.operands, axes, strict=False)
        ]
        if form.bias is not None and (codes := _at(node, form.bias)) is not None:
            scale = self._product(node.inputs[form.operands[0] + 1], node.inputs[form.operands[1] + 1], codes)
            if scale is None:
                return
            by_row = [ir.AttrInt64("axis", 0)] if scale.shape is not None and scale.shape.rank() else []
            floats.append(self._node("DequantizeLinear", [codes, scale], f"{codes.name}_float", node, by_row))
        attributes = [a for a in node.attributes.values() if a.name not in _NOT_ONNX]
        self._replace(node, form.op, floats, attributes, (_need(node, form.result), _at(node, form.result + 1)))

    def _expand_concat(self, node: ir.Node) -> None:
        floats: list[ir.Value | None] = [
            self._dequantized(node, position, None) for position in range(2, len(node.inputs), 3)
        ]
        self._replace(node, "Concat", floats, list(node.attributes.values()), (_need(node, 0), _at(node, 1)))

    def _pass(self, node: ir.Node) -> None:
        """Let an operator that passes codes on pass on what they stand for."""
        source = _need(node, 0)
        grid = self.grids[source]
        if len(node.outputs) == 1:
            value = self._node("DequantizeLinear", [source, *grid], f"{source.name}_float", node, [])
            self._replace(node, node.op_type, [value, *node.inputs[1:]], list(node.attributes.values()), grid)

    def _undo_dynamic(self, node: ir.Node) -> None:
        """Take DynamicQuantizeLinear out where everything that reads its codes multiplies them with stored ones."""
        codes, source = node.outputs[0], _need(node, 0)
        readers = [use.node for use in codes.uses()]
        if not all(use.idx == 0 and _multiplies_stored(use.node) for use in codes.uses()):
            return
        for reader in readers:
            self._multiply_floats(reader, source)
        node.outputs[1].replace_all_uses_with(
            add_initializer(self.model, f"{node.name}_scale", np.array(1, np.float32))
        )
        self.model.graph.remove(node, safe=True)

    def _multiply_floats(self, node: ir.Node, source: ir.Value) -> None:
        weight, zero = constant(node.inputs[1]), constant(_at(node, 3))
        assert weight is not None
        codes = weight.numpy().astype(np.float32)
        if zero is not None:
            offset = zero.numpy().astype(np.float32)
            is_by_row = node.op_type == "ConvInteger" and offset.size > 1
            codes = codes - (offset.reshape(-1, *([1] * (codes.ndim - 1))) if is_by_row else offset)
        floats = add_initializer(self.model, f"{weight.name}_float", codes)
        op = "MatMul" if node.op_type == "MatMulInteger" else "Conv"
        old = node.outputs[0]
        out = self._node(op, [source, floats], f"{old.name}_float", node, list(node.attributes.values()))
        old.replace_all_uses_with(out)  # by Casts to float, which do nothing from now on
        self.model.graph.remove(node, safe=True)

    def _dequantized(self, node: ir.Node, position: int, axis: int | None) -> ir.Value:
        """Return what the codes at an input stand for, whose scale and zero point are the inputs behind it."""
        codes, scale = _need(node, position), _need(node, position + 1)
        by_row = axis is not None and scale.shape is not None and scale.shape.rank() == 1 and scale.shape[0] != 1
        attributes = [ir.AttrInt64("axis", axis)] if by_row and axis is not None else []
        inputs = [codes, scale, _at(node, position + 2)]
        return self._node("DequantizeLinear", inputs, f"{codes.name}_float", node, attributes)

    def _replace(
        self, node: ir.Node, op: str, floats: list[ir.Value | None], attributes: list[ir.Attr], grid: Parameters
    ) -> None:
        """Put the float operator and a QuantizeLinear in the place of `node`."""
        old = node.outputs[0]
        value = self._node(op, floats, f"{old.name}_float", node, attributes)
        value.shape = old.shape
        codes = self._node("QuantizeLinear", [value, *grid], f"{old.name}_codes", node, [])
        codes.dtype = ir.DataType.UINT8 if grid[1] is None or grid[1].dtype is None else grid[1].dtype
        codes.shape = old.shape
        self.grids[codes] = grid
        old.replace_all_uses_with(codes, replace_graph_outputs=True)
        self.model.graph.remove(node, safe=True)

    def _node(
        self, op: str, inputs: list[ir.Value | None], wanted: str, before: ir.Node, attributes: list[ir.Attr]
    ) -> ir.Value:
        name = unique_name(wanted, self.taken)
        node = ir.Node("", op, inputs, attributes, num_outputs=1, name=unique_name(f"{name}_node", self.taken))
        node.outputs[0].name, node.outputs[0].dtype = name, ir.DataType.FLOAT
        self.model.graph.insert_before(before, node)
        return node.outputs[0]

    def _product(self, first: ir.Value | None, second: ir.Value | None, codes: ir.Value) -> ir.Value | None:
        """Return the scale of an int32 bias: that of the input times those of the weight; None where it is computed."""
        left, right = constant(first), constant(second)
        if left is None or right is None:
            return None
        scale = (left.numpy().astype(np.float32) * right.numpy().astype(np.float32)).reshape(-1)
        return add_initializer(self.model, f"{codes.name}_scale", scale if scale.size > 1 else scale.reshape(()))


def _multiplies_stored(node: ir.Node) -> bool:
    out = node.outputs[0]
    if not is_onnx(node, "MatMulInteger", "ConvInteger") or constant(node.inputs[1]) is None:
        return False
    zero = _at(node, 3)
    is_cast = all(is_onnx(use.node, "Cast") and use.node.attributes.get_int("to", 0) == 1 for use in out.uses())
    return (zero is None or constant(zero) is not None) and is_cast and not out.is_graph_output()


def _at(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _need(node: ir.Node, position: int) -> ir.Value:
    value = _at(node, position)
    if value is None:
        raise ModelError(f"{node.op_type} {node.name!r} lacks its input {position}: export the model again.")
    return value
