import re

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import applied, assert_same, graph, normal, ops, reasons, run

from fewbits.graph.passes import fuse_matmul_add
from fewbits.graph.prepare import prepare
from fewbits.graph.shapes import infer_shapes

BATCHES = [1, 3]


def shape_of(model: ir.Model, node: int) -> list[int]:
    """Return the target of a Reshape."""
    return model.graph[node].inputs[1].const_value.numpy().tolist()


# --- rank 2


@pytest.mark.parametrize(("shape", "order"), [((6,), "a, k"), ((6,), "k, a"), ((1, 6), "a, k")])
def test_fuse_matmul_add(shape, order):
    dims = ",".join(map(str, shape))
    text = f"g (float[n,4] x, float[4,6] w, float[{dims}] k) => (float[n,6] y) {{ "
    text += f"[mm] a = MatMul(x, w) y = Add({order}) }}"
    after, result = applied(
        fuse_matmul_add.run, graph(text, w=normal(4, 6), k=normal(*shape, seed=1)), {"x": normal(3, 4)}
    )
    assert ops(after) == ["Gemm"]
    assert after.graph[0].name == "mm"
    assert after.graph[0].inputs[2].const_value.numpy().shape == (6,)
    assert len(result.changed) == 1


# --- rank 3 and more

TEXT = """g (float[{dims}] x, float[4,6] w, float[{bias}] k) => (float[{out}] y) {{
    [mm] a = MatMul(x, w) [add] y = Add(a, k) }}"""


def model(dims: str, bias: str = "6") -> ir.Model:
    out = ",".join([*dims.split(",")[:-1], "6"])
    k = normal(*map(int, bias.split(",")), seed=1)
    return graph(TEXT.format(dims=dims, bias=bias, out=out), w=normal(4, 6), k=k)


@pytest.mark.parametrize("bias", ["6", "1,6", "1,1,6"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("dims", "target"),
    [
        ("n,5,4", [-1, 5, 6]),
        ("5,n,4", [5, -1, 6]),
        ("2,5,4", [2, 5, 6]),
        ("n,2,5,4", [-1, 2, 5, 6]),
        ("2,5,n,2,4", [2, 5, -1, 2, 6]),
    ],
)
def test_fuse_matmul_add_over_rows(dims, target, batch, bias):
    shape = tuple(batch if dim == "n" else int(dim) for dim in dims.split(","))
    after, result = applied(fuse_matmul_add.run, model(dims, bias), {"x": normal(*shape)})
    assert ops(after) == ["Reshape", "Gemm", "Reshape"]
    assert shape_of(after, 0) == [-1, 4]
    assert shape_of(after, 2) == target
    assert result.changed == ("MatMul 'mm' and Add 'add' became Gemm 'mm' over rows",)
    assert [node.outputs[0].name for node in after.graph] == ["x_rows", "a", "y"]
    assert after.graph[1].name == "mm"
    assert after.graph[1].inputs[1].name == "w"
    assert after.graph[1].attributes.get_int("transB", 0) == 0
    assert after.graph.outputs[0].shape == ir.Shape([*(d if d == "n" else int(d) for d in dims.split(",")[:-1]), 6])


def test_fuse_matmul_add_works_for_an_empty_batch():
    before = model("n,5,4")
    infer_shapes(before)
    fuse_matmul_add.run(before)
    assert run(before, {"x": normal(0, 5, 4)})["y"].shape == (0, 5, 6)


SHARED = """g (float[n,5,4] x, int64[2] s, float[4,6] w, float[6] k) => (float[n,5,6] y, float[n,5,6] z{outputs}) {{
    {first} a = MatMul({x}, w) y = Add(a, k) b = MatMul({x}, w) z = Add(k, b) {last} }}"""


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("", ""),
        ("i = Neg(x)", ""),
        ("i = Neg(x)", "r = Reshape(i, s)"),
        ("", "r = Reshape(x, s)"),
        ("r = Reshape(x, s)", ""),
    ],
)
def test_fuse_matmul_add_shares_the_rows(first, last, batch):
    outputs = ", float[m,4] r" if "Reshape" in first + last else ""
    text = SHARED.format(first=first, last=last, outputs=outputs, x="i" if "i =" in first else "x")
    before = graph(text, s=np.array([-1, 4]), w=normal(4, 6), k=normal(6, seed=1))
    after, _ = applied(fuse_matmul_add.run, before, {"x": normal(batch, 5, 4)})
    assert ops(after)[-5:] == ["Reshape", "Gemm", "Reshape", "Gemm", "Reshape"]
    assert shape_of(after, -5) == [-1, 4]
    assert len(after.graph) == 5 + ("i =" in first)
    assert len([name for name in after.graph.initializers if name not in ("w", "k")]) == 2  # equal shapes are shared


CHAIN = """g (float[n,5,4] x, float[4,6] w, float[6] k, float[6,4] v, float[4] l, float low)
      => (float[n,5,4] y{outputs}) {{
    a = MatMul(x, w) b = Add(a, k) {between} c = MatMul({last}, v) y = Add(c, l) {behind} }}"""


def chain(between: str, behind: str = "", outputs: str = "") -> ir.Model:
    last = re.findall(r"(\w+) =", "b = " + between)[-1]
    text = CHAIN.format(between=between, last=last, behind=behind, outputs=outputs)
    arrays = {"w": normal(4, 6), "k": normal(6, seed=1), "v": normal(6, 4, seed=2), "l": normal(4, seed=3)}
    return graph(text, low=np.float32(-0.5).reshape(()), **arrays)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("between", ["", "d = Relu(b)", "d = Gelu(b)", "d = Clip(b, low)", "d = Relu(b) e = Tanh(d)"])
def test_fuse_matmul_add_stays_in_rows(between, batch):
    """What lies between two Gemm works on rows: no Reshape back and forth."""
    prepared = prepare(chain(between), simplify=False).model
    inner = re.findall(r"= (\w+)", between)
    assert ops(prepared) == ["Reshape", "Gemm", *inner, "Gemm", "Reshape"]
    assert_same(chain(between), prepared, {"x": normal(batch, 5, 4)})
    assert all(len(node.outputs[0].shape) == 2 for node in list(prepared.graph)[:-1])


def test_fuse_matmul_add_leaves_true_shapes():
    before = chain("d = Relu(b) e = Tanh(d)")
    infer_shapes(before)
    fuse_matmul_add.run(before)
    ranks = {node.op_type: len(node.outputs[0].shape) for node in before.graph if node.op_type != "Reshape"}
    assert ranks == {"Gemm": 2, "Relu": 2, "Tanh": 2}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("between", "behind", "expected"),
    [
        ("d = Relu(b)", "z = Abs(d)", ["Relu", "Reshape", "Gemm", "Reshape", "Abs"]),  # d keeps its rank for Abs
        ("z = Relu(b)", "", ["Relu", "Reshape", "Gemm", "Reshape"]),  # and for the reader of an output
        ("d = Softmax <axis=1> (b)", "z = Abs(b)", ["Softmax", "Reshape", "Gemm", "Reshape", "Abs"]),
        ("d = Relu(b)", "z = Abs(b)", ["Relu", "Gemm", "Reshape", "Abs"]),  # Abs reads the Reshape, Relu the rows
        ("", "z = Abs(b)", ["Gemm", "Reshape", "Abs"]),
    ],
)
def test_fuse_matmul_add_keeps_the_rank_for_others(between, behind, expected, batch):
    before = chain(between, behind, ", float[n,5,6] z")
    after, _ = applied(fuse_matmul_add.run, before, {"x": normal(batch, 5, 4)})
    assert ops(after) == ["Reshape", "Gemm", "Reshape", *expected]


def test_fuse_matmul_add_takes_no_rows_of_another_width():
    """[n, 12] seen as [n, 3, 4] are not the rows [3 n, 4]."""
    text = """g (float[n,12] x, int64[3] s, float[4,6] w, float[6] k) => (float[n,3,6] y) {
        a = Neg(x) r = Reshape(a, s) c = MatMul(r, w) y = Add(c, k) }"""
    before = graph(text, s=np.array([-1, 3, 4]), w=normal(4, 6), k=normal(6, seed=1))
    after, _ = applied(fuse_matmul_add.run, before, {"x": normal(2, 12)})
    assert ops(after) == ["Neg", "Reshape", "Reshape", "Gemm", "Reshape"]


# --- what is declined

DECLINED = {
    "two_open": ("n,m,4", "6", "its input has the shape [n,m,4], and a Reshape can leave one dimension open, not more"),
    "bias_rank_two": ("2,4", "2,6", "the constant 'k' it adds has the shape [2, 6], not [6]"),
    "bias_per_row": ("n,5,4", "5,6", "the constant 'k' it adds has the shape [5, 6], not [6]"),
    "bias_of_one": ("n,5,4", "1", "the constant 'k' it adds has the shape [1], not [6]"),
    "rank_one": ("4", "6", "its input has rank 1, and Gemm takes rank 2"),
}


@pytest.mark.parametrize("name", DECLINED)
def test_fuse_matmul_add_declines(name):
    dims, bias, reason = DECLINED[name]
    before = model(dims, bias)
    shape = tuple(2 if dim in "nm" else int(dim) for dim in dims.split(","))
    infer_shapes(before)
    after, result = applied(fuse_matmul_add.run, before, {"x": normal(*shape)})
    assert ops(after) == ["MatMul", "Add"]
    assert reasons(result) == f"mm: {reason}"


def test_fuse_matmul_add_declines_an_empty_input():
    assert "its input has the shape [n,0,4], which is empty" in reasons(fuse_matmul_add.run(model("n,0,4")))


def test_fuse_matmul_add_declines_a_bias_that_raises_the_rank():
    text = TEXT.format(dims="2,4", bias="1,1,6", out="1,2,6")
    before = graph(text, w=normal(4, 6), k=normal(1, 1, 6, seed=1))
    _, result = applied(fuse_matmul_add.run, before, {"x": normal(2, 4)})
    assert "it adds has the shape [1, 1, 6], not [6]" in reasons(result)


@pytest.mark.parametrize(
    ("head", "weight", "reason"),
    [
        ("float[2,5,4] x) => (float[2,5,6] y) { [mm] a = MatMul(c, w)", (4, 6), "its input is a constant"),
        ("float[2,5,4] x) => (float[2,5,6] y) { m = v.Magic(x) [mm] a = MatMul(m, w)", (4, 6), "an unknown rank"),
        ("float[2,5,q] x) => (float[2,5,6] y) { [mm] a = MatMul(x, w)", (4, 6), "the last dimension of its input 'x'"),
        ("float[2,5,4] x) => (float[2,5,6] y) { [mm] a = MatMul(x, w)", (2, 4, 6), "its weight has rank 3"),
    ],
)
def test_fuse_matmul_add_declines_unknowns(head, weight, reason):
    dims = ",".join(map(str, weight))
    text = f"g (float[{dims}] w, float[6] k, float[2,5,4] c, {head} y = Add(a, k) }}"
    before = graph(text, domains='"v": 1', w=normal(*weight), k=normal(6), c=normal(2, 5, 4))
    infer_shapes(before)
    assert reason in reasons(fuse_matmul_add.run(before))


def test_fuse_matmul_add_declines_integers():
    text = "g (int32[2,5,4] x, int32[4,6] w, int32[6] k) => (int32[2,5,6] y) { a = MatMul(x, w) y = Add(a, k) }"
    before = graph(text, w=np.ones((4, 6), np.int32), k=np.ones(6, np.int32))
    assert "its input has the type int32" in reasons(fuse_matmul_add.run(before))


def test_fuse_matmul_add_declines_a_shared_result():
    text = """g (float[n,5,4] x, float[4,6] w, float[6] k) => (float[n,5,6] y, float[n,5,6] z) {
        a = MatMul(x, w) y = Add(a, k) z = Abs(a) }"""
    _, result = applied(fuse_matmul_add.run, graph(text, w=normal(4, 6), k=normal(6)), {"x": normal(2, 5, 4)})
    assert "'a' is read by 2 inputs" in reasons(result)


# --- within prepare


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("simplify", [True, False])
def test_prepare_with_rows_is_stable(simplify, batch):
    before = chain("d = Relu(b)", "z = Abs(b)", ", float[n,5,6] z")
    prepared = prepare(before, simplify=simplify)
    assert ops(prepared.model).count("Gemm") == 2
    assert_same(before, prepared.model, {"x": normal(batch, 5, 4)})
    assert not prepare(prepared.model, simplify=simplify).is_changed
