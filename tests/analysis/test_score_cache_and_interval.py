import numpy as np
import pytest
from score_models import LOGITS, echo, open_as

from fewbits.analysis.scores import CachedPredict, paired_interval, parse_metric
from fewbits.errors import MetricError, SpecError


def test_cached_predict_runs_each_batch_once():
    cached = CachedPredict(echo)
    data = open_as({"x": LOGITS})
    first = parse_metric("sqnr").score(echo, data, reference=cached)
    again = parse_metric("sqnr").score(echo, data, reference=cached)
    assert (first.value, again.value, cached.runs) == (200, 200, 4)
    assert cached.stored_bytes == LOGITS.size * 4


def test_cached_predict_tells_feeds_apart():
    cached = CachedPredict(lambda feeds: {"y": sum(feeds.values())})
    feeds = [
        {"a": np.zeros((1, 2))},
        {"b": np.zeros((1, 2))},
        {"a": np.zeros((2, 1))},
        {"a": np.zeros((1, 2), np.float32)},
        {"a": np.zeros((1, 2), np.int64)},
        {"a": np.ones((1, 2))},
        {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))},
        {"a": np.asarray(0.0)},
        {"a": np.zeros((0, 2))},
    ]
    for one in feeds * 2:
        np.testing.assert_array_equal(cached(one)["y"], sum(one.values()))
    assert cached.runs == len(feeds)


def test_cached_predict_stays_under_its_ceiling_and_right():
    cached = CachedPredict(echo, ceiling_bytes=2 * LOGITS.shape[1] * 8)
    for _ in range(2):
        for row in LOGITS[:, None]:
            np.testing.assert_array_equal(cached({"x": row})["y"], row)
    assert cached.stored_bytes == 2 * LOGITS.shape[1] * 8
    assert cached.runs == 6


def test_cached_predict_protects_what_it_keeps():
    outputs = CachedPredict(echo)({"x": np.zeros(2)})
    with pytest.raises(ValueError, match=r"read-only"):
        outputs["y"][0] = 1


# The interval


def test_paired_interval_of_a_constant_difference_is_a_point():
    values = np.arange(10.0)
    assert paired_interval(values, values - 2, rng=np.random.default_rng(0)) == (2, 2)


def test_paired_interval_has_the_width_of_the_normal_interval():
    rng = np.random.default_rng(0)
    common, noise = rng.normal(0, 50, 400), rng.normal(1, 2, 400)
    low, high = paired_interval(common + noise, common, rng=rng, level=0.9)
    half = 1.645 * noise.std() / 20
    # 2000 resamples place a 5 % quantile within about 5 % of the half-width; the mean moves as little
    assert low == pytest.approx(noise.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(noise.mean() + half, abs=0.15 * half)


def test_paired_interval_repeats_with_its_seed():
    a, b = np.random.default_rng(1).normal(size=(2, 30))
    one, same = (paired_interval(a, b, rng=np.random.default_rng(5), resamples=50) for _ in range(2))
    assert one == same
    assert one[0] < one[1]


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0)), (np.ones((2, 2)),) * 2])
def test_paired_interval_refuses_samples_that_do_not_pair(a, b):
    with pytest.raises(MetricError, match=r"do not pair up: both must be \[N\]"):
        paired_interval(a, b, rng=np.random.default_rng(0))


def test_paired_interval_refuses_impossible_levels():
    with pytest.raises(SpecError, match=r"A confidence level of 95 is impossible"):
        paired_interval(np.ones(3), np.ones(3), rng=np.random.default_rng(0), level=95)
