from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fewbits.analysis.evaluate import Evaluation, drop
from fewbits.analysis.scores import parse_metric
from fewbits.errors import SpecError
from fewbits.runtime.memory import peak_mb
from fewbits.runtime.session import RunOptions
from fewbits.workflow import preflight_memory as memory
from fewbits.workflow.goal import open_goal
from fewbits.workflow.preflight import STAGE, preflight
from fewbits.workflow.preflight_data import (
    deviation,
    enough_samples,
    find_outliers,
    half_width,
    missing_classes,
    samples_to_tell,
    widths,
)
from fewbits.workflow.preflight_probe import look, scored_feeds
from fewbits.workflow.scoring import open_scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.subject import open_subject

RNG = np.random.default_rng(3)


def opened(tiny, data=None, evaluation=None, metric=None):
    subject = open_subject(tiny.model, data=tiny.calib if data is None else data, run_options=RunOptions(threads=1))
    evaluation = tiny.evaluation if evaluation is None else evaluation
    scoring = open_scoring(subject, samples=24, eval_data=evaluation, metric=metric)
    return subject, scoring, scoring.score_float()


def run(tiny, data=None, *, max_drop=0.3, samples=24, **options):
    subject, scoring, before = opened(tiny, data)
    goal = open_goal(max_drop, None, before)
    return preflight(subject, scoring, before, samples=samples, stages=Stages(), goal=goal, **options)


def test_widths_are_the_mean_over_all_choices_of_n_samples():
    x = RNG.random((6, 3))
    expected = [
        np.mean([(x[list(chosen)].max(axis=0) / x.max(axis=0)).mean() for chosen in combinations(range(6), n)])
        for n in range(1, 7)
    ]
    np.testing.assert_allclose(widths(x), expected, rtol=1e-12)


def test_widths_leave_out_tensors_of_zeros():
    x = RNG.random((6, 2))
    np.testing.assert_array_equal(widths(np.hstack([x, np.zeros((6, 1))])), widths(x))
    np.testing.assert_array_equal(widths(np.zeros((3, 2))), np.ones(3))


def test_enough_samples_tells_equal_samples_from_ever_larger_ones():
    assert enough_samples(widths(1 + 0.01 * RNG.random((64, 5)))) == 1
    assert enough_samples(widths(np.exp(np.arange(64))[:, None] * np.ones((1, 5)))) is None
    # the largest of n of 1, 2 ... 64 is 65 n / (n + 1) on average: that of 15 is the first within 5 % of 64
    assert enough_samples(widths(np.arange(1.0, 65)[:, None])) == 15


def test_enough_samples_says_nothing_of_few():
    assert enough_samples(np.ones(4)) is None


def test_find_outliers_names_the_sample_the_tensor_and_the_factor():
    x = 1 + 0.1 * RNG.random((40, 30))
    x[7, :10] = 5
    x[7, 4] = 11
    (found,) = find_outliers(x, [f"t{i}" for i in range(30)])
    assert (found.sample, found.tensor, found.tensors) == (7, "t4", 10)
    assert found.factor == pytest.approx(11 / np.delete(x[:, 4], 7).max())


def test_find_outliers_finds_two_that_hide_each_other():
    x = 1 + 0.1 * RNG.random((40, 30))
    x[[3, 9]] *= 10
    assert {one.sample for one in find_outliers(x, [f"t{i}" for i in range(30)])} == {3, 9}


def test_find_outliers_takes_one_odd_tensor_for_chance_but_not_an_input():
    x = 1 + 0.1 * RNG.random((40, 30))
    x[5, 0] = 9
    names = [f"t{i}" for i in range(30)]
    assert find_outliers(x, names) == ()
    assert [one.sample for one in find_outliers(x, names, ["t0"])] == [5]


def test_find_outliers_does_not_call_a_fifth_of_the_samples_exceptions():
    x = np.ones((40, 30))
    x[:8] = 10
    assert find_outliers(x, [f"t{i}" for i in range(30)]) == ()


def test_half_width_agrees_with_the_bootstrap_of_two_percent_flips():
    values = np.full(2000, 100.0)
    after = values.copy()
    after[:20], values[20:40] = 0.0, 0.0  # 2 % of 2000 change, one way and the other
    before = Evaluation(values.mean(), "top1", "%", True, 2000, 1.0, values)
    low, high = drop(before, Evaluation(after.mean(), "top1", "%", True, 2000, 1.0, after)).interval
    expected = half_width(deviation(before, 0.3), 2000)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_samples_to_tell_is_the_inverse_of_half_width():
    needed = samples_to_tell(14.1, 0.3)
    assert half_width(14.1, needed) <= 0.3 < half_width(14.1, needed - 1)


def test_deviation_is_the_drop_for_real_values_and_none_without_values():
    real = Evaluation(30.0, "psnr", "dB", True, 4, 1.0, np.array([29.0, 30.5, 31.0, 29.5]))
    assert deviation(real, 0.2) == 0.2
    assert deviation(replace(real, per_sample=None), 0.2) is None


def test_missing_classes_counts_what_chance_explains(tiny):
    images = RNG.standard_normal((24, 3, 8, 8)).astype(np.float32)
    subject, scoring, _ = opened(
        tiny, {"image": images, "labels": np.repeat([0, 1], 12)}, {"image": images, "labels": np.arange(24) % 4}
    )
    found = missing_classes(subject.data, 24, scoring)
    assert (found.names, found.classes, found.is_odd) == (("2", "3"), 4, True)
    assert found.by_chance == pytest.approx(4 * 0.75**24)
    few = missing_classes(subject.data, 1, scoring)
    assert len(few.names) == 3
    assert not few.is_odd


def test_preflight_says_that_a_small_drop_on_few_samples_is_noise(tiny):
    found = run(tiny)
    assert found.score_samples == 40
    assert found.resolution == pytest.approx(1.96 * 100 * np.sqrt(0.02 / 40))
    assert "0.3 % on 40 samples is noise" in found.warnings[0]
    assert "about 8537 samples would tell" in found.warnings[0]
    assert not any("noise" in text for text in run(tiny, max_drop=10).warnings)


def test_preflight_names_the_parts_of_step_1_and_memory_of_later_steps(tiny):
    before_mb = peak_mb()
    found = run(tiny, steps=("litemp", "improve"))
    assert set(found.parts) == {"prepare", STAGE, "calibrate", "quantize", "range trials", "write", "score"}
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert min(value for name, value in found.parts.items() if name != "prepare") > 0
    assert found.peak_mb == max(found.later_mb.values()) > found.step1_mb > before_mb
    assert set(found.later_s) == {"litemp", "improve"}


def test_preflight_counts_the_probes_that_ranking_on_so_many_samples_takes(tiny, monkeypatch):
    taken = []
    monkeypatch.setattr(memory, "litemp_mb", lambda model, sizes, batch, probes: taken.append(probes) or 0.0)
    for samples in (400, 24, 8):
        run(tiny, samples=samples, steps=("litemp",))
    assert taken == [11, 11, 16]  # there are 24 samples; 256 / 24 and 256 / 8, but 16 at most


def test_preflight_times_no_trials_where_ranges_are_given(tiny):
    assert run(tiny, ranges="minmax").parts["range trials"] == 0


def test_preflight_refuses_an_unknown_step(tiny):
    with pytest.raises(SpecError, match="'magic'"):
        run(tiny, steps=("magic",))


def test_preflight_warns_of_an_outlier_among_calibration_samples(tiny):
    images = np.tanh(RNG.standard_normal((24, 3, 8, 8))).astype(np.float32)
    images[11] *= 50
    found = run(tiny, {"image": images})
    assert found.outliers[0].sample == 11
    assert any("sample 11" in text for text in found.warnings)


def test_preflight_warns_of_ranges_that_still_grow(tiny):
    scale = 1.25 ** np.arange(24, dtype=np.float32)
    images = scale[:, None, None, None] * np.tanh(RNG.standard_normal((24, 3, 8, 8))).astype(np.float32)
    found = run(tiny, {"image": images})
    assert found.enough_samples is None
    assert any(text.startswith("Ranges have not converged") for text in found.warnings)


def test_preflight_says_that_a_handful_of_samples_is_too_few(tiny):
    assert any("only 4 calibration samples" in text for text in run(tiny, samples=4).warnings)


def test_look_sees_the_largest_magnitude_of_every_sample(tiny):
    subject, _, _ = opened(tiny)
    seen = look(subject, 24)
    images = np.load(tiny.calib)["image"]
    column = seen.tensors.index("image")
    np.testing.assert_array_equal(seen.magnitudes[:, column], np.abs(images).max(axis=(1, 2, 3)))
    assert seen.calibration.statistics.samples == seen.samples == 24
    histogram = seen.calibration.statistics.histograms["s"]
    assert seen.magnitudes[:, seen.tensors.index("s")].max() == pytest.approx(max(-histogram.low, histogram.high))


def test_scored_feeds_are_those_of_the_users_own_metric_which_is_not_run_to_its_end(tiny):
    ended = []

    def score(predict):
        for size in (2, 5, *[1] * 20):
            predict({"image": np.zeros((size, 3, 8, 8), np.float32)})
        ended.append(True)
        return 1.0

    _, scoring, _ = opened(tiny, metric=parse_metric(score, higher_is_better=True))
    assert ended == [True]
    assert scored_feeds(scoring).size == 5
    assert ended == [True]


def test_most_live_bytes_counts_what_waits_together(tiny):
    subject, _, _ = opened(tiny)
    graph = subject.model.graph
    sizes = memory.tensor_bytes(graph, {})
    image, channel = 3 * 64 * 4, 8 * 64 * 4
    assert (sizes["image"], sizes["s"], sizes["logits"]) == (image, channel, 16)
    # r waits while conv2 makes c of it and Add makes s of both
    assert memory.most_live_bytes(graph, sizes) == 3 * channel


def test_what_waits_grows_with_samples_up_to_the_ceiling(tiny):
    subject, _, _ = opened(tiny)
    sizes = memory.tensor_bytes(subject.model.graph, {})
    few, many, more = (memory.waiting_mb(subject.model, sizes, n) for n in (32, 10**6, 10**7))
    assert few < many == more == 4000
