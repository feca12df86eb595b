"""A GELU written out in elementary operators becomes one Gelu.

tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))     Gelu, approximate = "tanh"
erf form:  0.5 x (1 + erf(x / sqrt(2)))                          Gelu, approximate = "none"

Order and association do not matter: the argument of Tanh or Erf is expanded into a polynomial in x, the result into one
in x and the value of Tanh or Erf, and the coefficients are compared. Source: ONNX Gelu-20.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.passes.base import Declined, PassResult, Skipped, is_onnx, take_over
from fewbits.graph.passes.polynomial import MAX_DEPTH, OPERATORS, expand

NAME = "fuse-gelu"
OPSET = 20

# Exporters round the constants: 0.7071, 0.7979, 0.0447.
RTOL = 1e-3
_INNER: dict[str, dict[tuple[int, ...], float]] = {
    "Tanh": {(1,): math.sqrt(2 / math.pi), (3,): 0.044715 * math.sqrt(2 / math.pi)},
    "Erf": {(1,): math.sqrt(0.5)},
}
_OUTER: dict[tuple[int, ...], float] = {(1, 0): 0.5, (1, 1): 0.5}


@dataclass(frozen=True, slots=True)
class _Match:
    """A GELU: its x, the node that gives its result, and all its nodes, that one included, each once."""

    x: ir.Value
    root: ir.Node
    nodes: tuple[ir.Node, ...]


def run(model: ir.Model) -> PassResult:
    """Fuse each GELU; the Gelu keeps the node name and the value name of the operator that gave the result."""
    changed, declined = [], []
    for curve in [node for node in model.graph if is_onnx(node, "Tanh", "Erf")]:
        match = _find(curve)
        if match is None:
            continue
        name, approximate = str(match.root.name), "tanh" if curve.op_type == "Tanh" else "none"
        try:
            _check(model, match)
        except Declined as reason:
            declined.append(Skipped(name, str(reason)))
            continue
        _replace(match, approximate)
        changed.append(f"{len(match.nodes)} nodes around {curve.op_type} {curve.name!r} became Gelu {name!r}")
    return PassResult(tuple(changed), tuple(declined))


def _find(curve: ir.Node) -> _Match | None:
    """Return the GELU that this Tanh or Erf belongs to, or None."""
    argument, bend = curve.inputs[0], curve.outputs[0]
    if argument is None:
        return None
    for x in _near(argument, _sources):
        inner = expand(argument, (x,))
        if inner is None or not _agree(inner.terms, _INNER[curve.op_type]):
            continue
        for result in _near(bend, _results):
            outer, root = expand(result, (x, bend)), result.producer()
            if outer is not None and root is not None and _agree(outer.terms, _OUTER):
                return _Match(x, root, tuple(dict.fromkeys((*inner.nodes, curve, *outer.nodes))))
    return None


def _near(start: ir.Value, step: Callable[[ir.Value], list[ir.Value]]) -> Iterator[ir.Value]:
    """Yield `start` and what MAX_DEPTH steps reach from it, nearest first."""
    seen, front = {start}, [start]
    for _ in range(MAX_DEPTH + 1):
        yield from front
        front = [value for value in dict.fromkeys(v for at in front for v in step(at)) if value not in seen]
        seen.update(front)


def _sources(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [v for v in node.inputs if v is not None] if node is not None and is_onnx(node, *OPERATORS) else []


def _results(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    assert node is not None
    readers = [use.node for use in value.uses() if use.node.graph is node.graph]
    return [reader.outputs[0] for reader in readers if is_onnx(reader, *OPERATORS)]


def _agree(terms: Mapping[tuple[int, ...], float], wanted: Mapping[tuple[int, ...], float]) -> bool:
    return terms.keys() == wanted.keys() and all(
        math.isclose(terms[powers], number, rel_tol=RTOL) for powers, number in wanted.items()
    )


def _check(model: ir.Model, match: _Match) -> None:
    """Raise Declined where Gelu does not exist, or something else needs a value inside the GELU."""
    version = model.opset_imports.get("", 0)
    if version < OPSET:
        raise Declined(f"Gelu needs ai.onnx opset {OPSET}, and the model has {version}")
    for value in (node.outputs[0] for node in match.nodes if node is not match.root):
        if value.is_graph_output():
            raise Declined(f"{value.name!r}, a value inside the GELU, is an output of the graph")
        others = {f"{use.node.op_type} {use.node.name!r}" for use in value.uses() if use.node not in match.nodes}
        if others:
            raise Declined(f"{value.name!r}, a value inside the GELU, is also read by {', '.join(sorted(others))}")


def _replace(match: _Match, approximate: str) -> None:
    root, graph = match.root, match.root.graph
    assert graph is not None
    gelu = ir.node("Gelu", [match.x], {"approximate": approximate}, name=root.name)
    graph.insert_before(root, gelu)
    take_over(root.outputs[0], gelu.outputs[0])
    graph.remove([node for node in match.nodes if node is not root], safe=True)
