"""The choice of groups to lift together: against every subset, and against choosing them one by one."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fewbits.analysis.costs import Costs
from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.quantization.groups import profile_of
from fewbits.runtime.session import RunOptions
from fewbits.spec.precision import Precision
from fewbits.workflow.assign_precisions import least_error
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.lift_together import least_noise
from fewbits.workflow.lifting import lifted_together, lifting_order
from fewbits.workflow.precision_problem import Problem, predicted_error
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sensitivity import one_pass
from fewbits.workflow.sessions import open_graph

NAMES = tuple("abcdefg")
DIGITS = Path(__file__).parents[2] / "examples" / "digits"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


def drawn(seed):
    """A chain with random branches: what lifting wins depends on the neighbours."""
    rng = np.random.default_rng(seed)
    pairs = [(w, r) for w, r in combinations(NAMES, 2) if ord(r) - ord(w) == 1 or rng.random() < 0.3]
    read = {("", "a"): float(rng.random()), **{pair: float(rng.random()) for pair in pairs}}
    written = {n: float(sum(e for (w, _), e in read.items() if w == n)) for n in NAMES}
    written["g"] = float(rng.random())
    base = Noise({n: float(rng.random()) * 0.3 for n in NAMES}, written, read)
    high = Noise({n: e / 9 for n, e in base.own.items()}, dict.fromkeys(NAMES, 0.01), {("", "a"): 0.005})
    return base, high


def left_noise(base, high, lifted):
    """The error that is predicted to be left."""
    profile = {name: "w8a16" if name in lifted else "w8a8" for name in NAMES}
    return predicted_error({"w8a8": base, "w8a16": high}, profile)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_subset_leaves_less_noise(seed, count):
    base, high = drawn(seed)
    chosen = least_noise(base, high, NAMES, count)
    best = min(left_noise(base, high, s) for n in range(count + 1) for s in combinations(NAMES, n))
    assert len(chosen) <= count
    assert left_noise(base, high, chosen) == pytest.approx(best, rel=1e-3)  # the solver's gap


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_choice_of_two_precisions_where_each_lifted_group_costs_one(seed):
    base, high = drawn(seed)
    costs = Costs("groups", "groups", {name: {"w8a8": 0.0, "w8a16": 1.0} for name in NAMES}, {}, 0.0, is_estimate=False)
    problem = Problem({"w8a8": base, "w8a16": high}, costs)
    for count in range(8):
        chosen = least_noise(base, high, NAMES, count)
        assert left_noise(base, high, chosen) == pytest.approx(least_error(problem, count).error, rel=2e-3)


def test_what_the_grids_of_both_precisions_add_alike_is_no_loss():
    """w4a8 and w8a8 read on one grid: lifting b for its weights loses nothing where c reads it."""
    read = {("b", "c"): 5.0, ("", "a"): 1.0}
    base, high = Noise({"a": 2.0, "b": 3.0}, {"b": 5.0}, read), Noise({}, {"b": 5.0}, read)
    assert least_noise(base, high, ("a", "b", "c"), 1) == ("b",)
    assert least_noise(base, high, ("a", "b", "c"), 3) == ("a", "b")  # c wins nothing


def test_what_cannot_be_lifted_reads_in_the_base():
    base = Noise({"a": 0.5}, {"b": 5.0}, {("b", "c"): 4.5, ("b", "d"): 1.0})
    none = Noise({}, {}, {})
    assert least_noise(base, none, ("a", "b", "c", "d"), 3) == ("b", "c", "d")
    assert least_noise(base, none, ("a", "b"), 2) == ("a",)


def test_neighbours_are_lifted_together():
    """a is the noisiest alone; what passes between b and c is worth more, and only when both are lifted."""
    base = Noise({"a": 3.0, "b": 0.0, "c": 0.0}, {"b": 5.0}, {("b", "c"): 5.0})
    none = Noise({}, {}, {})
    assert least_noise(base, none, ("a", "b", "c"), 1) == ("a",)
    assert least_noise(base, none, ("a", "b", "c"), 2) == ("b", "c")


def test_a_share_of_the_macs_is_a_limit():
    base, high = drawn(3)
    shares = dict.fromkeys(NAMES, 1 / 7) | {"a": 0.9}
    chosen = least_noise(base, high, NAMES, 7, shares=shares, limit=0.45)
    assert "a" not in chosen
    assert sum(shares[name] for name in chosen) <= 0.45 + 1e-9
    within = [s for n in range(4) for s in combinations([n for n in NAMES if n != "a"], n)]
    assert left_noise(base, high, chosen) == pytest.approx(min(left_noise(base, high, s) for s in within), rel=1e-3)


def test_groups_that_may_not_be_lifted_stay():
    base, high = drawn(4)
    assert set(least_noise(base, high, ("b", "d"), 5)) <= {"b", "d"}


def test_where_nothing_may_be_lifted_nothing_is():
    assert least_noise(*drawn(4), (), 0) == ()
    assert least_noise(*drawn(4), NAMES, 0) == ()


def test_noise_that_is_not_finite_is_refused():
    base = Noise({"a": float("inf")}, {}, {})
    with pytest.raises(SpecError, match="not finite: rank by --ranking brute-force"):
        least_noise(base, Noise({}, {}, {}), ("a",), 1)


def test_a_search_that_is_cut_short_says_so(monkeypatch, caplog):
    import scipy.optimize

    whole = scipy.optimize.milp

    def cut_short(*args, **options):
        found = whole(*args, **options)
        found.status, found.mip_gap = 1, 0.25
        return found

    base, high = drawn(1)
    assert least_noise(base, high, NAMES, 3)
    assert caplog.messages == []
    monkeypatch.setattr("scipy.optimize.milp", cut_short)
    assert least_noise(base, high, NAMES, 3)
    assert caplog.messages == [
        "The search for the groups to lift was stopped after 20 s: another set may leave up to 25 % less noise."
    ]


def test_a_limit_of_macs_needs_known_shapes():
    with pytest.raises(SpecError, match="shapes of the network are not known"):
        lifted_together((), drawn(0), 10, most_macs=5)


@pytest.fixture(scope="module")
def digits():
    options = RunOptions(threads=1)
    calibration = calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=64, run_options=options)
    made = [quantize_calibrated(calibration, name, ranges="mse") for name in ("w8a8", "w8a16")]
    return calibration, made, one_pass(calibration, made, samples=64, probes=16, with_noise=True)


@needs_torch
def test_noise_adds_up_to_what_the_whole_network_shows(digits):
    """Its parts are taken as independent; first order, and about a tenth of deviation in each."""
    calibration, (base, _high), found = digits
    judge = OutputJudge(calibration, 64, None, "channel")
    measured = judge.error(open_graph(base.model, calibration.subject.options))
    predicted = predicted_error(found.noise, {group.name: "w8a8" for group in found.groups})
    assert predicted == pytest.approx(measured, rel=0.35)


@needs_torch
@pytest.mark.parametrize(("percent", "times"), [(20, 0.97), (40, 0.95), (50, 0.95)])
def test_lifting_together_beats_one_by_one(digits, percent, times):
    """By about a tenth; with fewer projections the noise of the estimates is as large."""
    calibration, (base, _high), found = digits
    judge = OutputJudge(calibration, 64, None, "channel")
    order = lifting_order(base.plan, found, "w8a8", "w8a16")
    noise = (found.noise["w8a8"], found.noise["w8a16"])

    def error(groups):
        profile = profile_of(dict.fromkeys(groups, Precision.parse("w8a16")), Precision.parse("w8a8"))
        made = quantize_calibrated(calibration, profile, ranges="mse")
        return judge.error(open_graph(made.model, calibration.subject.options))

    together = lifted_together(order, noise, percent)
    assert len(together) <= -(-len(order) * percent // 100)
    assert error(together) < times * error(order[: len(together)])
