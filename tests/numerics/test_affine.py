"""Promises of the grid: zero exact, idempotent, monotone, half a step at most, and refusals that name the reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewbits.errors import SpecError
from fewbits.numerics.affine import (
    SMALLEST_SCALE,
    bias_encoding,
    dequantize,
    encoding_from_range,
    fake_quantize,
    quantize,
)
from fewbits.spec.dtypes import DType, PerBlock, PerChannel, QuantSpec
from fewbits.spec.encodings import Encoding

U8 = QuantSpec(DType.UINT8, 8, is_symmetric=False)
FLOAT_DTYPES = (DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16)

bounds = st.floats(-1e6, 1e6, width=32)
values = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e7, 1e7, width=32))


@st.composite
def specs(draw: st.DrawFn) -> QuantSpec:
    dtype = draw(st.sampled_from(FLOAT_DTYPES))
    return QuantSpec(dtype, draw(st.integers(2, dtype.bits)), is_symmetric=draw(st.booleans()))


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    low, high = sorted((draw(bounds), draw(bounds)))
    return encoding_from_range(low, high, draw(specs()))


@given(encodings(), values)
def test_quantize_stays_within_the_codes_of_the_spec(encoding: Encoding, x: np.ndarray) -> None:
    q = quantize(x, encoding)
    assert q.dtype == encoding.spec.dtype.numpy
    assert q.astype(int).min() >= encoding.spec.qmin
    assert q.astype(int).max() <= encoding.spec.qmax


@given(encodings(), values)
def test_fake_quantize_is_dequantize_of_quantize_bit_for_bit(encoding: Encoding, x: np.ndarray) -> None:
    direct, through_codes = fake_quantize(x, encoding), dequantize(quantize(x, encoding), encoding)
    np.testing.assert_array_equal(direct.view(np.int32), through_codes.view(np.int32))


@given(encodings(), values)
def test_fake_quantize_is_idempotent(encoding: Encoding, x: np.ndarray) -> None:
    once = fake_quantize(x, encoding)
    np.testing.assert_array_equal(fake_quantize(once, encoding), once)


@given(encodings())
def test_fake_quantize_keeps_zero(encoding: Encoding) -> None:
    assert fake_quantize(np.zeros(1), encoding)[0] == 0.0


@given(encodings(), values)
def test_fake_quantize_is_monotone(encoding: Encoding, x: np.ndarray) -> None:
    assert (np.diff(fake_quantize(np.sort(x), encoding)) >= 0).all()


@given(encodings(), values)
def test_fake_quantize_errs_by_half_a_step_inside_the_range(encoding: Encoding, x: np.ndarray) -> None:
    low, high = encoding.range
    inside = np.clip(x, low, high)
    error = np.abs(fake_quantize(inside, encoding).astype(np.float64) - inside)
    # A quotient of up to 65535 is rounded to float32: 2^-24 of it beyond the half step.
    assert (error <= float(encoding.scale) * (0.5 + 65536 * 2.0**-24)).all()


@given(bounds, bounds, specs())
def test_encoding_from_range_covers_the_range_to_half_a_step(a: float, b: float, spec: QuantSpec) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    encoding = encoding_from_range(low, high, spec)
    bottom, top = encoding.range
    slack = float(encoding.scale) * 0.51
    assert bottom <= low + slack
    assert top >= high - slack
    assert spec.qmin <= encoding.zero_point <= spec.qmax


@given(bounds, bounds, specs())
def test_encoding_from_range_makes_normal_scales(a: float, b: float, spec: QuantSpec) -> None:
    assert encoding_from_range(min(a, b), max(a, b), spec).scale >= SMALLEST_SCALE


def test_encoding_from_range_raises_tiny_scales_to_a_normal_float() -> None:
    assert float(encoding_from_range(-1e-42, 1e-42, U8).scale) == SMALLEST_SCALE


@given(st.floats(2.0**-100, 1e30), st.sampled_from(FLOAT_DTYPES))
def test_encoding_from_range_starts_a_relu_at_qmin(high: float, dtype: DType) -> None:
    spec = QuantSpec(dtype, dtype.bits, is_symmetric=False)
    assert encoding_from_range(0.0, high, spec).zero_point == spec.qmin


def test_encoding_from_range_lets_runtimes_fuse_clip_at_six() -> None:
    encoding = encoding_from_range(0.0, 6.0, U8)
    assert float(encoding.scale) * 255 <= 6.0005
    assert encoding.zero_point == 0


def test_encoding_from_range_is_symmetric_about_zero() -> None:
    signed = encoding_from_range(-3.0, 1.0, QuantSpec(DType.INT8, 8, is_symmetric=True))
    assert (float(signed.scale), int(signed.zero_point)) == (np.float32(3 / 127), 0)
    unsigned = encoding_from_range(-3.0, 1.0, QuantSpec(DType.UINT8, 8, is_symmetric=True))
    assert (float(unsigned.scale), int(unsigned.zero_point)) == (np.float32(3 / 127), 128)


def test_encoding_from_range_takes_zeros_as_zero_to_one() -> None:
    assert float(encoding_from_range(0.0, 0.0, U8).scale) == np.float32(1 / 255)
    assert float(encoding_from_range(0.0, 0.0, QuantSpec(DType.INT8, 8, is_symmetric=True)).scale) == np.float32(
        1 / 127
    )


def test_encoding_from_range_includes_zero() -> None:
    assert encoding_from_range(2.0, 5.1, U8).zero_point == 0
    assert float(encoding_from_range(2.0, 5.1, U8).scale) == np.float32(5.1 / 255)


@pytest.mark.parametrize(("low", "high"), [(float("nan"), 1.0), (0.0, float("inf")), (2.0, 1.0)])
def test_encoding_from_range_names_a_range_that_makes_no_grid(low: float, high: float) -> None:
    with pytest.raises(SpecError, match=rf"range \[{low:g}, {high:g}\] makes no grid"):
        encoding_from_range(low, high, U8)
    with pytest.raises(SpecError, match=r"at index \[1\]"):
        encoding_from_range([0, low], [1, high], QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerChannel(0)))


def test_encoding_from_range_refuses_a_scalar_per_channel() -> None:
    with pytest.raises(SpecError, match="do not fit the granularity"):
        encoding_from_range(0.0, 1.0, QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerChannel(0)))


@settings(max_examples=30)
@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-100, 100, width=32)), st.integers(-3, 2))
def test_fake_quantize_per_channel_equals_each_channel_alone(x: np.ndarray, axis: int) -> None:
    channels = np.moveaxis(x, axis, 0)
    flat = channels.reshape(len(channels), -1)
    spec = QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerChannel(axis))
    together = fake_quantize(x, encoding_from_range(flat.min(1), flat.max(1), spec))
    for i, row in enumerate(channels):
        alone = encoding_from_range(row.min(), row.max(), QuantSpec(DType.INT8, 8, is_symmetric=True))
        np.testing.assert_array_equal(np.moveaxis(together, axis, 0)[i], fake_quantize(row, alone))


def test_fake_quantize_per_block_repeats_scales_and_cuts_the_last_block() -> None:
    spec = QuantSpec(DType.INT4, 4, is_symmetric=True, granularity=PerBlock(-1, 2))
    high = np.array([[7.0, 14.0, 70.0]])
    x = np.array([[1.4, 3.6, 3.1, 5.1, 44.0]])
    np.testing.assert_array_equal(fake_quantize(x, encoding_from_range(-high, high, spec)), [[1, 4, 4, 6, 40]])


def test_quantize_refuses_an_encoding_of_another_shape() -> None:
    spec = QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerChannel(1))
    encoding = encoding_from_range(-np.ones(3), np.ones(3), spec)
    with pytest.raises(SpecError, match=r"have the shape \(4,\), not \(3,\)"):
        quantize(np.ones((3, 4)), encoding)
    with pytest.raises(SpecError, match="has no axis 1"):
        quantize(np.ones(3), encoding)
    blocks = QuantSpec(DType.INT4, 4, is_symmetric=True, granularity=PerBlock(1, 2))
    with pytest.raises(SpecError, match=r"have the shape \(3, 2\), not \(3, 1\)"):
        quantize(np.ones((3, 4)), encoding_from_range(-np.ones((3, 1)), np.ones((3, 1)), blocks))


def test_quantize_saturates_infinities_without_a_warning() -> None:
    encoding = encoding_from_range(-1.0, 1.0, U8)
    np.testing.assert_array_equal(quantize(np.array([-np.inf, np.inf, 3e38]), encoding), [0, 255, 255])
    assert np.isnan(fake_quantize(np.array([np.nan]), encoding)[0])


def test_bias_encoding_multiplies_in_float32() -> None:
    x_scale, w_scale = np.float32(0.1), np.array([0.3, 1e-7], dtype=np.float32)
    encoding = bias_encoding(x_scale, w_scale)
    np.testing.assert_array_equal(encoding.scale, x_scale * w_scale)
    assert (encoding.spec.dtype, encoding.spec.granularity) == (DType.INT32, PerChannel(0))
    assert bias_encoding(x_scale, np.float32(0.3)).scale.shape == ()


def test_bias_encoding_quantizes_large_biases_to_the_last_code() -> None:
    encoding = bias_encoding(1.0, 1.0)
    bias = np.array([16777215.0, 1e10, -1e10, 2.5], dtype=np.float32)
    np.testing.assert_array_equal(quantize(bias, encoding), [16777215, 2**31 - 1, -(2**31) + 1, 2])


def test_bias_encoding_refuses_a_scale_that_leaves_float32() -> None:
    with pytest.raises(SpecError, match="leaves float32"):
        bias_encoding(1e-30, 1e-30)
    with pytest.raises(SpecError, match="needs one input scale"):
        bias_encoding(np.ones(2), 1.0)
