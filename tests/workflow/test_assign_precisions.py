"""The choice of precisions: against every assignment, against greedy ones, and on scales far apart."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from precision_problems import costs_of, drawn, everything

from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.workflow.assign_precisions import Assigner, least_cost, least_error
from fewbits.workflow.integer_program import Effort
from fewbits.workflow.precision_problem import Problem, ShareLimit, hands_over, predicted_error

SEEDS = range(36)
EXACT = Effort(gap=1e-9, thrift=1e-10)
"""Only the solver's own tolerance of 1e-6 of the scale is left, and the scale is at most 10 times the answer."""


def instance(seed, **options):
    """Six groups with three precisions or five with four; limits and allowed sets by turns."""
    shares = dict(zip((f"g{i}" for i in range(6)), (0.3, 0.05, 0.1, 0.25, 0.1, 0.2), strict=True))
    limits = [ShareLimit("w8a16", 0.4)] if seed % 3 == 1 else []
    limits += [ShareLimit("fp16", 0.35, shares)] if seed % 4 == 3 else []
    allowed = {"g2": {"w8a8", "fp16", "w8a16"}, "g3": ["w8a8"]} if seed % 5 == 2 else {}
    size, precisions = (6, ("w8a8", "w8a16", "fp16")) if seed % 2 else (5, ("w8a8", "w8a16", "w4a8", "fp16"))
    return drawn(seed, size, precisions=precisions, limits=limits, allowed=allowed, **options)


def budgets(found, seed):
    """The cheapest cost, two that some assignments have, and one between."""
    costs = sorted(assignment.cost for assignment in found)
    rng = np.random.default_rng(seed)
    some = [costs[i] for i in rng.integers(1, len(costs), 2)]
    return [costs[0], *some, (costs[0] + costs[-1]) / 2]


def holds(problem, assignment):
    """Say whether an assignment is one that the limits allow, with the figures that it claims."""
    same = (a for a in everything(problem) if a.profile == assignment.profile)
    return next(same) == assignment


@pytest.mark.parametrize("seed", SEEDS)
def test_least_error_is_that_of_every_assignment_within_the_budget(seed):
    problem = instance(seed)
    found = list(everything(problem))
    exact, usual = Assigner(problem, EXACT), Assigner(problem)
    for budget in budgets(found, seed):
        best = min(a.error for a in found if a.cost <= budget)
        chosen = exact.least_error(budget)
        assert chosen.cost <= budget * (1 + 1e-9)
        assert chosen.error == pytest.approx(best, rel=1e-5)
        assert usual.least_error(budget).error <= 1.003 * best
    assert holds(problem, chosen)


@pytest.mark.parametrize("seed", SEEDS)
def test_least_cost_is_that_of_every_assignment_within_the_error(seed):
    problem = instance(seed)
    found = list(everything(problem))
    exact, usual = Assigner(problem, EXACT), Assigner(problem)
    errors = sorted(a.error for a in found)
    for limit in (errors[0], errors[len(errors) // 50], errors[len(errors) // 3], 10 * errors[-1]):
        best = min(a.cost for a in found if a.error <= limit)
        chosen = exact.least_cost(limit)
        assert chosen.error <= limit * (1 + 1e-9)
        assert chosen.cost == pytest.approx(best, rel=1e-5)
        assert usual.least_cost(limit).cost <= 1.003 * best
    assert holds(problem, chosen)


@pytest.mark.parametrize("seed", range(12))
def test_scales_that_are_far_apart_cost_no_accuracy(seed):
    problem = instance(seed, wild=8.0)  # errors 1e-13 to 200, costs 1e0 to 1e9
    found = list(everything(problem))
    assigner = Assigner(problem, EXACT)
    for budget in budgets(found, seed):
        best = min(a.error for a in found if a.cost <= budget)
        assert assigner.least_error(budget).error == pytest.approx(best, rel=1e-4)
        best_cost = min(a.cost for a in found if a.error <= best)
        assert assigner.least_cost(best).cost == pytest.approx(best_cost, rel=1e-4)


def greedy(problem, budget):
    """From the cheapest, take the step that wins the most error per cost while it fits."""
    profile = dict(least_cost(problem).profile)
    while True:
        here = predicted_error(problem.noise, profile), problem.costs.total(profile)
        steps = []
        for group, names in problem.candidates.items():
            for name in names:
                there = profile | {group: name}
                error, cost = predicted_error(problem.noise, there), problem.costs.total(there)
                if cost <= budget and error < here[0]:
                    steps.append(((here[0] - error) / max(cost - here[1], 1e-9), group, name))
        if not steps:
            return here[0]
        _, group, name = max(steps)
        profile[group] = name


@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_never_better(seed):
    problem = drawn(seed, 12)
    lowest, highest = least_cost(problem).cost, least_error(problem).cost
    for share in (0.1, 0.4, 0.8):
        budget = lowest + share * (highest - lowest)
        assert least_error(problem, budget).error <= 1.003 * greedy(problem, budget)


def chain(noise=None, **options):
    """b hands its tensor to c: only both in 16 bits keep it; a is noisier than either alone."""
    w8a8 = Noise({"a": 3.0}, {"b": 5.0}, {("b", "c"): 5.0})
    groups = {group: {"w8a8": 1.0, "w8a16": 2.0} for group in "abc"}
    costs = costs_of(groups, options.pop("conversions", None))
    return Problem({"w8a8": noise or w8a8, "w8a16": Noise({}, {}, {})}, costs, **options)


def test_neighbours_are_lifted_together_where_greedy_lifts_one():
    assert greedy(chain(), 5.0) == 5.0
    chosen = least_error(chain(), 5.0)
    assert chosen.error == 3.0
    assert chosen.profile == {"a": "w8a8", "b": "w8a16", "c": "w8a16"}


def test_a_conversion_can_cost_more_than_it_wins():
    assert least_error(chain(conversions={("a", "b"): 0.5}), 5.0).error == 5.0  # b and c at 16 bits take 5.5
    assert least_error(chain(conversions={("a", "b"): 0.5}), 5.5).error == 3.0
    assert least_error(chain(conversions={("", "a"): 9.0, ("b", "c"): 9.0}), 5.0).error == 3.0


def test_conversions_may_cost_by_the_types_that_they_join():
    noise = {"w8a8": Noise({"a": 1.0, "b": 1.0}, {}, {}), "w8a16": Noise({}, {}, {}), "fp16": Noise({}, {}, {})}
    groups = {"a": {"w8a16": 1.0}, "b": {"w8a8": 1.0, "fp16": 1.0}}
    typed = {("uint16", "uint8"): {("a", "b"): 5.0}, ("uint16", "fp16"): {("a", "b"): 2.0}}
    problem = Problem(noise, costs_of(groups, {("a", "b"): 3.5}, typed=typed))
    assert least_cost(problem).profile["b"] == "fp16"
    assert least_cost(problem).cost == 4.0


def test_a_tensor_is_rounded_once_where_both_use_one_grid():
    noise = {
        "w8a8": Noise({}, {"a": 1.0}, {("a", "b"): 10.0, ("", "a"): 100.0}),
        "w4a8": Noise({}, {"a": 2.0}, {("a", "b"): 20.0}),
        "w8a16": Noise({}, {"a": 4.0}, {("a", "b"): 40.0}),
        "fp16": Noise({}, {}, {("a", "b"): 80.0, ("a", "a"): 7e9}),
    }
    errors = {(a, b): predicted_error(noise, {"a": a, "b": b}) for a in noise for b in noise}
    assert errors["w8a8", "w8a8"] == 101.0  # what comes from outside is always rounded
    assert errors["w8a8", "w4a8"] == errors["w8a8", "w8a16"] == errors["w8a8", "fp16"] == 101.0
    assert errors["w8a16", "w8a8"] == 14.0
    assert errors["w8a16", "w4a8"] == 24.0
    assert errors["w8a16", "w8a16"] == 4.0
    assert errors["w8a16", "fp16"] == 84.0
    assert errors["fp16", "w8a16"] == 40.0
    assert errors["fp16", "fp16"] == 0.0
    assert predicted_error(noise, {"b": "w8a8"}) == 10.0  # a stays in float


def test_activations_of_up_to_8_bits_share_a_grid():
    assert hands_over("w8a8", "w8a4")
    assert hands_over("w8a4", "w8a8")
    assert hands_over("w8a16", "fp32")
    assert not hands_over("fp32", "fp16")


def test_what_costs_nothing_is_as_accurate_as_can_be_and_what_wins_nothing_as_cheap():
    noise = {
        "w8a8": Noise({"free": 1.0, "plain": 1.0}, {}, {}),
        "w8a16": Noise({"free": 0.5, "plain": 1.0}, {}, {}),
        "fp16": Noise({"free": 0.5, "plain": 1.0}, {}, {}),
    }
    groups = {
        "free": {"fp16": 7.0, "w8a8": 7.0, "w8a16": 7.0},
        "plain": {"fp16": 9.0, "w8a8": 4.0, "w8a16": 6.0},
    }
    wanted = {"free": "w8a16", "plain": "w8a8"}  # w8a16 before fp16: the order of the noise
    problem = Problem(noise, costs_of(groups))
    assert least_error(problem).profile == least_cost(problem).profile == wanted
    assert least_error(problem, 1e6).profile == least_cost(problem, 1.5).profile == wanted


def test_the_same_question_has_the_same_answer():
    answers = set()
    for order in (1, -1):
        problem = drawn(5, 40, wild=3.0)
        allowed = {group: set(list(names)[::order]) for group, names in problem.candidates.items()}
        for _ in range(2):
            assigner = Assigner(replace(problem, allowed=allowed))
            budget = 1.5 * assigner.least_cost().cost
            answers.add(tuple(assigner.least_error(budget).profile.items()))
    assert len(answers) == 1


def test_a_known_assignment_changes_no_answer():
    problem = drawn(8, 30, wild=3.0)
    assigner = Assigner(problem, Effort(1e-6, 1e-7))
    cheap = assigner.least_cost()
    budget = 2 * cheap.cost
    plain, helped = assigner.least_error(budget), assigner.least_error(budget, known=cheap)
    assert helped.error == pytest.approx(plain.error, rel=1e-4)
    beyond = assigner.least_error(cheap.cost, known=plain)  # it is not within the budget, and does not count
    assert beyond.cost <= cheap.cost


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_below_the_cheapest_names_it(seed):
    problem = instance(seed)
    cheapest = min(a.cost for a in everything(problem))
    named = re.escape(f"{cheapest:.6g}. Raise the budget")
    with pytest.raises(SpecError, match=f"bit operations or less: the cheapest possible costs {named}"):
        least_error(problem, cheapest * (1 - 1e-5))
    assert least_error(problem, cheapest).cost == pytest.approx(cheapest)


@pytest.mark.parametrize("seed", range(4))
def test_an_error_below_the_least_names_it(seed):
    problem = instance(seed)
    least = min(a.error for a in everything(problem))
    with pytest.raises(SpecError, match=f"or less: the least possible is {least:.3g}.*higher precisions"):
        least_cost(problem, least * 0.9)


def test_limits_that_cannot_hold_are_named():
    forced = chain(allowed={"a": ["w8a16"], "b": ["w8a16"]}, limits=[ShareLimit("w8a16", 0.5)])
    with pytest.raises(SpecError, match=r"At most 50 % may take w8a16, but the groups .* make up 66\.7 %"):
        least_error(forced, 9.0)
    both = chain(limits=[ShareLimit("w8a16", 0.4), ShareLimit("w8a8", 0.4)])
    with pytest.raises(SpecError, match="limits on w8a16, w8a8 cannot hold together"):
        least_cost(both)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
@pytest.mark.parametrize("part", ["own", "written", "read"])
def test_noise_that_is_no_number_is_named_unless_it_is_not_taken(value, part):
    noise = Noise({}, {}, {})
    noise = replace(noise, **{part: {("b", "a") if part == "read" else "a": value}})
    with pytest.raises(SpecError, match=r"noise of group 'a' in w8a8 is .*, no finite number: leave w8a8 out"):
        chain(noise)
    assert least_error(chain(noise, allowed={"a": ["w8a16"]})).error == 0.0


def test_a_cost_that_is_no_number_is_named():
    noise = {"w8a8": Noise({}, {}, {})}
    with pytest.raises(SpecError, match="bitops of group 'a' in w8a8 is nan: a cost is a finite number"):
        Problem(noise, costs_of({"a": {"w8a8": float("nan")}}))
    groups = {"a": {"w8a8": 1.0}, "b": {"w8a8": 1.0}}
    with pytest.raises(SpecError, match="conversion from 'a' to 'b' is -1"):
        Problem(noise, costs_of(groups, {("a", "b"): -1.0}))


def test_unknown_names_are_named():
    with pytest.raises(SpecError, match="no group 'conv' to choose a precision for"):
        chain(allowed={"conv": ["w8a8"]})
    with pytest.raises(SpecError, match="'a' is to run in fp16, whose noise is not known: choose from w8a8, w8a16"):
        chain(allowed={"a": ["fp16"]})
    with pytest.raises(SpecError, match="nothing to limit in fp16: choose from w8a8, w8a16"):
        chain(limits=[ShareLimit("fp16", 0.2)])
    with pytest.raises(SpecError, match="share of group 'b' is not known: limit w8a16 by groups instead"):
        chain(limits=[ShareLimit("w8a16", 0.2, {"a": 0.5})])
    with pytest.raises(SpecError, match="bitops of group 'z' is not known"):
        chain(Noise({"z": 1.0}, {}, {}))
    with pytest.raises(SpecError, match="noise of fp16 is not known: it was found for w8a8"):
        predicted_error({"w8a8": Noise({}, {}, {})}, {"a": "fp16"})


def test_a_problem_without_a_choice_is_refused():
    with pytest.raises(SpecError, match="'a' has no precision left: it can run in w8a8, w8a16, and may take none"):
        chain(allowed={"a": []})
    with pytest.raises(SpecError, match="no group to choose a precision for"):
        Problem({"w8a8": Noise({}, {}, {})}, costs_of({}))
    with pytest.raises(SpecError, match="120 % is no share for fp16 to have"):
        ShareLimit("fp16", 1.2)


def test_a_budget_is_kept_beyond_the_tolerance_of_the_solver():
    noise = {"w8a8": Noise({"a": 1.0, "b": 1.0}, {}, {}), "w8a16": Noise({}, {}, {})}
    groups = {"a": {"w8a8": 0.0, "w8a16": 1e7}, "b": {"w8a8": 0.0, "w8a16": 1.0}}
    for budget, error in ((1e7 + 1, 0.0), (1e7 + 0.5, 1.0), (1e7, 1.0), (1e7 - 1, 1.0), (0.5, 2.0), (0.0, 2.0)):
        chosen = least_error(Problem(noise, costs_of(groups)), budget)
        assert chosen.cost <= budget
        assert chosen.error == error


def test_a_later_run_without_an_answer_leaves_the_first(monkeypatch, caplog):
    """The error left is far below the largest, so that it is sought again on its own scale."""
    import scipy.optimize

    noise = {"w8a8": Noise({"a": 1.0}, {}, {}), "w8a16": Noise({"a": 1e-6}, {}, {})}
    problem = Problem(noise, costs_of({"a": {"w8a8": 1.0, "w8a16": 2.0}, "b": {"w8a8": 1.0}}))
    whole, runs = scipy.optimize.milp, []

    def one_run(*args, **options):
        runs.append(whole(*args, **options) if not runs else None)
        return runs[-1] or scipy.optimize.OptimizeResult(status=1, x=None, message="Time limit reached.")

    monkeypatch.setattr("scipy.optimize.milp", one_run)
    assert least_error(problem, 3.0).error == 1e-6
    assert len(runs) == 2
    assert "up to 1e+02 % less error" in caplog.text


def test_a_search_that_is_cut_short_says_so(monkeypatch, caplog):
    import scipy.optimize

    whole = scipy.optimize.milp

    def cut_short(*args, **options):
        found = whole(*args, **options)
        found.status, found.mip_gap = 1, 0.25
        return found

    caplog.set_level(logging.WARNING)
    assert least_error(chain(), 5.0)
    assert caplog.messages == []
    monkeypatch.setattr("scipy.optimize.milp", cut_short)
    assert least_error(chain(), 5.0)
    assert caplog.messages == [
        "The search for precisions was stopped after 20 s: another assignment may have up to 25 % less error."
    ]


def test_a_solver_without_an_answer_is_an_error(monkeypatch):
    from scipy.optimize import OptimizeResult

    answer = OptimizeResult(status=1, x=None, message="Time limit reached.")
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: answer)
    with pytest.raises(SpecError, match=r"ended without an answer \(Time limit reached"):
        least_error(chain(), 5.0)
