"""The search for the cheapest acceptable profile: which to score next, and when to stop. It runs nothing itself.

    cheapest  where that is acceptable, nothing is left to ask
    guess     where its loss says that the threshold should be; the most accurate profile where none of these passes
    curve     k-section over the predicted curve between the costliest that failed below the cheapest that passed
    between   where no point of the curve is left there, new ones at costs between the two
    repaired  where nothing lies between any more: errors are measured where they matter most, and the question is asked
              anew with those (see `Search.correct`)

How many are asked for at once does not depend on how many can be scored at once: the answer is the same on any machine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewbits.reporting.amp_record import Origin
from fewbits.workflow.assign_precisions import Assigner
from fewbits.workflow.assignment_memory import AssignmentMemory
from fewbits.workflow.precision_problem import Assignment, predicted_error

RESOLUTION = 0.01
"""Costs that differ by less than this share count as equal: the threshold is bracketed."""
_REPAIRS = 2
_SAME = 1e-9

Profile = Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What scoring a profile found.

    Attributes:
        is_ok: whether it is within the goal.
        lost: what the goal judges: the drop, or what lacks to the least SQNR.
    """

    is_ok: bool
    lost: float


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop.

    Attributes:
        evaluations: profiles to score, at most.
        at_once: profiles per round.
        shares: of its predicted error that a profile which loses so much may be expected to keep; None makes no guess.
        budget: of the cost; None sets none.
        wants_least_drop: the least drop within the budget is wanted, not the least cost within the goal.
    """

    evaluations: int
    at_once: int
    shares: Callable[[float], tuple[float, ...]] | None = None
    budget: float | None = None
    wants_least_drop: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A profile that was scored."""

    profile: Profile
    cost: float
    outcome: Outcome


def key_of_profile(profile: Profile) -> tuple[tuple[str, str], ...]:
    """Return what tells one profile from another."""
    return tuple(sorted(profile.items()))


class Search:
    """Asks for profiles until the threshold is bracketed.

    Args:
        memory: answers questions about what there is to choose from.
        limits: when to stop.
        points: of the predicted curve, at most.

    Raises:
        SpecError: nothing is within the budget and the limits on shares.
    """

    def __init__(self, memory: AssignmentMemory, limits: Limits, *, points: int) -> None:
        self._memory, self._limits = memory, limits
        self._scored: dict[tuple[tuple[str, str], ...], Scored] = {}
        self._repairs, self._guessed = 0, False
        self._offered: list[tuple[Origin, Assignment]] | None = None
        self.ended = ""
        self.curve = self._within_budget(memory.curve(points))

    def tell(self, profile: Profile, outcome: Outcome) -> None:
        """Take note of what scoring a profile found."""
        cost = self._memory.problem.costs.total(profile)
        self._scored[key_of_profile(profile)] = Scored(profile, cost, outcome)
        self._offered = None

    @property
    def evaluations(self) -> int:
        """How many were scored."""
        return len(self._scored)

    @property
    def best(self) -> Scored | None:
        """The cheapest that is acceptable, or else that with the least drop; None before anything was scored."""
        scored = list(self._scored.values())
        if self._limits.wants_least_drop:
            return min(scored, key=lambda s: (s.outcome.lost, s.cost), default=None)
        passed = [s for s in scored if s.outcome.is_ok]
        if passed:
            return min(passed, key=lambda s: (s.cost, s.outcome.lost))
        return min(scored, key=lambda s: (s.outcome.lost, s.cost), default=None)

    @property
    def wants_correction(self) -> Profile | None:
        """The profile whose errors are to be measured before the next `ask`, or None."""
        if self.ended or self._repairs >= _REPAIRS or self._left() <= 0 or self._offer():
            return None
        failed = self._failed()
        if failed is not None:
            return failed.profile
        return None if self.best is None or self._has_passed() else self.best.profile

    def correct(self, memory: AssignmentMemory) -> None:
        """Go on with errors that were measured."""
        self._memory = memory
        self._repairs += 1
        self._offered = None

    def ask(self) -> list[tuple[Origin, Assignment]]:
        """Return the profiles to score next; none where the search is over, and `ended` says why."""
        if self._left() <= 0:
            self.ended = f"the {self._limits.evaluations} evaluations that were allowed are used up"
            return []
        asked = self._offer()
        if not asked and self._repairs:
            asked = self._repaired()
        if not asked:
            self.ended = self._reason()
        return asked[: min(self._limits.at_once, self._left())]

    def _left(self) -> int:
        return self._limits.evaluations - len(self._scored)

    def _offer(self) -> list[tuple[Origin, Assignment]]:
        """Return `_asked`, found out once per round."""
        if self._offered is None:
            self._offered = self._asked()
        return self._offered

    def _asked(self) -> list[tuple[Origin, Assignment]]:
        """Return what the curve, and what lies between its points, has to offer."""
        if self._limits.wants_least_drop:
            return self._new("curve", self.curve[-1:])
        if not self._has_passed():
            fresh = [a for _, a in self._new("curve", self.curve)]
            guessed = self._new("curve", self._guess(fresh))
            return (
                guessed
                or self._new("curve", self.curve[-1:])
                or self._new("repaired" if self._repairs else "between", self._most_accurate())
            )
        low, high = self._bracket()
        if high <= low * (1 + _SAME):
            return []
        inside = [a for a in self.curve if low * (1 + _SAME) < a.cost < high * (1 - RESOLUTION)]
        fresh = [assignment for _, assignment in self._new("curve", inside)]
        if fresh:
            count = self._limits.at_once
            chosen = {(len(fresh) * (i + 1)) // (count + 1) for i in range(count)}
            return [("curve", fresh[min(i, len(fresh) - 1)]) for i in sorted(chosen)]
        return self._new("between", self._between(low, high))

    def _guess(self, fresh: Sequence[Assignment]) -> list[Assignment]:
        """Return the points where errors fall below what the loss of the cheapest profile asks for; once."""
        is_first, self._guessed = not self._guessed, True
        cheapest = min(self._scored.values(), key=lambda s: s.cost, default=None)
        if not is_first or cheapest is None or self._limits.shares is None:
            return []
        error = self._error(cheapest.profile)
        wanted = [error * share for share in self._limits.shares(cheapest.outcome.lost)]
        found = [next((i for i, a in enumerate(fresh) if a.error <= most), None) for most in wanted]
        return [fresh[i] for i in dict.fromkeys(found) if i is not None]

    def _between(self, low: float, high: float) -> list[Assignment]:
        """Return the least error at costs that divide the bracket."""
        if high - low <= RESOLUTION * high:
            return []
        count, top = self._limits.at_once, high * (1 - RESOLUTION)
        inside = [low + (high - low) * (i + 1) / (count + 1) for i in range(count)]
        for budgets in (inside, [top]):
            answers = [self._memory.least_error(budget) for budget in budgets]
            found = [a for a in answers if a is not None and low * (1 + _SAME) < a.cost < top * (1 + _SAME)]
            if fresh := [a for _, a in self._new("between", found)]:
                return fresh
        return []

    def _repaired(self) -> list[tuple[Origin, Assignment]]:
        """Return what corrected errors suggest: as good as the best for less, and the best at the price that failed."""
        if self._limits.wants_least_drop or not self._has_passed():
            return self._new("repaired", self._most_accurate())
        low, high = self._bracket()
        best = self.best
        assert best is not None
        found: list[Assignment | None] = [self._memory.least_cost(self._error(best.profile))]
        if low > 0:
            found += [self._memory.least_error(low), self._memory.least_error((low + high) / 2)]
        cheaper = [a for a in found if a is not None and a.cost < high * (1 - RESOLUTION)]
        return self._new("repaired", cheaper)

    def _most_accurate(self) -> list[Assignment]:
        found = self._memory.least_error(self._limits.budget)
        return [] if found is None else [found]

    def _new(self, origin: Origin, assignments: Iterable[Assignment]) -> list[tuple[Origin, Assignment]]:
        """Return those that were not scored yet, each once."""
        found = {key_of_profile(a.profile): a for a in assignments}
        return [(origin, a) for key, a in found.items() if key not in self._scored]

    def _bracket(self) -> tuple[float, float]:
        """Return the cost of the costliest that failed below the cheapest that passed, and that of the latter."""
        high = min(s.cost for s in self._scored.values() if s.outcome.is_ok)
        failed = [s.cost for s in self._scored.values() if not s.outcome.is_ok and s.cost < high]
        return max(failed, default=min(self.curve[0].cost, high)), high

    def _failed(self) -> Scored | None:
        """Return the costliest that failed below the cheapest that passed."""
        if not self._has_passed():
            return None
        low = self._bracket()[0]
        failed = (s for s in self._scored.values() if not s.outcome.is_ok and abs(s.cost - low) <= _SAME * low)
        return next(failed, None)

    def _has_passed(self) -> bool:
        return any(s.outcome.is_ok for s in self._scored.values())

    def _reason(self) -> str:
        if self._limits.wants_least_drop:
            return "the most accurate profile within the budget is known"
        if not self._has_passed():
            return "not even the most accurate profile is within the goal"
        low, high = self._bracket()
        if self._failed() is None:
            return "the cheapest profile of all is within the goal"
        return f"the threshold is bracketed: what costs {100 * (1 - low / high):.2g} % less is not within the goal"

    def _error(self, profile: Profile) -> float:
        return predicted_error(self._memory.problem.noise, profile)

    def _within_budget(self, curve: Sequence[Assignment]) -> tuple[Assignment, ...]:
        """Return the part of the curve that the budget allows, with the best that it buys at its end."""
        budget = self._limits.budget
        if budget is None:
            return tuple(curve)
        top = self._memory.least_error(budget)
        if top is None:
            Assigner(self._memory.problem).least_error(budget)  # says what the least is
            raise AssertionError("what was not within the budget is")
        return (*(a for a in curve if a.cost < min(top.cost, budget * (1 + _SAME))), top)
