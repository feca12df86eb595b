"""Makers of operators that work element by element; each takes the draft and adds a node or a few."""

import math

import numpy as np
from graph_draft import Draft, Tensor

SAME = {
    "Relu": 13, "LeakyRelu": 13, "ThresholdedRelu": 13, "Elu": 13, "Celu": 13, "Selu": 13, "Gelu": 20, "Softplus": 13,
    "Softsign": 13, "Mish": 18, "Swish": 24, "HardSwish": 14, "Neg": 13, "Abs": 13, "Identity": 13, "Dropout": 13,
}  # fmt: skip
BOUNDED = {"Sigmoid": 13, "HardSigmoid": 13, "Tanh": 13, "Erf": 13, "Sin": 13, "Cos": 13}
ROUNDING = ("Floor", "Ceil", "Round")


def activation(d: Draft) -> None:
    known = {**SAME, **BOUNDED}
    op = d.one_of(*(name for name, since in known.items() if since <= d.opset))
    source = d.tamed(d.pick()) if op in ("Sin", "Cos") else d.pick()  # of a large number they keep no digits
    d.node(op, [source], 1.0 if op in BOUNDED else None)


def rounding(d: Draft) -> None:
    """What tips over at a whole number reads an input, so that no rounding before it can matter."""
    d.node(d.one_of(*ROUNDING), [d.pick(lambda t: t.is_fed)])


def clip(d: Draft) -> None:
    source = d.pick()
    low, high = d.one_of((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 1.0), (None, None))
    bounds = [None if v is None else d.constant(np.float32(v)) for v in (low, high)]
    inputs = [source, *bounds]
    if d.maybe():
        while inputs[-1] is None:
            inputs.pop()
    d.node("Clip", inputs)


def transcendental(d: Draft) -> None:
    op = d.one_of("Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Div")
    if op == "Exp":
        source = d.tamed(d.pick(), 4.0)
        d.hold(d.node(op, [source], math.exp(source.size)), is_positive=True)
        return
    base = d.positive(d.pick(), d.one_of(0.1, 1.0))
    if op == "Pow":
        base = d.tamed(base)
        exponent = d.one_of(0.5, 2.0, 3.0, -1.0) if base.is_positive else 2.0
        d.node(op, [base, d.constant(np.float32(exponent))], base.size ** abs(exponent) + 10)
    elif op == "Div":
        top = d.pick(lambda t: broadcasts(t.shape, base.shape), base.shape)
        d.node(op, [top, base], top.size * 10)
    else:
        d.node(op, [base], base.size + 10)


def broadcasts(*shapes: tuple[int, ...]) -> bool:
    try:
        found = np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return len(found) <= 5 and math.prod(found) <= 4096


def binary(d: Draft) -> None:
    """Two operands that broadcast, in any order, one of them perhaps a constant."""
    left = d.pick()
    op = d.one_of("Add", "Add", "Add", "Sub", "Mul", "Min", "Max", "Mean", "Sum", "PRelu", "Where")
    right = (
        _constant_for(d, left.shape) if d.rarely() else d.pick(lambda t: broadcasts(t.shape, left.shape), left.shape)
    )
    if op == "PRelu":
        _prelu(d, left)
        return
    if op == "Where":
        _where(d, left, right)
        return
    if op == "Mul":
        left, right = d.tamed(left), d.tamed(right)
    pair = [right, left] if d.maybe() else [left, right]
    if op in ("Mean", "Sum", "Min", "Max") and d.rarely():
        pair.append(left)
    d.node(op, pair, left.size * right.size if op == "Mul" else sum(t.size for t in pair))


def scaled(d: Draft) -> None:
    """An activation and a constant of any shape that broadcasts, the constant perhaps first."""
    source = d.tamed(d.pick())
    op = d.one_of("Add", "Sub", "Mul", "Min", "Max", "Div")
    other = _constant_for(d, source.shape, away_from_zero=op == "Div")
    pair = [other, source] if op != "Div" and d.maybe() else [source, other]
    d.node(op, pair, source.size * 4 + 4)


def _constant_for(d: Draft, shape: tuple[int, ...], *, away_from_zero: bool = False) -> Tensor:
    kept = [n for n, a in d.constants.items() if a.dtype == np.float32 and a.size and broadcasts(a.shape, shape)]
    if kept and not away_from_zero and d.rarely():  # perhaps the weight of a layer
        name = d.one_of(*kept)
        return Tensor(name, d.constants[name].shape)
    form = d.one_of("scalar", "one", "last", "channel", "full", "higher", "zeros")
    wanted = {"scalar": (), "one": (1,), "last": shape[-1:], "full": shape, "higher": (1, *shape), "zeros": ()}
    channel = (shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 2 else shape[-1:]
    values = d.rng.standard_normal(wanted.get(form, channel) if len(shape) < 5 or form != "higher" else ())
    if away_from_zero:
        values = np.where(values < 0, -1, 1) * (0.5 + np.abs(values))
    elif form == "zeros":
        values = values * 0
    return d.constant(np.asarray(values, np.float32))


def _prelu(d: Draft, source: Tensor) -> None:
    if source.rank > 2 and d.maybe():
        slope = d.normal(source.shape[1], *(1,) * (source.rank - 2), scale=0.3)
    else:
        slope = d.normal(*d.one_of((1,), source.shape[-1:]), scale=0.3)
    d.node("PRelu", [source, slope])


def _where(d: Draft, left: Tensor, right: Tensor) -> None:
    """The condition compares inputs, so that no rounding before it can matter."""
    judged = d.pick(lambda t: t.is_fed and broadcasts(t.shape, left.shape, right.shape), left.shape)
    above = d.node("Greater", [judged, d.constant(np.float32(0.1))])
    d.node("Where", [above, left, right], max(left.size, right.size))
