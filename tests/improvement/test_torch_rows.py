import math

import numpy as np
import pytest

from fewbits.quantization.layers import Layer, find_layers
from networks import graph, normal

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_rows import RowReader, weights_from_rows  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch  # noqa: E402

CONVS = [
    # attributes, input, weight
    ("", (2, 3, 6, 5), (4, 3, 3, 2)),
    ("pads = [1, 1, 1, 1]", (2, 3, 6, 5), (4, 3, 3, 3)),
    ("pads = [0, 2, 1, 0]", (2, 3, 6, 5), (4, 3, 3, 3)),
    ("strides = [2, 3], pads = [1, 0, 1, 2]", (2, 3, 9, 8), (4, 3, 3, 2)),
    ("dilations = [2, 3], pads = [2, 3, 2, 3]", (2, 3, 9, 8), (4, 3, 3, 3)),
    ("strides = [3, 2], dilations = [2, 1], pads = [0, 1, 2, 0]", (2, 3, 9, 8), (4, 3, 3, 3)),
    ("group = 2, pads = [1, 1, 1, 1]", (2, 4, 5, 5), (6, 2, 3, 3)),
    ("group = 4, strides = [2, 2], pads = [1, 1, 1, 1]", (3, 4, 7, 6), (4, 1, 3, 3)),
    ("group = 3", (2, 3, 5, 5), (6, 1, 2, 2)),
    ("strides = [2, 2]", (2, 8, 5, 4), (5, 8, 1, 1)),
    ("strides = [2], pads = [1, 2]", (2, 3, 9), (4, 3, 4)),
    ("group = 3, dilations = [2], pads = [2, 2]", (2, 3, 9), (3, 1, 3)),
    ("pads = [1, 0, 1, 1, 1, 0]", (1, 2, 4, 3, 5), (3, 2, 2, 2, 2)),
    ('auto_pad = "VALID", strides = [2, 2]', (2, 3, 6, 5), (4, 3, 3, 3)),
]  # fmt: skip
PRODUCTS = [
    ("Gemm", "", (5, 6), (6, 3)),
    ("Gemm", "<transB = 1>", (5, 6), (3, 6)),
    ("Gemm", "<transA = 1>", (6, 5), (6, 3)),
    ("Gemm", "<transA = 1, transB = 1>", (6, 5), (3, 6)),
    ("MatMul", "", (6,), (6, 3)),
    ("MatMul", "", (5, 6), (6, 3)),
    ("MatMul", "", (2, 4, 6), (6, 3)),
    ("MatMul", "", (2, 3, 4, 6), (6, 3)),
]


def text(node: str, x: tuple[int, ...], names: str) -> str:
    shape = ", ".join(str(n) for n in x)
    return f"g (float[{shape}] x, {names}) => (float y) {{ [layer] y = {node} }}"


def checked(node: str, x: np.ndarray, **constants: np.ndarray) -> tuple[RowReader, torch.Tensor, torch.Tensor]:
    """Return a reader of the only layer, its input and what torch computes for it."""
    names = ", ".join(f"float[{', '.join(map(str, a.shape))}] {name}" for name, a in constants.items())
    model = graph(text(node, x.shape, names), **constants)
    (layer,) = find_layers(model.graph)
    feeds = feeds_to_torch({"x": x})
    with torch.no_grad():
        return RowReader(layer), feeds["x"], TorchGraph(model)(feeds)["y"]


def everywhere(reader: RowReader, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return reader.choose(x, 10**6, torch.Generator().manual_seed(0))


def product(reader: RowReader, rows: torch.Tensor, weight: np.ndarray, bias: np.ndarray | None = None) -> torch.Tensor:
    """Return what the layer makes of rows [G, R, K]: [G, R, C * T]."""
    flat = reader.layer.weight_rows(weight)
    found = rows @ torch.from_numpy(flat.reshape(flat.shape[0], -1, flat.shape[3])).transpose(1, 2)
    return found if bias is None else found + torch.from_numpy(bias).reshape(flat.shape[0], 1, -1)


@pytest.mark.parametrize(("attributes", "x", "weight"), CONVS)
def test_rows_of_a_convolution_give_its_output(attributes, x, weight):
    w, b = normal(*weight, seed=1), normal(weight[0], seed=2)
    reader, image, y = checked(f"Conv <{attributes}> (x, w, b)".replace("<>", ""), normal(*x), w=w, b=b)
    assert reader.sizes(image) == (x[0], math.prod(y.shape[2:]))
    index = everywhere(reader, image)
    wanted = reader.outputs(y, index)
    assert wanted.numel() == y.numel()
    torch.testing.assert_close(product(reader, reader.inputs(image, index), w, b), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "attributes", "x", "weight"), PRODUCTS)
def test_rows_of_a_product_give_its_output(op, attributes, x, weight):
    w = normal(*weight, seed=1)
    bias = normal(3, seed=2) if op == "Gemm" else None
    constants = {"w": w} if bias is None else {"w": w, "b": bias}
    reader, value, y = checked(f"{op} {attributes} (x, {', '.join(constants)})", normal(*x), **constants)
    index = everywhere(reader, value)
    wanted = reader.outputs(y, index)
    assert wanted.numel() == y.numel()
    torch.testing.assert_close(product(reader, reader.inputs(value, index), w, bias), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_positions_in_any_order_and_layout(layout):
    w, b = normal(6, 2, 3, 3, seed=1), normal(6, seed=2)
    node = "Conv <group = 2, strides = [2, 1], pads = [1, 1, 0, 2]> (x, w, b)"
    reader, image, y = checked(node, normal(3, 4, 7, 6), w=w, b=b)
    image = image.contiguous(memory_format=layout)
    sample, position = everywhere(reader, image)
    some = torch.randperm(len(sample), generator=torch.Generator().manual_seed(3))[:17]
    index = (sample[some], position[some])
    found = product(reader, reader.inputs(image, index), w, b)
    torch.testing.assert_close(found, reader.outputs(y, index), rtol=1e-5, atol=1e-5)
    assert found.shape == (2, 17, 3)


@pytest.mark.parametrize("group", [1, 2])
def test_rows_of_a_transposed_convolution_are_its_summands(group):
    w = normal(4, 3, 2, 3, seed=1)
    # windows that do not overlap: every output is one summand
    node = f"ConvTranspose <group = {group}, strides = [2, 3]> (x, w)"
    reader, image, y = checked(node, normal(2, 4, 3, 5), w=w)
    index = everywhere(reader, image)
    found = product(reader, reader.inputs(image, index), w)  # [G, (N, H, W), (C, 2, 3)]
    parts = found.reshape(group, 2, 3, 5, 3, 2, 3).permute(1, 0, 4, 2, 5, 3, 6)
    torch.testing.assert_close(parts.reshape(y.shape), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (Layer("n", "Conv", "x", (6, 2, 3, 2), groups=2), 2),
        (Layer("n", "Conv", "x", (6, 2, 5), groups=3), 3),
        (Layer("n", "ConvTranspose", "x", (6, 2, 3, 2), groups=2), 2),
        (Layer("n", "ConvTranspose", "x", (6, 2, 4)), 1),
        (Layer("n", "Gemm", "x", (6, 4)), 1),
        (Layer("n", "Gemm", "x", (6, 4), transposed=(False, True)), 1),
        (Layer("n", "Gemm", "x", (6, 4), transposed=(True, False)), 1),
        (Layer("n", "MatMul", "x", (6, 4)), 1),
    ],
)
def test_weights_from_rows_invert_weight_rows(layer, count):
    weight = normal(*layer.weight_shape)
    rows = layer.weight_rows(weight)
    assert rows.ndim == 4
    assert rows.shape[0] == count
    found = weights_from_rows(layer, rows)
    np.testing.assert_array_equal(found, weight)
    assert found.flags.c_contiguous


def test_chosen_positions_are_of_the_tensor_and_repeat_with_the_seed():
    reader = RowReader(Layer("n", "Conv", "x", (4, 3, 3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1)))
    x = torch.zeros(5, 3, 8, 8)

    def chosen(count: int, seed: int = 0) -> torch.Tensor:
        sample, position = reader.choose(x, count, torch.Generator().manual_seed(seed))
        assert int(sample.max()) < 5
        assert int(position.max()) < 64
        return sample * 64 + position

    torch.testing.assert_close(chosen(320), torch.arange(320))
    few = chosen(100)  # of 320: each at most once
    assert len(set(few.tolist())) == 100
    torch.testing.assert_close(chosen(100), few)
    assert not torch.equal(chosen(100, seed=1), few)
    assert len(chosen(10)) == 10  # far fewer than there are
