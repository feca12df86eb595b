"""Weight grids: the search never loses to the full range on its own objective, in any channel and granularity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewbits.errors import DataError, SpecError
from fewbits.numerics.affine import fake_quantize
from fewbits.numerics.weights import RATIOS, weight_encoding
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec


def spec_of(bits: int, granularity: Granularity, *, symmetric: bool = True) -> QuantSpec:
    return QuantSpec(DType.container(bits, signed=symmetric), bits, symmetric, granularity)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(4, shape) * 0.1).astype(np.float32)


def per_channel(values: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).sum(axis=1)


def objective(w: np.ndarray, fq: np.ndarray, axis: int, importance: object = 1.0, mean: object = 0.0) -> np.ndarray:
    d = fq.astype(np.float64) - w
    return per_channel(d * d * importance, axis) + per_channel(d * mean, axis) ** 2


def test_weight_encoding_absmax_is_absmax_over_qmax() -> None:
    w = weight(6, 5, 3, 3)
    for axis in (0, 1, -1):
        for bits, qmax in ((4, 7), (8, 127), (16, 32767)):
            encoding = weight_encoding(w, spec_of(bits, PerChannel(axis)))
            absmax = np.abs(np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)).max(axis=1)
            np.testing.assert_array_equal(encoding.scale, (absmax.astype(np.float64) / qmax).astype(np.float32))
            assert not encoding.zero_point.any()
    assert weight_encoding(w, spec_of(8, PerTensor())).scale == np.float32(np.float64(np.abs(w).max()) / 127)


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, -1]),
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.booleans(),
)
def test_weight_encoding_mse_never_loses_to_absmax(
    seed: int, axis: int, bits: int, symmetric: bool, with_mean: bool
) -> None:
    w = weight(5, 12, 4, seed=seed)
    rng = np.random.default_rng(seed)
    importance = rng.uniform(0, 2, (1, 12, 1)) ** 4
    mean = rng.normal(0, 1, (1, 12, 1)) if with_mean else None
    spec = spec_of(bits, PerChannel(axis), symmetric=symmetric)
    plain = fake_quantize(w, weight_encoding(w, spec))
    found = fake_quantize(w, weight_encoding(w, spec, method="mse", importance=importance, mean=mean))
    shift = 0.0 if mean is None else mean
    after, before = (objective(w, fq, axis, importance, shift) for fq in (found, plain))
    assert (after <= before * (1 + 1e-6)).all()  # sums are taken in float32


def test_weight_encoding_mse_finds_the_best_ratio_of_each_channel() -> None:
    w, mean, importance = weight(4, 300), weight(300, seed=1) * 10, np.abs(weight(300, seed=2))
    spec = spec_of(4, PerChannel(0))
    found = weight_encoding(w, spec, method="mse", importance=importance, mean=mean)
    full = weight_encoding(w, spec).scale
    losses = []
    for ratio in RATIOS:
        steps = np.clip(np.rint(w / (full * np.float32(ratio))[:, None]), -7, 7)
        losses.append(objective(w, steps * (full * np.float32(ratio))[:, None], 0, importance, mean))
    best = np.min(losses, axis=0)
    np.testing.assert_allclose(objective(w, fake_quantize(w, found), 0, importance, mean), best, rtol=1e-3)
    assert (best < losses[0] * 0.9).any(), "the data leave something to find"


@pytest.mark.parametrize("factor", ["importance", "mean"])
def test_weight_encoding_mse_heeds_the_inputs(factor: str) -> None:
    w = weight(3, 64)
    peaked = np.zeros(64, dtype=np.float32)
    peaked[np.abs(w).argmax(axis=1)] = 10.0  # only the outliers matter: do not clip them
    spec = spec_of(4, PerChannel(0))
    scale = weight_encoding(w, spec, method="mse", **{factor: peaked}).scale
    assert (scale > weight_encoding(w, spec, method="mse").scale).all()


def test_weight_encoding_per_tensor_searches_across_chunks() -> None:
    w = weight(70, 1000)  # more than one chunk of columns
    spec = spec_of(4, PerTensor())
    found = fake_quantize(w, weight_encoding(w, spec, method="mse"))
    tried = []
    for ratio in RATIOS:
        scale = np.float32(np.abs(w).max() / 7 * ratio)
        tried.append(np.mean((np.clip(np.rint(w / scale), -7, 7) * scale - w) ** 2))
    assert np.mean((found - w) ** 2) == pytest.approx(min(tried), rel=1e-4)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weight_encoding_per_block_equals_each_block_alone(axis: int) -> None:
    w = weight(7, 10, 3)
    spec = spec_of(4, PerBlock(axis, 4))
    together = weight_encoding(w, spec, method="mse")
    axis %= 3
    for start in range(0, w.shape[axis], 4):
        part = np.moveaxis(np.take(w, range(start, min(start + 4, w.shape[axis])), axis), axis, -1)
        rows = part.reshape(-1, part.shape[-1])
        alone = weight_encoding(rows, spec_of(4, PerChannel(0)), method="mse")
        np.testing.assert_array_equal(np.take(together.scale, start // 4, axis).ravel(), alone.scale)


def test_weight_encoding_lends_zero_channels_the_largest_scale() -> None:
    w = weight(4, 9)
    w[2] = 0
    for method in ("absmax", "mse"):
        scale = weight_encoding(w, spec_of(8, PerChannel(0)), method=method).scale
        assert scale[2] == scale[[0, 1, 3]].max()
    np.testing.assert_array_equal(
        weight_encoding(np.zeros((2, 3)), spec_of(8, PerChannel(0))).scale, np.float32([1 / 127, 1 / 127])
    )


@settings(max_examples=30)
@given(hnp.arrays(np.float32, (3, 8), elements=st.floats(-10, 10, width=32)))
def test_weight_encoding_asymmetric_covers_each_channel(w: np.ndarray) -> None:
    encoding = weight_encoding(w, spec_of(8, PerChannel(0), symmetric=False))
    error = np.abs(fake_quantize(w, encoding) - w)
    # Half a step of rounding and up to half a step of the zero point's own rounding at an end.
    assert (error <= encoding.scale[:, None] * 1.001).all()


def test_weight_encoding_names_what_does_not_fit() -> None:
    w, spec = weight(3, 4), spec_of(8, PerChannel(0))
    with pytest.raises(SpecError, match="Unknown weight range method 'best'"):
        weight_encoding(w, spec, method="best")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="has no axis 2"):
        weight_encoding(w, spec_of(8, PerChannel(2)))
    with pytest.raises(SpecError, match=r"importance of shape \(3,\) does not broadcast"):
        weight_encoding(w, spec, method="mse", importance=np.ones(3))
    with pytest.raises(DataError, match="importance is negative"):
        weight_encoding(w, spec, method="mse", importance=-np.ones(4))
    with pytest.raises(DataError, match="weight holds NaN or Inf"):
        weight_encoding(np.full((3, 4), np.nan), spec)
    with pytest.raises(DataError, match="empty weight"):
        weight_encoding(np.zeros((0, 4)), spec)
