"""The Pareto curve: against every assignment, and its order, spread and speed on a large problem."""

import time
from itertools import pairwise

import numpy as np
import pytest
from precision_problems import costs_of, drawn, everything

from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.workflow.assign_precisions import Assigner
from fewbits.workflow.pareto import dominates, front, pareto_curve
from fewbits.workflow.precision_problem import Assignment, Problem, ShareLimit, predicted_error


@pytest.mark.parametrize("seed", range(12))
def test_points_are_on_the_front_of_all_assignments(seed):
    problem = drawn(seed, 5, limits=[ShareLimit("fp16", 0.5)] if seed % 2 else [])
    found = list(everything(problem))
    for point in pareto_curve(problem, points=10):
        assert (point.error, point.cost) == (
            predicted_error(problem.noise, point.profile), problem.costs.total(point.profile),
        )  # fmt: skip
        better = [a for a in found if a.error < 0.997 * point.error and a.cost <= point.cost]
        assert not [a for a in better if a.cost < 0.997 * point.cost or point.cost > 0]


@pytest.mark.parametrize("seed", range(6))
def test_a_long_enough_curve_holds_the_whole_front(seed):
    problem = drawn(seed, 4, precisions=("w8a8", "w8a16"))
    whole = front(everything(problem))
    curve = pareto_curve(problem, points=60)
    near = [any(abs(p.error / a.error - 1) < 0.003 and p.cost <= 1.003 * a.cost for p in curve) for a in whole]
    narrow = 2  # points that are closer than a thousandth of the curve may be left out
    assert sum(near) >= len(whole) - narrow


@pytest.fixture(scope="module")
def large():
    problem = drawn(1, 100, wild=4.0, lacking=0.1)
    begin = time.perf_counter()
    return problem, pareto_curve(problem), time.perf_counter() - begin


def test_the_curve_rises_in_cost_and_falls_in_error(large):
    _, curve, _ = large
    assert len(curve) == 16
    for one, other in pairwise(curve):
        assert one.cost < other.cost
        assert one.error > other.error
        assert not dominates(one, other)
        assert not dominates(other, one)


def test_the_curve_reaches_from_the_cheapest_to_the_most_accurate(large):
    problem, curve, _ = large
    assigner = Assigner(problem)
    assert curve[0].cost == pytest.approx(assigner.least_cost().cost, rel=1e-3)
    assert curve[-1].error == pytest.approx(assigner.least_error().error, rel=2e-3)


def test_points_are_well_spread(large):
    """Halving the widest gap first, in either direction, 16 points leave few gaps of more than a quarter."""
    _, curve, _ = large
    costs = np.array([a.cost for a in curve])
    errors = np.log10([a.error for a in curve])
    assert (np.diff(costs) / np.ptp(costs)).max() < 0.3
    assert (-np.diff(errors) / np.ptp(errors)).max() < 0.3


def test_a_curve_of_100_groups_and_4_precisions_takes_seconds(large):
    assert large[2] < 25  # 2 s on two cores; the margin is for busy machines


def test_the_same_curve_comes_out_twice():
    problem = drawn(3, 25, wild=2.0)
    assert pareto_curve(problem, points=8) == pareto_curve(problem, points=8)


def test_one_precision_has_a_curve_of_one_point():
    noise = {"w8a8": Noise({"a": 1.0}, {}, {})}
    (point,) = pareto_curve(Problem(noise, costs_of({"a": {"w8a8": 2.0}, "b": {"w8a8": 3.0}})))
    assert (point.error, point.cost) == (1.0, 5.0)


def test_errors_down_to_zero_have_a_curve():
    noise = {"w8a8": Noise({"a": 1.0, "b": 1e-4}, {}, {}), "w8a16": Noise({}, {}, {})}
    groups = {group: {"w8a8": 1.0, "w8a16": 2.0} for group in "ab"}
    curve = pareto_curve(Problem(noise, costs_of(groups)))
    assert [(p.error, p.cost) for p in curve] == [(1.0001, 2.0), (1e-4, 3.0), (0.0, 4.0)]


def test_dominates_needs_one_to_be_better_and_none_worse():
    def at(error, cost):
        return Assignment({}, error, cost)

    assert dominates(at(1, 1), at(1, 2))
    assert dominates(at(1, 1), at(2, 1))
    assert not dominates(at(1, 1), at(1, 1))
    assert not dominates(at(1, 2), at(2, 1))
    assert front([at(3, 1), at(1, 2), at(2, 2), at(1, 3)]) == (at(3, 1), at(1, 2))


def test_a_curve_needs_two_ends():
    with pytest.raises(SpecError, match="A curve of 1 points has no two ends"):
        pareto_curve(drawn(0, 3), points=1)


def test_limits_that_cannot_hold_are_named():
    problem = drawn(0, 3, limits=[ShareLimit("w8a8", 0.2)], allowed={f"g{i}": ["w8a8"] for i in range(3)})
    with pytest.raises(SpecError, match="At most 20 % may take w8a8"):
        pareto_curve(problem)
