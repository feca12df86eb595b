import re

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import applied, bn_parameters, graph, normal, ops, reasons

from fewbits.graph.passes import (
    fold_affine,
    fold_batchnorm,
    lower_batchnorm,
    simplify,
)
from fewbits.graph.passes.base import PassResult

BN = "float[{c}] g, float[{c}] b, float[{c}] m, float[{c}] v"
X = normal(2, 4, 6, 6, seed=11)


def bn_model(body: str, inputs: str, channels: int, **arrays: np.ndarray) -> ir.Model:
    return graph(f"g ({inputs}, {BN.format(c=channels)}) {body}", **arrays, **bn_parameters(channels))


# --- BatchNormalization behind a linear node

BEHIND = {  # linear node, its inputs, weight shape, bias shape, channels
    "conv": ("Conv (x, w, c)", (6, 4, 3, 3), (6,), 6),
    "conv_without_bias": ("Conv (x, w)", (6, 4, 3, 3), None, 6),
    "conv_groups": ("Conv <group=2> (x, w, c)", (6, 2, 3, 3), (6,), 6),
    "depthwise": ("Conv <group=4, pads=[1,1,1,1]> (x, w)", (4, 1, 3, 3), None, 4),
    "conv_transpose": ("ConvTranspose (x, w, c)", (4, 6, 3, 3), (6,), 6),
    "conv_transpose_groups": ("ConvTranspose <group=2> (x, w, c)", (4, 3, 3, 3), (6,), 6),
}


@pytest.mark.parametrize("name", BEHIND)
def test_fold_batchnorm_behind(name):
    node, weight, bias, channels = BEHIND[name]
    inputs = f"float[2,4,6,6] x, float[{','.join(map(str, weight))}] w" + (f", float[{bias[0]}] c" if bias else "")
    arrays = {"w": normal(*weight)} | ({"c": normal(*bias, seed=2)} if bias else {})
    body = f"=> (float[p,q,r,s] y) {{ [home] a = {node} [bn] y = BatchNormalization (a, g, b, m, v) }}"
    after, result = applied(fold_batchnorm.run, bn_model(body, inputs, channels, **arrays), {"x": X})
    assert ops(after) == [node.split()[0]]
    assert after.graph[0].outputs[0].name == "y"
    assert result.changed == (f"BatchNormalization 'bn' folded into {ops(after)[0]} 'home'",)
    assert not result.declined


GEMMS = {
    "plain": ("Gemm (x, w, c)", (4, 6), (6,)),
    "trans_b": ("Gemm <transB=1> (x, w, c)", (6, 4), (6,)),
    "alpha_beta": ("Gemm <alpha=0.5, beta=2.0> (x, w, c)", (4, 6), (6,)),
    "row_bias": ("Gemm (x, w, c)", (4, 6), (1, 6)),
    "scalar_bias": ("Gemm (x, w, c)", (4, 6), (1,)),
    "no_bias": ("Gemm <transB=1> (x, w)", (6, 4), None),
    "matmul": ("MatMul (x, w)", (4, 6), None),
}


@pytest.mark.parametrize("name", GEMMS)
def test_fold_batchnorm_behind_gemm(name):
    node, weight, bias = GEMMS[name]
    dims = ",".join(map(str, bias or ()))
    inputs = f"float[2,4] x, float[{weight[0]},{weight[1]}] w" + (f", float[{dims}] c" if bias else "")
    arrays = {"w": normal(*weight)} | ({"c": normal(*bias, seed=2)} if bias else {})
    body = f"=> (float[2,6] y) {{ a = {node} y = BatchNormalization (a, g, b, m, v) }}"
    after, _ = applied(fold_batchnorm.run, bn_model(body, inputs, 6, **arrays), {"x": normal(2, 4, seed=3)})
    assert ops(after) == ["Gemm"]


def test_fold_batchnorm_clones_a_shared_weight():
    body = """=> (float[2,4,4,4] y, float[2,4,4,4] z) {
        [one] a = Conv(x, w, c) y = BatchNormalization (a, g, b, m, v) n = Neg(x) [two] z = Conv(n, w, c) }"""
    inputs = "float[2,4,6,6] x, float[4,4,3,3] w, float[4] c"
    model = bn_model(body, inputs, 4, w=normal(4, 4, 3, 3), c=normal(4, seed=2))
    after, _ = applied(fold_batchnorm.run, model, {"x": X})
    one, two = (node for node in after.graph if node.op_type == "Conv")
    assert [v.name for v in two.inputs][1:] == ["w", "c"]
    assert [v.name for v in one.inputs][1:] == ["w_one", "c_one"]


def test_fold_batchnorm_rounds_once_from_float64():
    body = "=> (float[2,6,4,4] y) { a = Conv(x, w) y = BatchNormalization (a, g, b, m, v) }"
    weight, p = normal(6, 4, 3, 3), bn_parameters(6)
    model = bn_model(body, "float[2,4,6,6] x, float[6,4,3,3] w", 6, w=weight)
    fold_batchnorm.run(model)
    exact = p["g"].astype(np.float64) / np.sqrt(p["v"].astype(np.float64) + np.float32(1e-5))
    np.testing.assert_array_equal(
        model.graph[0].inputs[1].const_value.numpy(), (weight * exact[:, None, None, None]).astype(np.float32)
    )


def test_fold_batchnorm_keeps_an_output_name():
    body = """=> (float[2,4,4,4] y, float[2,4,4,4] r) {
        a = Conv(x, w) y = BatchNormalization (a, g, b, m, v) r = Relu(y) }"""
    model = bn_model(body, "float[2,4,6,6] x, float[4,4,3,3] w", 4, w=normal(4, 4, 3, 3))
    after, _ = applied(fold_batchnorm.run, model, {"x": X})
    assert [value.name for value in after.graph.outputs] == ["y", "r"]


DECLINED = {
    "two_readers": (
        "=> (float[2,4,4,4] y, float[2,4,4,4] z) { a = Conv(x, w) y = BatchNormalization (a, g, b, m, v) z = Relu(a) }",
        r"behind Conv 'Conv_0': 'a' is read by 2 inputs \('BatchNormalization_1', 'Relu_2'\)",
    ),
    "output": (
        "=> (float[2,4,4,4] y, float[2,4,4,4] a) { a = Conv(x, w) y = BatchNormalization (a, g, b, m, v) }",
        "behind Conv 'Conv_0': 'a' is an output of the graph",
    ),
    "no_home": (
        "=> (float[2,4,4,4] y) { k = Conv(x, w) r = Relu(k) a = BatchNormalization (r, g, b, m, v) y = Neg(a) }",
        "before its reader: Neg 'Neg_3' reads it, and only Conv can take it in",
    ),
    "padding": (
        "=> (float[2,4,6,6] y) { a = BatchNormalization (x, g, b, m, v) y = Conv <pads=[1,1,1,1]> (a, w) }",
        "Conv 'Conv_1' pads with zeros behind it, which is not exact with a shift",
    ),
    "same_padding": (
        '=> (float[2,4,6,6] y) { a = BatchNormalization (x, g, b, m, v) y = Conv <auto_pad="SAME_UPPER"> (a, w) }',
        "pads with zeros behind it",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_fold_batchnorm_declines(name):
    body, reason = DECLINED[name]
    model = bn_model(body, "float[2,4,6,6] x, float[4,4,3,3] w", 4, w=normal(4, 4, 3, 3))
    after, result = applied(fold_batchnorm.run, model, {"x": X})
    assert ops(after) == ops(model)
    assert len(result.declined) == 1
    assert re.search(reason, reasons(result)), reasons(result)


def test_fold_batchnorm_declines_fed_parameters():
    text = f"g (float[2,4,6,6] x, float[4,4,3,3] w, {BN.format(c=4)}) => (float[2,4,4,4] y)"
    parameters = bn_parameters(4)
    scale = parameters.pop("g")
    model = graph(
        text + " { a = Conv(x, w) y = BatchNormalization (a, g, b, m, v) }", w=normal(4, 4, 3, 3), **parameters
    )
    _, result = applied(fold_batchnorm.run, model, {"x": X, "g": scale})
    assert "its parameter 'g' is not a constant" in reasons(result)


def test_fold_batchnorm_declines_training_mode():
    body = """=> (float[2,4,4,4] y) { a = Conv(x, w)
        y, k, l = BatchNormalization <training_mode=1> (a, g, b, m, v) }"""
    model = bn_model(body, "float[2,4,6,6] x, float[4,4,3,3] w", 4, w=normal(4, 4, 3, 3))
    assert "it is in training mode" in reasons(fold_batchnorm.run(model))
    assert "it is in training mode" in reasons(lower_batchnorm.run(model))


def test_fold_batchnorm_declines_matmul_of_rank_three():
    body = "=> (float[2,5,6] y) { a = MatMul(x, w) y = BatchNormalization (a, g, b, m, v) }"
    model = bn_model(body, "float[2,5,4] x, float[4,6] w", 5, w=normal(4, 6))
    _, result = applied(fold_batchnorm.run, model, {"x": normal(2, 5, 4, seed=1)})
    assert "its input is not known to have rank 2" in reasons(result)


# --- BatchNormalization before Conv


@pytest.mark.parametrize("group", [1, 2, 4])
def test_fold_batchnorm_before_conv(group):
    body = f"=> (float[2,8,4,4] y) {{ a = BatchNormalization (x, g, b, m, v) y = Conv <group={group}> (a, w, c) }}"
    inputs = f"float[2,4,6,6] x, float[8,{4 // group},3,3] w, float[8] c"
    model = bn_model(body, inputs, 4, w=normal(8, 4 // group, 3, 3), c=normal(8, seed=1))
    after, _ = applied(fold_batchnorm.run, model, {"x": X})
    assert ops(after) == ["Conv"]


def test_fold_batchnorm_before_padded_conv_without_shift():
    text = f"g (float[2,4,6,6] x, float[8,4,3,3] w, {BN.format(c=4)}) => (float[2,8,6,6] y) {{ "
    text += "a = BatchNormalization (x, g, b, m, v) y = Conv <pads=[1,1,1,1]> (a, w) }"
    parameters = bn_parameters(4) | {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    after, _ = applied(fold_batchnorm.run, graph(text, w=normal(8, 4, 3, 3), **parameters), {"x": X})
    assert ops(after) == ["Conv"]


# --- what is left


@pytest.mark.parametrize("dims", ["2,4", "2,4,6", "2,4,6,6", "2,4,3,3,3"])
def test_lower_batchnorm(dims):
    body = f"=> (float[{dims}] y) {{ [bn] y = BatchNormalization (x, g, b, m, v) }}"
    shape = tuple(map(int, dims.split(",")))
    after, _ = applied(lower_batchnorm.run, bn_model(body, f"float[{dims}] x", 4), {"x": normal(*shape)})
    assert ops(after) == ["Mul", "Add"]
    assert [node.name for node in after.graph] == ["bn_mul", "bn"]


def test_lower_batchnorm_declines_an_unknown_rank():
    body = "=> (float[2,4] y) { k = vendor.Magic(x) y = BatchNormalization (k, g, b, m, v) }"
    model = graph(f"g (float[2,4] x, {BN.format(c=4)}) {body}", domains='"vendor": 1', **bn_parameters(4))
    assert "the rank or type of its input is not known" in reasons(lower_batchnorm.run(model))


# --- Mul, Div, Add, Sub behind a linear node

AFFINE = {
    "mul": ("Mul(a, k)", (4, 1, 1)),
    "mul_first": ("Mul(k, a)", (1, 4, 1, 1)),
    "mul_scalar": ("Mul(a, k)", ()),
    "div": ("Div(a, k)", (4, 1, 1)),
    "add": ("Add(k, a)", (1, 4, 1, 1)),
    "sub": ("Sub(a, k)", (4, 1, 1)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_fold_affine(name):
    node, shape = AFFINE[name]
    dims = f"[{','.join(map(str, shape))}]" if shape else ""
    text = (
        f"g (float[2,4,6,6] x, float[4,4,3,3] w, float{dims} k) => (float[2,4,4,4] y) {{ a = Conv(x, w) y = {node} }}"
    )
    k = np.asarray(normal(*shape, seed=4) + np.float32(2), np.float32)
    after, _ = applied(fold_affine.run, graph(text, w=normal(4, 4, 3, 3), k=k), {"x": X})
    assert ops(after) == ["Conv"]


def test_fold_affine_declines_a_constant_along_the_width():
    """A [4] constant beside 4 channels and a width of 4 scales columns, not channels."""
    text = "g (float[2,4,6,6] x, float[4,4,3,3] w, float[4] k) => (float[2,4,4,4] y) { a = Conv(x, w) y = Mul(a, k) }"
    model = graph(text, w=normal(4, 4, 3, 3), k=normal(4, seed=4))
    _, result = applied(fold_affine.run, model, {"x": X})
    assert "its constant has the shape [4], not one value for each of 4 channels" in reasons(result)
    applied(simplify.run, model, {"x": X})


def test_fold_affine_declines_a_shared_result():
    text = """g (float[2,4,6,6] x, float[4,4,3,3] w, float k) => (float[2,4,4,4] y, float[2,4,4,4] z) {
        a = Conv(x, w) y = Mul(a, k) z = Relu(a) }"""
    model = graph(text, w=normal(4, 4, 3, 3), k=np.float32(3).reshape(()))
    _, result = applied(fold_affine.run, model, {"x": X})
    assert "'a' is read by 2 inputs" in reasons(result)


def test_fold_affine_ignores_a_constant_divided_by_the_result():
    text = "g (float[2,4,6,6] x, float[4,4,3,3] w, float k) => (float[2,4,4,4] y) { a = Conv(x, w) y = Div(k, a) }"
    model = graph(text, w=normal(4, 4, 3, 3), k=np.float32(3).reshape(()))
    _, result = applied(fold_affine.run, model, {"x": X})
    assert result == PassResult()
