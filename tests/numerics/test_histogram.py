"""The histogram's state depends on the data alone: not on batches, their order, or how parts were merged."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewbits.errors import DataError
from fewbits.numerics.histogram import BINS, Histogram

# Magnitudes from denormals to 1e38, so that widths change by hundreds of powers of two between batches.
reals = st.one_of(
    st.floats(-(2.0**126), 2.0**126, width=32),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 6.0]),
)
batches = st.lists(hnp.arrays(np.float32, st.integers(0, 20), elements=reals), min_size=1, max_size=5)


def observed(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(part)
    return histogram


@given(batches, st.randoms(use_true_random=False))
@example([np.array([-1e-45], np.float32), np.array([3e4], np.float32)], None)
def test_update_does_not_depend_on_order_or_batching(parts: list[np.ndarray], random: object) -> None:
    shuffled = list(reversed(parts))
    if random is not None:
        random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert observed(*parts) == observed(np.concatenate(parts)) == observed(*shuffled)


@given(batches, batches, batches)
def test_merge_is_exact_associative_and_commutative(a: list, b: list, c: list) -> None:
    x, y, z = observed(*a), observed(*b), observed(*c)
    everything = observed(*a, *b, *c)
    assert x.merge(y).merge(z) == everything
    assert x.merge(y.merge(z)) == everything
    assert z.merge(x).merge(y) == everything
    assert x == observed(*a), "the operands stay as they were"


@given(batches)
def test_update_counts_each_element_in_its_own_bin(parts: list[np.ndarray]) -> None:
    x = np.concatenate(parts).astype(np.float64)
    histogram = observed(*parts)
    assert histogram.count == x.size
    assert histogram.zeros == int((x == 0).sum())
    if x.size:
        assert (histogram.low, histogram.high) == (x.min(), x.max())
        bins = np.floor(x / histogram.width)
        expected = np.array([(bins == histogram.first + k).sum() for k in range(len(histogram.counts))])
        np.testing.assert_array_equal(histogram.counts, expected)


def test_update_shrinks_no_bins_after_a_batch_of_zeros() -> None:
    zeros, tiny = np.zeros(3, dtype=np.float32), np.array([1e-6, -1e-6], dtype=np.float32)
    assert observed(zeros, tiny) == observed(tiny, zeros)


@given(batches)
def test_width_is_the_least_power_of_two_that_spans_the_range(parts: list[np.ndarray]) -> None:
    histogram = observed(*parts)
    if histogram.low > histogram.high:
        return
    low, high, width = min(histogram.low, 0.0), max(histogram.high, 0.0), histogram.width
    assert np.floor(high / width) - np.floor(low / width) + 1 <= BINS
    if histogram.exponent > -120:
        assert np.floor(2 * high / width) - np.floor(2 * low / width) + 1 > BINS


def test_update_takes_the_exact_range_of_all_elements_and_counts_every_strideth() -> None:
    x = np.random.default_rng(0).standard_normal((3, 1001)).astype(np.float32)
    x[1, 500] = 99.0
    histogram = Histogram()
    histogram.update(x, stride=17)
    assert (histogram.low, histogram.high) == (x.min(), 99.0)
    assert histogram.count == len(x.ravel()[::17])


def test_update_of_long_tensors_equals_numpy_histogram() -> None:
    x = np.random.default_rng(0).standard_t(3, 200_000).astype(np.float32)
    histogram = observed(x)
    np.testing.assert_array_equal(histogram.counts, np.histogram(x.astype(np.float64), histogram.edges)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_update_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(DataError, match="holds NaN or Inf"):
        Histogram().update(np.array([1.0, bad, 2.0], dtype=np.float32))


@pytest.mark.parametrize("bad", [np.nan, 1e30, -5.0])
def test_update_counts_refuses_elements_outside_the_range(bad: float) -> None:
    histogram = Histogram()
    histogram.update_range(0.0, 1.0)
    with pytest.raises(DataError, match=r"outside the range \[0, 1\]"):
        histogram.update_counts(np.array([0.5, bad], dtype=np.float32))


def test_update_range_then_update_counts_equals_update() -> None:
    x = np.random.default_rng(1).uniform(-2, 5, 1000).astype(np.float32)
    histogram = Histogram()
    histogram.update_range(float(x.min()), float(x.max()))
    histogram.update_counts(x)
    assert histogram == observed(x)


@given(batches)
def test_from_arrays_reads_what_to_arrays_wrote(parts: list[np.ndarray]) -> None:
    histogram = observed(*parts)
    restored = Histogram.from_arrays(histogram.to_arrays())
    assert restored == histogram
    more = np.array([7.0, -9.0], dtype=np.float32)
    restored.update(more)
    assert restored == observed(*parts, more)


def test_from_arrays_names_what_is_missing() -> None:
    with pytest.raises(DataError, match=r"lack \['counts'\]"):
        Histogram.from_arrays({"range": np.zeros(2), "bins": np.zeros(3)})


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_mean_and_mean_square_are_exact_to_a_bin(seed: int, shift: float) -> None:
    x = np.maximum(np.random.default_rng(seed).standard_normal(5000) + shift, 0.0).astype(np.float32)
    histogram = observed(x)
    assert histogram.mean == pytest.approx(float(x.mean()), abs=histogram.width)
    assert histogram.mean_square == pytest.approx(float((x**2).mean()), abs=2 * histogram.width * float(x.max()))


def test_nonzero_counts_leave_out_exact_zeros_only() -> None:
    histogram = observed(np.array([0.0, -0.0, 0.0, 1e-6, -1.0, 4.0], dtype=np.float32))
    assert histogram.nonzero_counts.sum() == 3
    assert histogram.nonzero_counts[-histogram.first] == 1
