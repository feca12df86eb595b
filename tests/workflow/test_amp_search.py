"""The search for the cheapest acceptable profile, with simulated scores: against trying everything."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from precision_problems import costs_of, drawn, everything

from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.runtime.store import Store
from fewbits.workflow.amp_search import RESOLUTION, Limits, Outcome, Search, key_of_profile
from fewbits.workflow.assign_precisions import Assigner
from fewbits.workflow.assignment_memory import AssignmentMemory
from fewbits.workflow.precision_problem import Problem, ShareLimit, predicted_error

SLACK = 1.002  # assignments are found to within a thousandth
SHARES = (0.2, 0.6)  # of the way from the most accurate profile to the cheapest, on a logarithmic scale


@dataclass(frozen=True)
class Played:
    """A search that was played to its end."""

    search: Search
    asked: list[tuple[str, tuple]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    corrections: int = 0

    @property
    def best(self):
        return self.search.best


def open_search(problem, limits):
    return Search(AssignmentMemory(problem, Store()), limits, points=24)


def cheapest_of(problem):
    return Assigner(problem).least_cost().profile


def root_shares(goal):
    """A guess that drops grow with the error, or with its root."""
    return lambda lost: ((goal / lost) ** 2, goal / lost) if 0 < goal < lost else ()


def play(problem, lost_of, goal, *, repair=None, **limits):
    """Play a search with a scorer, profile -> what is lost; fail where a profile is asked for twice."""
    limits = Limits(**{"evaluations": 12, "at_once": 2, "shares": root_shares(goal), **limits})
    search, seen, asked, rounds, corrections = open_search(problem, limits), set(), [], [], 0

    def tell(origin, profile):
        assert key_of_profile(profile) not in seen, "asked twice"
        seen.add(key_of_profile(profile))
        asked.append((origin, key_of_profile(profile)))
        lost = lost_of(profile)
        search.tell(profile, Outcome(lost <= goal, lost))

    tell("uniform", cheapest_of(problem))
    while True:
        if (doubtful := search.wants_correction) is not None:
            search.correct(AssignmentMemory(problem if repair is None else repair(doubtful), Store()))
            corrections += 1
        found = search.ask()
        if not found:
            break
        rounds.append(len(found))
        for origin, assignment in found:
            tell(origin, assignment.profile)
    assert search.ended
    assert search.evaluations == len(asked) <= limits.evaluations
    assert all(count <= limits.at_once for count in rounds)
    return Played(search, asked, rounds, corrections)


def error_at(problem, share):
    """Return an error between the least and that of the cheapest profile."""
    cheapest, accurate = Assigner(problem).least_cost(), Assigner(problem).least_error()
    return cheapest.error**share * accurate.error ** (1 - share)


def root_of(problem):
    """Drops that grow with the root of the predicted error, as many metrics do."""
    return lambda profile: predicted_error(problem.noise, profile) ** 0.5


@pytest.mark.parametrize(("seed", "at_once"), [(0, 1), (1, 2), (2, 3), (3, 2)])
def test_the_cheapest_acceptable_profile_is_found_where_drops_follow_predictions(seed, at_once):
    problem = drawn(seed, 5)
    whole = list(everything(problem))
    lost_of = root_of(problem)
    for share in SHARES:
        goal = error_at(problem, share) ** 0.5
        played = play(problem, lost_of, goal, at_once=at_once)
        least = min(a.cost for a in whole if lost_of(a.profile) <= goal)
        assert played.best.outcome.is_ok
        assert played.best.cost <= least * (1 + RESOLUTION) * SLACK


def test_no_guess_and_a_wrong_guess_find_the_same():
    problem = drawn(4, 4)
    goal = error_at(problem, 0.5)
    costs = []
    for power in (0.25, 3.0):

        def lost_of(profile, power=power):
            return predicted_error(problem.noise, profile) ** power

        shares = (None, root_shares(goal**power))
        costs += [play(problem, lost_of, goal**power, shares=guess).best.cost for guess in shares]
    assert max(costs) <= min(costs) * (1 + RESOLUTION) * SLACK


def test_the_guess_asks_where_the_loss_of_the_cheapest_profile_says():
    problem = drawn(5, 6)
    goal = error_at(problem, 0.4) ** 0.5
    search = open_search(problem, Limits(12, 2, root_shares(goal)))
    cheapest, lost_of = cheapest_of(problem), root_of(problem)
    search.tell(cheapest, Outcome(False, lost_of(cheapest)))
    share, error = goal / lost_of(cheapest), predicted_error(problem.noise, cheapest)
    first, second = [next(a for a in search.curve if a.error <= error * share**power) for power in (1, 2)]
    assert {key_of_profile(a.profile) for _, a in search.ask()} == {key_of_profile(a.profile) for a in (first, second)}
    assert lost_of(second.profile) <= goal < lost_of(search.curve[search.curve.index(second) - 1].profile)


@pytest.mark.parametrize("seed", range(3))
def test_with_noisy_scores_what_passes_beyond_doubt_is_reached(seed):
    problem = drawn(seed, 5)
    rng = np.random.default_rng(seed)
    factors: dict[tuple, float] = {}

    def lost_of(profile):
        factor = factors.setdefault(key_of_profile(profile), float(2 ** rng.uniform(-1, 1)))
        return factor * predicted_error(problem.noise, profile)

    goal = error_at(problem, 0.5)
    played = play(problem, lost_of, goal)
    sure = Assigner(problem).least_cost(goal / 2)
    assert played.best.outcome.is_ok
    assert played.best.cost <= sure.cost * (1 + RESOLUTION) * SLACK


def wrong(problem, seed):
    """Return a problem whose errors are up to ten times what `problem` predicts, or a tenth."""
    rng = np.random.default_rng(seed)

    def changed(errors):
        return {key: float(error * 10 ** rng.uniform(-1, 1)) for key, error in errors.items()}

    noise = {p: Noise(changed(n.own), changed(n.written), changed(n.read)) for p, n in problem.noise.items()}
    return replace(problem, noise=noise)


def test_wrong_predictions_cost_evaluations_and_corrections_win_back():
    costs = {"never": 0.0, "corrected": 0.0, "best": 0.0}
    for seed in range(4):
        problem = drawn(seed, 4, lacking=0)
        truth = wrong(problem, seed + 1)
        lost_of, goal = root_of(truth), error_at(truth, 0.4) ** 0.5
        never = play(problem, lost_of, goal)
        corrected = play(problem, lost_of, goal, repair=lambda _, truth=truth: truth)
        least = min(a.cost for a in everything(truth) if lost_of(a.profile) <= goal)
        assert never.best.outcome.is_ok
        assert corrected.best.outcome.is_ok
        for name, cost in (("never", never.best.cost), ("corrected", corrected.best.cost), ("best", least)):
            costs[name] += cost / least
    assert costs["best"] <= costs["corrected"] < costs["never"]


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5])
def test_no_more_profiles_are_asked_for_than_allowed(evaluations):
    problem = drawn(6, 6)
    goal = error_at(problem, 0.3) ** 0.5
    played = play(problem, root_of(problem), goal, evaluations=evaluations)
    assert len(played.asked) == evaluations
    assert played.search.ended == f"the {evaluations} evaluations that were allowed are used up"


def test_the_search_ends_where_the_threshold_is_bracketed():
    problem = drawn(6, 6)
    lost_of, goal = root_of(problem), error_at(problem, 0.3) ** 0.5
    played = play(problem, lost_of, goal, evaluations=40)
    assert played.search.ended.startswith("the threshold is bracketed: what costs ")
    best = played.best
    failed = max(problem.costs.total(dict(key)) for _, key in played.asked if lost_of(dict(key)) > goal)
    assert f"what costs {100 * (1 - failed / best.cost):.2g} % less is not within the goal" in played.search.ended


def test_the_search_ends_where_the_cheapest_is_acceptable():
    problem = drawn(2, 5)
    played = play(problem, lambda _: 0.0, 1.0)
    assert played.best.cost == pytest.approx(Assigner(problem).least_cost().cost, rel=1e-3)
    assert played.search.ended == "the cheapest profile of all is within the goal"
    assert len(played.asked) == 1


def two_groups(error_of_b):
    """Return a problem of two groups; float16 is good for `a`, and as good for `b` as it is told."""
    noise = {"w8a8": Noise({"a": 1.0, "b": 0.1}, {}, {}), "fp16": Noise({"a": 0.1, "b": error_of_b}, {}, {})}
    return Problem(noise, costs_of({"a": {"w8a8": 1.0, "fp16": 2.0}, "b": {"w8a8": 1.0, "fp16": 2.0}}))


def test_where_nothing_is_acceptable_errors_are_measured_before_giving_up():
    truth = two_groups(0.5)
    lost_of = root_of(truth)
    doubtful = []

    def repair(profile):
        doubtful.append(dict(profile))
        return truth

    played = play(two_groups(0.01), lost_of, 0.0, repair=repair)
    assert doubtful == [{"a": "fp16", "b": "fp16"}, {"a": "fp16", "b": "w8a8"}]
    assert played.asked[-1][1] == (("a", "fp16"), ("b", "w8a8"))
    assert played.search.ended == "not even the most accurate profile is within the goal"
    assert (played.best.outcome.is_ok, played.best.outcome.lost) == (False, pytest.approx(0.2**0.5))


def test_corrections_are_asked_for_the_profile_that_failed_next_to_the_threshold():
    problem = drawn(6, 6)
    lost_of, goal = root_of(problem), error_at(problem, 0.3) ** 0.5
    doubtful = []

    def repair(profile):
        doubtful.append(key_of_profile(profile))
        return problem

    played = play(problem, lost_of, goal, evaluations=40, repair=repair)
    failed = [key for origin, key in played.asked if origin != "repaired" and lost_of(dict(key)) > goal]
    assert doubtful[0] == max(failed, key=lambda key: problem.costs.total(dict(key)))
    assert len(doubtful) <= 2


def test_a_correction_is_wanted_only_where_there_is_nothing_else_to_ask():
    problem = drawn(6, 6)
    goal = error_at(problem, 0.3) ** 0.5
    search = open_search(problem, Limits(40, 2))
    lost_of = root_of(problem)
    search.tell(cheapest_of(problem), Outcome(False, 9.9))
    assert search.wants_correction is None
    assert search.ask()
    assert play(problem, lost_of, goal, evaluations=3).corrections == 0  # no evaluation is left to use it


def test_the_least_drop_within_a_budget_is_the_most_accurate_that_it_buys():
    problem = drawn(7, 5)
    cheapest, accurate = Assigner(problem).least_cost(), Assigner(problem).least_error()
    for share in (0.1, 0.4, 0.8):
        budget = cheapest.cost + share * (accurate.cost - cheapest.cost)
        played = play(
            problem, root_of(problem), 1e-9, budget=budget, wants_least_drop=True
        )  # fmt: skip
        least = min(a.error for a in everything(problem) if a.cost <= budget * (1 + 1e-9))
        assert predicted_error(problem.noise, played.best.profile) <= least * SLACK
        assert played.best.cost <= budget * (1 + 1e-9)
        assert played.search.ended == "the most accurate profile within the budget is known"


def test_the_least_drop_is_what_was_scored_and_not_what_was_predicted():
    problem = drawn(7, 5)
    cheapest = Assigner(problem).least_cost()
    budget = 1.5 * cheapest.cost
    played = play(
        problem, lambda p: float(key_of_profile(p) != key_of_profile(cheapest.profile)), 0.5,
        budget=budget, wants_least_drop=True,
    )  # fmt: skip
    assert len(played.asked) > 1
    assert played.best.profile == cheapest.profile


@pytest.mark.parametrize("seed", range(3))
def test_nothing_beyond_the_budget_or_the_limits_is_asked_for(seed):
    problem = drawn(seed, 5, lacking=0, limits=[ShareLimit("fp16", 0.4), ShareLimit("w8a16", 0.4)])
    cheapest, accurate = Assigner(problem).least_cost(), Assigner(problem).least_error()
    budget = (cheapest.cost + accurate.cost) / 2
    lost_of, goal = root_of(problem), error_at(problem, 0.6) ** 0.5
    played = play(problem, lost_of, goal, budget=budget)
    for _, key in played.asked:
        profile = dict(key)
        assert problem.costs.total(profile) <= budget * (1 + 1e-9)
        assert all(list(profile.values()).count(p) <= 2 for p in ("fp16", "w8a16"))
    within = [a for a in everything(problem) if a.cost <= budget and lost_of(a.profile) <= goal]
    if within:
        assert played.best.cost <= min(a.cost for a in within) * (1 + RESOLUTION) * SLACK
    else:
        assert not played.best.outcome.is_ok
        assert played.search.ended == "not even the most accurate profile is within the goal"


def test_a_budget_below_everything_is_refused():
    problem = drawn(0, 4)
    with pytest.raises(SpecError, match="the cheapest possible costs"):
        open_search(problem, Limits(12, 2, budget=1.0))


def test_the_same_outcomes_lead_to_the_same_questions():
    problem = drawn(8, 6)
    goal = error_at(problem, 0.3) ** 0.5
    truth = wrong(problem, 3)
    played = [
        play(p, root_of(truth), goal, repair=lambda _: truth) for p in (problem, drawn(8, 6))
    ]  # fmt: skip
    assert played[0].asked == played[1].asked
    assert len(played[0].asked) > 4


def test_the_order_in_which_outcomes_are_told_does_not_matter():
    problem = drawn(8, 6)
    lost_of, goal = root_of(problem), error_at(problem, 0.3) ** 0.5
    one, other = (open_search(problem, Limits(12, 2, root_shares(goal))) for _ in range(2))
    told = [one.curve[i].profile for i in (0, 5, 15, len(one.curve) - 1)]
    for search, profiles in ((one, told), (other, told[::-1])):
        for profile in profiles:
            search.tell(profile, Outcome(lost_of(profile) <= goal, lost_of(profile)))
    assert [key_of_profile(a.profile) for _, a in one.ask()] == [key_of_profile(a.profile) for _, a in other.ask()]


def test_of_equally_cheap_profiles_the_better_one_is_best():
    problem = Problem(
        {"w8a8": Noise({"a": 1.0, "b": 0.5}, {}, {}), "fp16": Noise({}, {}, {})},
        costs_of({"a": {"w8a8": 1.0, "fp16": 2.0}, "b": {"w8a8": 1.0, "fp16": 2.0}}),
    )
    search = open_search(problem, Limits(12, 2))
    assert search.best is None
    for a, b, lost in (("fp16", "w8a8", 0.2), ("w8a8", "fp16", 0.1), ("fp16", "fp16", 0.0), ("w8a8", "w8a8", 1.5)):
        search.tell({"a": a, "b": b}, Outcome(lost <= 1, lost))
    assert search.best.profile == {"a": "w8a8", "b": "fp16"}


def test_a_profile_just_below_the_cheapest_acceptable_one_is_not_overlooked():
    """Nothing lies in the lower part of the bracket, and something in its upper part: it is within the goal, too."""
    problem = drawn(26, 5)
    goal = error_at(problem, 0.97) ** 0.5
    played = play(problem, root_of(problem), goal)
    least = min(a.cost for a in everything(problem) if predicted_error(problem.noise, a.profile) ** 0.5 <= goal)
    assert played.best.cost <= least * (1 + RESOLUTION) * SLACK
