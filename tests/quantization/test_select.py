import pytest
from model_zoo import ZOO

from fewbits.numerics.ranges import MinMax, Mse, Percentile
from fewbits.quantization.encode import Ranges
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.quantization.select import CANDIDATES, MOST_TRIALS, choose_ranges, narrow_tensors
from fewbits.spec.target import load_target


def plan_of(name: str, precision: str = "w8a8"):
    return resolve(ZOO[name]()[0], Profile.parse(precision), load_target("qnn-htp-v73"))


class Measure:
    """An error that counts the tensors whose estimator is not the wanted one."""

    def __init__(self, wanted: dict):
        self.wanted, self.calls = wanted, []

    def __call__(self, ranges: Ranges) -> float:
        self.calls.append(ranges)
        return 1.0 + sum(ranges.by_tensor.get(t, ranges.activations) != e for t, e in self.wanted.items())


@pytest.mark.parametrize("best", CANDIDATES, ids=str)
def test_best_setting_of_the_whole_network_wins(best):
    plan = plan_of("residual")
    measure = Measure(dict.fromkeys(narrow_tensors(plan), best))
    chosen = choose_ranges(plan, Ranges(weights="absmax"), measure).ranges
    assert chosen.activations == best
    assert set(chosen.by_tensor.values()) <= {best}
    assert chosen.weights == "absmax"


def test_blocks_take_the_runner_up_where_it_is_better():
    plan = plan_of("residual")
    tensors = narrow_tensors(plan)
    wanted = dict.fromkeys(tensors, Mse()) | {tensors[0]: MinMax()}
    chosen = choose_ranges(plan, Ranges(), Measure(wanted)).ranges
    assert {t: chosen.by_tensor.get(t, chosen.activations) for t in tensors} == wanted


@pytest.mark.parametrize("name", ["residual", "attention", "concat", "gemm"])
def test_trials_are_few_reported_and_deterministic(name):
    plan = plan_of(name)
    runs = []
    for _ in range(2):
        measure = Measure(dict.fromkeys(narrow_tensors(plan), Percentile(99.99)))
        selection = choose_ranges(plan, Ranges(), measure)
        assert len(selection.trials) == len(measure.calls) <= MOST_TRIALS
        runs.append(selection)
    assert runs[0] == runs[1]


def test_gain_below_one_percent_keeps_the_first_candidate():
    errors = iter([1.0, 0.995, 1.1, *[1.0] * 9])
    chosen = choose_ranges(plan_of("gemm"), Ranges(), lambda _: next(errors)).ranges
    assert chosen.activations == CANDIDATES[0]
    assert not chosen.by_tensor


@pytest.mark.parametrize("precision", ["w8a16", "fp16", "fp32"])
def test_nothing_is_tried_where_nothing_can_be_chosen(precision):
    measure = Measure({})
    assert choose_ranges(plan_of("gemm", precision), Ranges(), measure).trials == ()
    assert not measure.calls


def test_fixed_and_shared_ranges_are_not_up_for_choice():
    assert narrow_tensors(plan_of("sigmoid")) == ("c", "x")
    assert set(narrow_tensors(plan_of("maxpool_flatten"))) == {"r", "x"}


def test_what_is_pinned_is_not_tried():
    plan = plan_of("residual")
    tensors = narrow_tensors(plan)
    measure = Measure(dict.fromkeys(tensors, Percentile(99.99)))
    assert choose_ranges(plan, Ranges(), measure, tensors).trials == ()
    assert measure.calls == []
    chosen = choose_ranges(plan, Ranges(), measure, tensors[1:]).ranges
    assert set(chosen.by_tensor) <= {tensors[0]}
    assert measure.calls
