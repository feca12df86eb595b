"""Numbers at the ends of float32: grids stay finite and normal, and searches do not depend on the unit of a tensor."""

import numpy as np
import pytest

from fewbits.numerics.affine import LARGEST_VALUE, SMALLEST_SCALE, dequantize, encoding_from_range, fake_quantize
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.ranges import ESTIMATORS
from fewbits.numerics.second_moment import LARGEST, SecondMoment
from fewbits.numerics.weight_search import search_weight_scales
from fewbits.numerics.weights import weight_encoding
from fewbits.spec.dtypes import DType, PerChannel, PerTensor, QuantSpec

MOST = float(np.finfo(np.float32).max)
SPECS = [
    QuantSpec(DType.UINT8, 8, is_symmetric=False, granularity=PerTensor()),
    QuantSpec(DType.UINT8, 8, is_symmetric=True, granularity=PerTensor()),
    QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerTensor()),
    QuantSpec(DType.UINT8, 4, is_symmetric=False, granularity=PerTensor()),
    QuantSpec(DType.UINT16, 16, is_symmetric=False, granularity=PerTensor()),
    QuantSpec(DType.INT16, 16, is_symmetric=True, granularity=PerTensor()),
]
ROWS = QuantSpec(DType.INT8, 4, is_symmetric=True, granularity=PerChannel(0))
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 48)).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.dtype.value}-{s.bits}-{s.is_symmetric}")
@pytest.mark.parametrize(
    ("low", "high"), [(-MOST, MOST), (-MOST, 0.0), (0.0, MOST), (-MOST, 1.0), (-MOST, 0.998 * MOST), (-1e38, 3e38)]
)
def test_every_code_of_the_widest_ranges_stands_for_a_finite_number(spec, low, high):
    encoding = encoding_from_range(low, high, spec)
    codes = np.arange(spec.qmin, spec.qmax + 1).astype(np.int32)
    values = dequantize(codes, encoding)
    assert np.isfinite(values).all()
    assert np.isfinite(np.concatenate([end.reshape(1) for end in encoding.range])).all()
    given = np.linspace(low, high, 4001).astype(np.float32)
    apart = np.abs(fake_quantize(given, encoding).astype(np.float64) - given)
    off_the_end = MOST - LARGEST_VALUE
    assert apart.max() <= encoding.scale + 1.5 * off_the_end  # half a step of rounding, half a step at the end


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.dtype.value}-{s.bits}-{s.is_symmetric}")
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1e-38, 1e-36])
def test_a_scale_is_never_below_the_smallest_normal_float32(spec, size):
    encoding = encoding_from_range(-size, size, spec)
    assert encoding.scale >= SMALLEST_SCALE
    assert np.isfinite(fake_quantize(np.array([-size, 0.0, size], np.float32), encoding)).all()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("unit", [1e-45, 1e-38, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("shape", ["constant", "negative", "far", "outlier"])
def test_estimators_stay_inside_what_was_observed_at_any_size(name, unit, shape):
    values = {
        "constant": np.full(999, 1.0),
        "negative": -RNG.random(999),
        "far": 0.99 + 0.01 * RNG.random(999),
        "outlier": np.append(1e-6 * RNG.random(998), 1.0),
    }[shape]
    histogram = Histogram()
    histogram.update((values * unit).astype(np.float32))
    for spec in SPECS:
        low, high = ESTIMATORS[name]()(histogram, spec)
        assert low <= 0 <= high
        assert max(-low, high) <= max(-histogram.low, histogram.high, 0.0)
        assert np.isfinite(encoding_from_range(low, high, spec).scale)


@pytest.mark.parametrize("exponent", [-120, -70, 60, 120])
def test_scales_of_weights_follow_the_unit_of_the_weights(exponent):
    """Squares of weights below 1e-20 vanish in float32, and above 1e19 they overflow."""
    plain = weight_encoding(WEIGHT, ROWS, method="mse").scale
    unlike = weight_encoding(np.ldexp(WEIGHT, exponent), ROWS, method="mse").scale
    assert not np.array_equal(plain, weight_encoding(WEIGHT, ROWS, method="absmax").scale)
    np.testing.assert_array_equal(np.ldexp(plain, exponent), unlike)


@pytest.mark.parametrize("exponent", [-120, -70, 60, 120])
def test_scales_searched_with_inputs_follow_the_unit_of_the_weights(exponent):
    moment = SecondMoment()
    moment.update(RNG.standard_normal((1, 200, 48)))
    rows = WEIGHT.reshape(1, 6, 1, 48)
    plain = search_weight_scales(rows, ROWS, moment)
    np.testing.assert_array_equal(
        np.ldexp(plain, exponent), search_weight_scales(np.ldexp(rows, exponent), ROWS, moment)
    )


def test_a_channel_of_huge_and_one_of_tiny_weights_are_searched_each_by_itself():
    moment = SecondMoment()
    moment.update(RNG.standard_normal((1, 200, 48)))
    rows = WEIGHT.reshape(1, 6, 1, 48).copy()
    plain = search_weight_scales(rows, ROWS, moment)
    rows[0, 2], rows[0, 3], rows[0, 4] = np.ldexp(rows[0, 2], 125), np.ldexp(rows[0, 3], -100), 0.0
    found = search_weight_scales(rows, ROWS, moment)
    np.testing.assert_array_equal(found[[0, 1, 5]], plain[[0, 1, 5]])
    np.testing.assert_array_equal(np.ldexp(found[2:4], [-125, 100]), plain[2:4])
    assert np.isfinite(found).all()


def test_the_largest_weights_keep_finite_codes():
    moment = SecondMoment()
    moment.update(RNG.standard_normal((1, 200, 48)))
    rows = np.clip(WEIGHT, -1, 1).reshape(1, 6, 1, 48) * np.float32(MOST)
    for bits, dtype in ((4, DType.INT8), (8, DType.INT8), (16, DType.INT16)):
        spec = QuantSpec(dtype, bits, is_symmetric=True, granularity=PerChannel(0))
        scales = search_weight_scales(rows, spec, moment)
        assert np.isfinite(scales * np.float32(spec.qmax)).all()


def test_inputs_too_large_to_square_are_dropped_for_good():
    """Their sums would overflow, and what is left of the sums would decide alone."""
    moment = SecondMoment()
    moment.update(np.ones((1, 100, 4), np.float32))
    moment.update(np.full((1, 3, 4), -1.001 * LARGEST, np.float32))
    moment.update(np.ones((1, 100, 4), np.float32))
    moment.finish()
    assert (moment.rows, moment.is_too_large) == (0, True)
    largest = SecondMoment()
    largest.update(np.full((1, 1000, 4), LARGEST, np.float32))
    largest.update(np.full((1, 1000, 4), -LARGEST, np.float32))
    found = largest.matrix()
    assert found is not None
    assert np.isfinite(found).all()
