"""Which nodes stay in float because what reads them needs numbers that are not rounded.

    y = (x - mean) / deviation        MeanVarianceNormalization as ONNX Runtime computes it

The operator's definition adds 1e-9 to the deviation, ONNX Runtime does not. Where rounding makes all numbers of a
channel one and the same, it gives 0 / 0.

An AveragePool with dilations has no integer form, and ONNX Runtime makes it one all the same where it stands between
two grids: it does not load such a file.
"""

from collections.abc import Iterator

import onnx_ir as ir

from fewbits.graph.topology import constant, op_rule
from fewbits.spec.optable import Kind

_DIVIDES, _POOLS = "MeanVarianceNormalization", "AveragePool"
_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Celu", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
        "HardSwish", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal",
        "Relu", "Round", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh",
        "ThresholdedRelu",
    }
)  # fmt: skip
"""Of equal numbers these make equal numbers, beside constants."""


def read_in_float(graph: ir.Graph) -> dict[ir.Node, str]:
    """Return why nodes stay in float: a node that reads what they write, or what follows from it, needs it so.

    Followed upwards are operators that only move values, and elementwise ones with one input that is no constant: were
    what these read rounded, equal numbers would stay equal down to a MeanVarianceNormalization, and ONNX Runtime moves
    grids down through them.
    """
    found: dict[ir.Node, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        reason = _need(node)
        if reason and node.inputs[0] is not None:
            for above in _above(node.inputs[0], graph):
                found.setdefault(above, reason)
    return found


def _need(node: ir.Node) -> str:
    if node.domain != "":
        return ""
    if node.op_type == _DIVIDES:
        return (
            f"{_DIVIDES} {node.name!r} divides by the deviation of its output, which is 0 where rounding makes a "
            f"channel constant"
        )
    if node.op_type == _POOLS and op_rule(node) is None:
        return f"{_POOLS} {node.name!r} has dilations, and ONNX Runtime does not load it between two grids"
    return ""


def _above(value: ir.Value, graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the writer of `value`, and on upwards as long as equal inputs make equal outputs."""
    node = value.producer()
    while node is not None and node.graph is graph:
        yield node
        computed = [v for v in node.inputs if v is not None and constant(v) is None]
        source = node.inputs[0] if _moves(node) else computed[0] if _maps(node) and len(computed) == 1 else None
        node = source.producer() if source is not None else None


def _moves(node: ir.Node) -> bool:
    rule = op_rule(node)
    return rule is not None and rule.kind is Kind.PASS


def _maps(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _ELEMENTWISE
