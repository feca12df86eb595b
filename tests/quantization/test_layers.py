import numpy as np
import pytest
from qdq_models import model, normal, session

from fewbits.quantization.layers import find_layers


def layer_of(graph):
    (layer,) = find_layers(graph.graph)
    return layer


def weight_of(graph) -> np.ndarray:
    return graph.graph.initializers["w"].const_value.numpy()


CONVS = {
    "plain": ((4, 7, 7), (6, 4, 3, 3), "", 1),
    "strides": ((4, 9, 8), (6, 4, 3, 2), "strides = [2, 3]", 1),
    "pads": ((4, 6, 6), (6, 4, 3, 3), "pads = [1, 1, 1, 1]", 1),
    "strides and pads": ((4, 9, 9), (6, 4, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]", 1),
    "uneven pads": ((4, 9, 9), (6, 4, 3, 3), "strides = [3, 2], pads = [2, 0, 0, 1]", 1),
    "dilations": ((4, 9, 9), (6, 4, 3, 3), "dilations = [2, 3]", 1),
    "groups": ((4, 7, 7), (6, 2, 3, 3), "group = 2", 2),
    "depthwise": ((4, 7, 7), (4, 1, 3, 3), "group = 4", 4),
    "one dimension": ((4, 20), (6, 4, 5), "strides = [2], dilations = [2]", 1),
    "three dimensions": ((2, 4, 5, 6), (3, 2, 2, 3, 2), "strides = [1, 2, 2]", 1),
    "larger than the image": ((2, 3, 3), (3, 2, 5, 5), "pads = [2, 2, 2, 2]", 1),
}


@pytest.mark.parametrize("kind", CONVS)
def test_rows_of_a_conv_give_outputs_that_the_layer_really_has(kind):
    shape, kernel, attributes, groups = CONVS[kind]
    dims = ", ".join(map(str, shape))
    angle = f"<{attributes}>" if attributes else ""
    graph = model(f"g (float[N, {dims}] x) => (float y) {{ y = Conv {angle} (x, w) }}", w=normal(*kernel))
    x = normal(3, *shape, seed=2)
    layer = layer_of(graph)
    rows, weights = layer.sample_rows(x, 0), layer.weight_rows(weight_of(graph))
    assert weights.shape == (groups, kernel[0] // groups, 1, layer.inputs)
    products = np.einsum("gctk,grk->rgc", weights, rows).reshape(rows.shape[1], -1)
    real = session(graph)({"x": x})["y"]
    real = np.moveaxis(real, 1, -1).reshape(-1, kernel[0])
    nearest = np.abs(products[:, None] - real[None]).max(axis=2).min(axis=1)
    assert nearest.max() < 1e-4  # float32 sums; every sampled row is a row of the output


def test_conv_samples_at_most_its_budget_and_other_windows_for_other_samples():
    graph = model("g (float[N, 2, 64, 64] x) => (float y) { y = Conv (x, w) }", w=normal(3, 2, 3, 3))
    same = np.repeat(normal(1, 2, 64, 64), 2, axis=0)
    rows = layer_of(graph).sample_rows(same, 0)
    assert rows.shape == (1, 64, 18)
    assert not np.array_equal(rows[:, :32], rows[:, 32:])


@pytest.mark.parametrize("text", [
    "g (float[N, 4, 20, 20] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
    "g (float[N, 4, 20, 20] x) => (float y) { y = ConvTranspose (x, w) }",
])  # fmt: skip
def test_rows_do_not_depend_on_how_samples_are_batched(text):
    layer, x = layer_of(model(text, w=normal(4, 4, 3, 3))), normal(5, 4, 20, 20)
    at_once = layer.sample_rows(x, 10)
    one_by_one = np.concatenate([layer.sample_rows(x[i : i + 1], 10 + i) for i in range(5)], axis=1)
    np.testing.assert_array_equal(at_once, one_by_one)


@pytest.mark.parametrize(
    ("text", "shape", "weight"),
    [
        ("g (float[N, 6] x) => (float y) { y = Gemm (x, w) }", (9, 6), (6, 5)),
        ("g (float[N, 6] x) => (float y) { y = Gemm <transB = 1> (x, w) }", (9, 6), (5, 6)),
        ("g (float[6, N] x) => (float y) { y = Gemm <transA = 1> (x, w) }", (6, 9), (6, 5)),
        ("g (float[N, 6] x) => (float y) { y = MatMul (x, w) }", (9, 6), (6, 5)),
        ("g (float[N, 2, 3, 6] x) => (float y) { y = MatMul (x, w) }", (4, 2, 3, 6), (6, 5)),
        ("g (float[6] x) => (float y) { y = MatMul (x, w) }", (6,), (6, 5)),
    ],
)
def test_rows_of_a_product_give_the_layers_output(text, shape, weight):
    graph, x = model(text, w=normal(*weight)), normal(*shape, seed=2)
    layer = layer_of(graph)
    products = np.einsum("gctk,grk->rc", layer.weight_rows(weight_of(graph)), layer.sample_rows(x, 0))
    np.testing.assert_allclose(products, session(graph)({"x": x})["y"].reshape(-1, 5), atol=1e-5)


def test_conv_transpose_sums_its_taps():
    graph = model("g (float[N, 4, 1, 1] x) => (float y) { y = ConvTranspose <group = 2> (x, w) }", w=normal(4, 3, 2, 2))
    x = normal(3, 4, 1, 1)
    layer = layer_of(graph)
    taps = np.einsum("gctk,grk->rgct", layer.weight_rows(weight_of(graph)), layer.sample_rows(x, 0))
    np.testing.assert_allclose(taps.reshape(3, 6, 2, 2), session(graph)({"x": x})["y"], atol=1e-5)


def test_layers_are_found_where_weight_is_constant_and_input_is_not():
    graph = model(
        """g (float[N, 4] x, float[4, 4] v) => (float y) {
        a = MatMul (x, v) b = MatMul (a, stack) c = MatMul (left, v) d = Gemm (a, w, bias) e = Add (d, c)
        y = Gemm <alpha = 0.5> (e, w, bias) }""",
        stack=normal(2, 4, 4)[:1, :, :], left=normal(1, 4), w=normal(4, 4), bias=normal(1, 4),
    )  # fmt: skip
    found = {layer.node: layer for layer in find_layers(graph.graph)}
    assert list(found) == ["d", "y"]
    assert found["d"].has_bias
    assert not found["y"].has_bias  # alpha scales the product, not the bias


@pytest.mark.parametrize(("pad", "found"), [("SAME_UPPER", 0), ("VALID", 1)])
def test_conv_with_automatic_pads_is_left_out_unless_it_has_none(pad, found):
    text = f'g (float[N, 2, 5, 5] x) => (float y) {{ y = Conv <auto_pad = "{pad}"> (x, w) }}'
    assert len(find_layers(model(text, w=normal(3, 2, 3, 3)).graph)) == found


def test_empty_input_gives_no_rows():
    graph = model("g (float[N, 4] x) => (float y) { y = MatMul (x, w) }", w=normal(4, 4))
    assert layer_of(graph).sample_rows(np.zeros((0, 4), np.float32), 0) is None
