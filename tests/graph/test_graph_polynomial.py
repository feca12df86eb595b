import numpy as np
import pytest
from graph_models import graph

from fewbits.graph.passes.polynomial import MAX_DEPTH, Expansion, expand


def expansion(body: str) -> Expansion | None:
    """Expand y in the atoms x and t; the constants two, half, zero hold their numbers."""
    text = f"g (float[n,3] x, float[n,3] t, float two, float half, float zero) => (float[n,3] y) {{ {body} }}"
    arrays = {name: np.full((), value, np.float32) for name, value in (("two", 2), ("half", 0.5), ("zero", 0))}
    model = graph(text, **arrays)
    x, t = model.graph.inputs
    return expand(model.graph.outputs[0], (x, t))


@pytest.mark.parametrize(
    ("body", "terms"),
    [
        ("y = Add(x, two)", {(1, 0): 1, (0, 0): 2}),
        ("y = Sub(x, t)", {(1, 0): 1, (0, 1): -1}),
        ("y = Sub(x, x)", {}),
        ("y = Sum(x, t, x)", {(1, 0): 2, (0, 1): 1}),
        ("y = Mul(x, zero)", {}),
        ("y = Div(t, two)", {(0, 1): 0.5}),
        ("a = Add(x, t) y = Pow(a, two)", {(2, 0): 1, (1, 1): 2, (0, 2): 1}),
        ("a = Add(half, half) b = Add(a, x) y = Neg(b)", {(0, 0): -1, (1, 0): -1}),
        ("a = Add(half, half) b = Add(a, two) y = Pow(x, b)", {(3, 0): 1}),
    ],
)
def test_expand(body, terms):
    found = expansion(body)
    assert found is not None
    assert found.terms == terms
    assert found.nodes[0].op_type == body.split("y = ")[1].split("(")[0]


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        "y = Div(two, x)",
        "y = Div(x, zero)",
        "y = Pow(x, half)",
        "y = Pow(x, zero)",
        "y = Pow(x, t)",
        "a = Pow(x, two) b = Pow(a, two) y = Mul(b, x)",  # degree 5
        "a0 = Neg(x) " + " ".join(f"a{i + 1} = Neg(a{i})" for i in range(MAX_DEPTH)) + f" y = Neg(a{MAX_DEPTH})",
    ],
)
def test_expand_refuses(body):
    assert expansion(body) is None
