import math
import re

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import applied, graph, normal, ops, reasons

from fewbits.graph.passes import fuse_gelu
from fewbits.graph.passes.base import PassResult
from fewbits.graph.prepare import prepare

NUMBERS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "minus_one": -1.0,
    "cubic": 0.044715,
    "root": math.sqrt(2 / math.pi),
    "root_cubic": 0.044715 * math.sqrt(2 / math.pi),
    "sqrt2": math.sqrt(2),
    "isqrt2": math.sqrt(0.5),
}


def model(body: str, *, opset: int = 21, outputs: str = "", shape: tuple[int, ...] = (), **numbers: float) -> ir.Model:
    dims = f"[{','.join(map(str, shape))}]" if shape else ""
    used = {name: value for name, value in (NUMBERS | numbers).items() if re.search(rf"\b{name}\b", body)}
    inputs = "".join(f", float{dims} {name}" for name in used)
    arrays = {name: np.full(shape, value, np.float32) for name, value in used.items()}
    text = f"g (float[n,3,4] x0{inputs}) => (float[n,3,4] y{outputs}) {{ x = Neg(x0) {body} }}"
    return graph(text, opset=opset, **arrays)


CUBES = {
    "pow": "c = Pow(x, three)",
    "products": "q = Mul(x, x) c = Mul(q, x)",
    "pow_of_two": "q = Pow(x, two) c = Mul(x, q)",
}
TAIL = "t = Tanh(a) p = Add(t, one) h = Mul(x, half) [end] y = Mul(h, p)"

TANH = {
    **{
        f"cube_{name}": f"{cube} k = Mul(c, cubic) s = Add(x, k) a = Mul(s, root) {TAIL}"
        for name, cube in CUBES.items()
    },
    "other_order": "q = Mul(x, x) k = Mul(cubic, x) c = Mul(k, q) s = Add(c, x) a = Mul(root, s) " + TAIL,
    "factored": "q = Mul(x, x) k = Mul(q, cubic) f = Add(one, k) r = Mul(x, root) a = Mul(r, f) " + TAIL,
    "distributed_inside": "c = Pow(x, three) k = Mul(root_cubic, c) r = Mul(root, x) a = Add(r, k) " + TAIL,
    "half_last": """c = Pow(x, three) k = Mul(cubic, c) s = Add(x, k) a = Mul(root, s) t = Tanh(a) p = Add(one, t)
        m = Mul(x, p) [end] y = Mul(half, m)""",
    "half_first": """c = Pow(x, three) k = Mul(cubic, c) s = Add(x, k) a = Mul(root, s) t = Tanh(a) p = Add(one, t)
        m = Mul(p, half) [end] y = Mul(m, x)""",
    "divided_by_two": """c = Pow(x, three) k = Mul(cubic, c) s = Add(x, k) a = Mul(root, s) t = Tanh(a)
        p = Sub(t, minus_one) m = Div(p, two) [end] y = Mul(m, x)""",
    "distributed": """c = Pow(x, three) k = Mul(cubic, c) s = Sum(x, k) a = Mul(root, s) t = Tanh(a) h = Mul(x, half)
        m = Mul(h, t) [end] y = Add(h, m)""",
}
ERF_TAIL = "t = Erf(a) p = Add(t, one) m = Mul(x, p) [end] y = Mul(m, half)"
ERF = {
    "div": f"a = Div(x, sqrt2) {ERF_TAIL}",
    "mul": f"a = Mul(isqrt2, x) {ERF_TAIL}",
    "half_of_x": "a = Div(x, sqrt2) t = Erf(a) p = Add(one, t) h = Mul(half, x) [end] y = Mul(p, h)",
    "distributed": "a = Div(x, sqrt2) t = Erf(a) m = Mul(x, t) s = Add(m, x) [end] y = Div(s, two)",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", TANH)
def test_fuse_gelu_tanh(name, batch):
    after, result = applied(fuse_gelu.run, model(TANH[name]), {"x0": 2 * normal(batch, 3, 4)})
    assert ops(after) == ["Neg", "Gelu"]
    assert after.graph[1].attributes.get_string("approximate") == "tanh"
    assert after.graph[1].name == "end"
    assert re.fullmatch(r"\d+ nodes around Tanh 'Tanh_\d+' became Gelu 'end'", result.changed[0])
    assert not result.declined


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ERF)
def test_fuse_gelu_erf(name, batch):
    after, _ = applied(fuse_gelu.run, model(ERF[name]), {"x0": 2 * normal(batch, 3, 4)})
    assert ops(after) == ["Neg", "Gelu"]
    assert after.graph[1].attributes.get_string("approximate") == "none"


def test_fuse_gelu_takes_constants_of_one_element():
    after, _ = applied(fuse_gelu.run, model(ERF["div"], shape=(1, 1, 1)), {"x0": normal(2, 3, 4)})
    assert ops(after) == ["Neg", "Gelu"]


def test_fuse_gelu_takes_rounded_constants():
    rounded = model(TANH["half_last"], cubic=0.0447, root=0.7979)
    assert len(fuse_gelu.run(rounded).changed) == 1


def test_fuse_gelu_keeps_names_of_values_and_readers():
    body = ERF["div"].replace("[end] y =", "[end] e =") + " y = Abs(e)"
    after, _ = applied(fuse_gelu.run, model(body), {"x0": normal(2, 3, 4)})
    assert [node.outputs[0].name for node in after.graph] == ["x", "e", "y"]


def test_fuse_gelu_finds_one_behind_another():
    body = """a = Div(x, sqrt2) t = Erf(a) p = Add(t, one) m = Mul(x, p) y1 = Mul(m, half)
        a2 = Mul(isqrt2, y1) t2 = Erf(a2) p2 = Add(t2, one) h2 = Mul(y1, half) y = Mul(p2, h2)"""
    after, result = applied(fuse_gelu.run, model(body), {"x0": normal(2, 3, 4)})
    assert ops(after) == ["Neg", "Gelu", "Gelu"]
    assert len(result.changed) == 2


NOT_GELU = {
    "tanh_alone": ("y = Tanh(x)", {}),
    "other_scale": (ERF["div"], {"sqrt2": 1.5}),
    "other_cubic": (TANH["half_last"], {"cubic": 0.0457}),
    "other_half": (ERF["div"], {"half": 0.51}),
    "square_instead_of_cube": (TANH["cube_pow"], {"three": 2.0}),
    "inverse_of_x": ("a = Div(x, sqrt2) t = Erf(a) p = Add(t, one) m = Div(p, x) y = Mul(m, half)", {}),
    "another_x": ("z = Abs(x) a = Div(z, sqrt2) t = Erf(a) p = Add(t, one) m = Mul(x, p) y = Mul(m, half)", {}),
}


@pytest.mark.parametrize("name", NOT_GELU)
def test_fuse_gelu_leaves_what_is_none(name):
    body, numbers = NOT_GELU[name]
    _, result = applied(fuse_gelu.run, model(body, **numbers), {"x0": normal(2, 3, 4)})
    assert result == PassResult()


def test_fuse_gelu_leaves_constants_per_channel():
    text = "g (float[n,3] x, float[3] sqrt2, float half, float one) => (float[n,3] y) {" + ERF["div"] + "}"
    arrays = {name: np.float32(NUMBERS[name]).reshape(()) for name in ("half", "one")}
    model_ = graph(text, sqrt2=np.full(3, math.sqrt(2), np.float32), **arrays)
    assert fuse_gelu.run(model_) == PassResult()


def test_fuse_gelu_leaves_constants_that_raise_the_rank():
    before = model(ERF["div"], shape=(1, 1, 1, 1))
    before.graph.outputs[0].shape = ir.Shape([1, "n", 3, 4])
    _, result = applied(fuse_gelu.run, before, {"x0": normal(2, 3, 4)})
    assert result == PassResult()


def test_fuse_gelu_leaves_one_that_ends_in_a_branch():
    body = """a = Div(x, sqrt2) t = Erf(a) p = Add(t, one) c = IsInf(sqrt2)
        y = If (c) <then_branch = b () => (float[n,3,4] u) { u = Abs(x) },
                    else_branch = e () => (float[n,3,4] v) { m = Mul(x, p) v = Mul(m, half) }>"""
    _, result = applied(fuse_gelu.run, model(body), {"x0": normal(2, 3, 4)})
    assert result == PassResult()


DECLINED = {
    "second_reader": (
        ERF["div"] + " z = Abs(p)",
        ", float[n,3,4] z",
        "'p', a value inside the GELU, is also read by Abs 'Abs_",
    ),
    "output": (
        re.sub(r"\bt\b", "z", ERF["div"]),
        ", float[n,3,4] z",
        "'z', a value inside the GELU, is an output of the graph",
    ),
    "branch": (
        ERF["div"]
        + """ c = IsInf(sqrt2) z = If (c) <then_branch = b () => (float[n,3,4] u) { u = Abs(t) },
                                           else_branch = e () => (float[n,3,4] v) { v = Relu(x) }>""",
        ", float[n,3,4] z",
        "'t', a value inside the GELU, is also read by Abs",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_fuse_gelu_declines(name):
    body, outputs, reason = DECLINED[name]
    before = model(body, outputs=outputs)
    after, result = applied(fuse_gelu.run, before, {"x0": normal(2, 3, 4)})
    assert ops(after) == ops(before)
    assert [skipped.name for skipped in result.declined] == ["end"]
    assert reason in reasons(result)


def test_fuse_gelu_declines_an_old_opset():
    _, result = applied(fuse_gelu.run, model(ERF["div"], opset=19), {"x0": normal(2, 3, 4)})
    assert reasons(result) == "end: Gelu needs ai.onnx opset 20, and the model has 19"


@pytest.mark.parametrize("simplify", [True, False])
def test_prepare_fuses_gelu(simplify):
    prepared = prepare(model(TANH["half_last"], opset=13), simplify=simplify)
    assert ops(prepared.model) == ["Neg", "Gelu"]
    assert list(prepared.model.graph.initializers) == []
    assert not prepare(prepared.model, simplify=simplify).is_changed
