"""Which scale belongs to which weight of a row, for every kind of layer and grid."""

import numpy as np
import pytest
from qdq_models import normal

from fewbits.improvement.layer_case import Rounded
from fewbits.numerics.affine import blocked_shape, fake_quantize
from fewbits.quantization.layers import Layer
from fewbits.quantization.scale_layout import layout_of
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding

CONV = Layer("n", "Conv", "x", (4, 6, 3, 2), strides=(1, 1), dilations=(1, 1), pads=(0,) * 4)
GROUPED = Layer("n", "Conv", "x", (4, 3, 1, 1), groups=2, strides=(1, 1), dilations=(1, 1), pads=(0,) * 4)
DEPTHWISE = Layer("n", "Conv", "x", (4, 1, 3, 3), groups=4, strides=(1, 1), dilations=(1, 1), pads=(0,) * 4)
TURNED = Layer("n", "ConvTranspose", "x", (6, 4, 2, 2))
TURNED_GROUPS = Layer("n", "ConvTranspose", "x", (6, 4, 2, 2), groups=2)
GEMM = Layer("n", "Gemm", "x", (7, 5))
GEMM_T = Layer("n", "Gemm", "x", (5, 7), transposed=(False, True))
MATMUL = Layer("n", "MatMul", "x", (7, 5))


def encoding_of(layer: Layer, granularity: Granularity) -> Encoding:
    """Return a grid all of whose scales differ."""
    shape: tuple[int, ...] = ()
    if isinstance(granularity, PerChannel):
        shape = (layer.weight_shape[granularity.axis],)
    elif isinstance(granularity, PerBlock):
        shape = blocked_shape(layer.weight_shape, granularity)
    scale = 0.05 + 0.001 * np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    return Encoding(QuantSpec(DType.INT4, 4, True, granularity), scale, np.zeros(shape, np.int64))


@pytest.mark.parametrize(
    ("layer", "granularity", "blocks"),
    [
        (CONV, PerTensor(), 1), (CONV, PerChannel(0), 1), (CONV, PerBlock(1, 4), 12), (CONV, PerBlock(-2, 2), 24),
        (GROUPED, PerChannel(0), 1), (GROUPED, PerBlock(1, 2), 2), (DEPTHWISE, PerBlock(1, 1), 9),
        (TURNED, PerChannel(1), 1), (TURNED, PerBlock(0, 4), 2), (TURNED_GROUPS, PerTensor(), 1),
        (GEMM, PerChannel(1), 1), (GEMM, PerBlock(0, 3), 3), (GEMM_T, PerChannel(0), 1), (GEMM_T, PerBlock(1, 3), 3),
        (MATMUL, PerChannel(-1), 1), (MATMUL, PerBlock(0, 1), 7), (MATMUL, PerBlock(-2, 32), 1),
    ],
)  # fmt: skip
def test_codes_times_steps_are_the_weights_on_their_grid(layer, granularity, blocks):
    encoding = encoding_of(layer, granularity)
    weight = fake_quantize(normal(*layer.weight_shape) * 0.2, encoding)
    layout = layout_of(layer, encoding)
    rows = layout.rows(layer.weight_rows(weight))
    flat = rows.reshape(len(rows), -1, rows.shape[-1])
    scale = layout.scales(encoding)
    assert scale.shape == (*layout.index.shape[:2], blocks)
    steps = Rounded(flat, scale, 0.0, 0.0, blocks=layout.blocks).steps
    codes = np.rint(flat / steps)
    found = Rounded(codes, scale, 0.0, 0.0, blocks=layout.blocks)
    np.testing.assert_array_equal(found.weights, rows.astype(np.float32))
    largest = layout.largest(rows)
    assert largest.shape == scale.shape
    spread = np.repeat(largest, found.taps, axis=1)
    spread = spread if layout.blocks is None else spread[..., layout.blocks]
    assert (np.abs(flat) <= spread).all()
    assert largest.max() == np.abs(weight).max()


@pytest.mark.parametrize(
    ("layer", "granularity"), [(CONV, PerBlock(1, 4)), (TURNED, PerBlock(0, 4)), (GEMM, PerChannel(1))], ids=str
)
def test_scales_go_back_where_they_came_from(layer, granularity):
    encoding = encoding_of(layer, granularity)
    layout = layout_of(layer, encoding)
    doubled = layout.encoding(2 * layout.scales(encoding), encoding)
    np.testing.assert_array_equal(doubled.scale, 2 * encoding.scale)
    assert doubled.spec == encoding.spec


@pytest.mark.parametrize(
    ("layer", "granularity"),
    [
        (CONV, PerBlock(0, 2)),  # two outputs share a scale
        (GEMM, PerBlock(1, 2)), (MATMUL, PerChannel(0)), (TURNED_GROUPS, PerChannel(1)), (CONV, PerChannel(1)),
    ],
)  # fmt: skip
def test_scales_that_outputs_share_have_no_layout(layer, granularity):
    assert layout_of(layer, encoding_of(layer, granularity)) is None
