"""Figures of distance against their definitions and their edge cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import MetricError
from fewbits.numerics.affine import encoding_from_range
from fewbits.numerics.metrics import (
    SqnrAccumulator,
    agreement,
    cosine,
    kl_divergence,
    lsb_difference,
    mse,
    sqnr_db,
)
from fewbits.spec.dtypes import DType, PerChannel, QuantSpec

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 10)).astype(np.float32)
NOISE = RNG.standard_normal((8, 10)).astype(np.float32)


@given(st.floats(-60, 60))
def test_sqnr_db_reads_the_noise_that_was_added(db: float) -> None:
    signal, noise = X.astype(np.float64), NOISE / np.linalg.norm(NOISE) * np.linalg.norm(X) * 10 ** (-db / 20)
    assert sqnr_db(signal, signal + noise) == pytest.approx(db, abs=1e-4)


def test_sqnr_db_is_infinite_for_identical_tensors_and_for_noise_on_zeros() -> None:
    assert sqnr_db(X, X) == math.inf
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf
    assert math.isnan(sqnr_db(np.ones(3), np.full(3, np.nan)))


def test_sqnr_accumulator_equals_the_whole() -> None:
    accumulator = SqnrAccumulator()
    for start in range(0, 8, 3):
        accumulator.update(X[start : start + 3], X[start : start + 3] + NOISE[start : start + 3])
    assert accumulator.db == pytest.approx(sqnr_db(X, X + NOISE), rel=1e-12)


def test_mse_is_the_mean_squared_difference() -> None:
    assert mse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 2.0
    assert mse(np.array([250], np.uint8), np.array([0], np.uint8)) == 62500.0


def test_cosine_reads_angles_and_zeros() -> None:
    assert cosine([1, 0], [1, 1]) == pytest.approx(math.sqrt(0.5))
    assert cosine(X, -3 * X) == pytest.approx(-1.0)
    assert cosine(np.zeros(2), np.zeros(2)) == 1.0
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


def test_agreement_is_the_share_of_equal_argmax() -> None:
    reference = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [0, 0, 1]])
    test = np.array([[0, 0, 9], [9, 0, 0], [9, 0, 0], [0, 0, 2]])
    assert agreement(reference, test) == 0.75
    assert agreement(reference.T, test.T, axis=0) == 0.75


def test_kl_divergence_is_that_of_the_softmax() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    assert kl_divergence(np.log(p), np.log(q) + 7) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert kl_divergence(X, X) == 0.0
    assert kl_divergence(X.T * 1e4, NOISE.T * 1e4, axis=0) > 0


def test_lsb_difference_counts_steps() -> None:
    encoding = encoding_from_range(-1.0, 1.0, QuantSpec(DType.INT8, 8, is_symmetric=True))
    reference = np.array([0.0, 0.5, 2.0, -1.0])
    steps = lsb_difference(reference, reference + np.array([0.001, 2.0 / 127, 9.0, 2.0]), encoding)
    np.testing.assert_array_equal(steps, [0, 2, 0, 254])
    per_channel = QuantSpec(DType.UINT4, 4, is_symmetric=False, granularity=PerChannel(0))
    encoding = encoding_from_range(np.zeros(2), np.array([15.0, 30.0]), per_channel)
    np.testing.assert_array_equal(lsb_difference([[0.0], [0.0]], [[15.0], [4.0]], encoding), [[15], [2]])


@pytest.mark.parametrize("metric", [mse, sqnr_db, cosine, agreement, kl_divergence])
def test_every_metric_refuses_other_shapes_and_nothing(metric: object) -> None:
    with pytest.raises(MetricError, match=r"shape \(8, 10\) cannot be compared with one of shape \(8,\)"):
        metric(X, X[:, 0])  # type: ignore[operator]
    with pytest.raises(MetricError, match="nothing to compare"):
        metric(X[:0], X[:0])  # type: ignore[operator]
