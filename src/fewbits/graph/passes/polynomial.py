"""Expand what Add, Sub, Mul, Div, Neg, Sum and Pow compute into a polynomial, whatever their order and association.

A polynomial is {exponents: coefficient}, one exponent per atom: with the atoms (x, t), 0.5 x + 0.5 x t is
{(1, 0): 0.5, (1, 1): 0.5}.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import onnx_ir as ir

from fewbits.graph.passes.base import Declined, constant, constant_shape, is_onnx

OPERATORS = ("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Pow")
MAX_DEGREE = 4
MAX_DEPTH = 8  # nodes on one way from the result to an atom

Terms = dict[tuple[int, ...], float]


@dataclass(frozen=True, slots=True)
class Expansion:
    """A value written as a polynomial: the coefficient of each monomial, and the nodes between, the result's first."""

    terms: Mapping[tuple[int, ...], float]
    nodes: tuple[ir.Node, ...]


def expand(value: ir.Value, atoms: tuple[ir.Value, ...]) -> Expansion | None:
    """Return `value` as a polynomial in `atoms`, or None where it is none.

    Constants count where they hold one number and do not raise the rank of the first atom; the degree is at most
    MAX_DEGREE, the depth at most MAX_DEPTH.
    """
    nodes: dict[ir.Node, None] = {}
    try:
        terms = _terms(value, atoms, nodes, MAX_DEPTH)
    except Declined:
        return None
    return Expansion({powers: factor for powers, factor in terms.items() if factor}, tuple(nodes))


def _terms(value: ir.Value | None, atoms: tuple[ir.Value, ...], nodes: dict[ir.Node, None], depth: int) -> Terms:
    if value is None:
        raise Declined("an input is left out")
    if value in atoms:
        return {tuple(int(value is atom) for atom in atoms): 1.0}
    if (number := scalar(value, atoms[0])) is not None:
        return {(0,) * len(atoms): number}
    node = value.producer()
    if node is None or not is_onnx(node, *OPERATORS) or depth == 0:
        raise Declined(f"{value.name!r} is not a polynomial")
    nodes[node] = None
    return _combine(node.op_type, [_terms(source, atoms, nodes, depth - 1) for source in node.inputs])


def scalar(value: ir.Value, like: ir.Value) -> float | None:
    """Return the number that an initializer of one element holds, None where broadcasting it could reshape `like`."""
    shape = constant_shape(value)
    rank = 0 if like.shape is None else len(like.shape)
    if shape is None or any(dim != 1 for dim in shape) or len(shape) > rank:
        return None
    array = constant(value)
    return None if array is None else float(array.reshape(()))


def _combine(op_type: str, parts: list[Terms]) -> Terms:
    first, *others = parts
    match op_type:
        case "Add" | "Sum":
            for other in others:
                first = _sum(first, other)
            return first
        case "Sub":
            return _sum(first, _scaled(others[0], -1.0))
        case "Neg":
            return _scaled(first, -1.0)
        case "Mul":
            return _product(first, others[0])
        case "Div":
            return _scaled(first, 1.0 / _nonzero(others[0]))
    return _power(first, _nonzero(others[0]))


def _power(base: Terms, exponent: float) -> Terms:
    if exponent not in range(1, MAX_DEGREE + 1):
        raise Declined(f"the exponent is {exponent}")
    result = base
    for _ in range(int(exponent) - 1):
        result = _product(result, base)
    return result


def _nonzero(terms: Terms) -> float:
    """Return the number that `terms` is."""
    (powers, number), *more = terms.items()
    if more or any(powers) or number == 0:
        raise Declined("it is not a number other than 0")
    return number


def _sum(first: Terms, second: Terms) -> Terms:
    return {powers: first.get(powers, 0.0) + second.get(powers, 0.0) for powers in first | second}


def _scaled(terms: Terms, factor: float) -> Terms:
    return {powers: number * factor for powers, number in terms.items()}


def _product(first: Terms, second: Terms) -> Terms:
    result: Terms = {}
    for (p, a), (q, b) in product(first.items(), second.items()):
        powers = tuple(i + j for i, j in zip(p, q, strict=True))
        if sum(powers) > MAX_DEGREE:
            raise Declined("its degree is too high")
        result[powers] = result.get(powers, 0.0) + a * b
    return result
