"""Answers about one problem, remembered by its content: what the solver found once stays the answer.

The solver has a time limit, so that on a busy machine it may answer otherwise than on an idle one; a run that was
stopped must ask for the same profiles again.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from fewbits.errors import SpecError
from fewbits.reporting.record import versions
from fewbits.runtime.store import Store, key_of
from fewbits.workflow.assign_precisions import Assigner
from fewbits.workflow.pareto import pareto_curve
from fewbits.workflow.precision_problem import Assignment, Problem


class AssignmentMemory:
    """Answers questions about a problem; see `Assigner` and `pareto_curve`.

    Args:
        problem: what there is to choose from.
        store: of the run.
    """

    def __init__(self, problem: Problem, store: Store) -> None:
        self.problem, self._store = problem, store
        self._key = key_of("assignment", versions(), _content(problem))

    def curve(self, points: int) -> tuple[Assignment, ...]:
        """Return the Pareto curve.

        Raises:
            SpecError: limits allow no assignment.
        """
        return self._remember(("curve", points), lambda: pareto_curve(self.problem, points=points))

    def least_error(self, budget: float | None) -> Assignment | None:
        """Return the least error within a budget; None where nothing is within it."""
        return self._one(("least error", budget), lambda: self._assigner.least_error(budget))

    def least_cost(self, error: float) -> Assignment | None:
        """Return the least cost within an error; None where nothing is within it."""
        return self._one(("least cost", error), lambda: self._assigner.least_cost(error))

    @cached_property
    def _assigner(self) -> Assigner:
        return Assigner(self.problem)

    def _one(self, question: tuple[str, float | None], answer: Callable[[], Assignment]) -> Assignment | None:
        def ask() -> tuple[Assignment, ...]:
            try:
                return (answer(),)
            except SpecError:  # nothing is within that
                return ()

        return next(iter(self._remember(question, ask)), None)

    def _remember(self, question: Any, answer: Callable[[], Sequence[Assignment]]) -> tuple[Assignment, ...]:
        def plain() -> list[Any]:
            return [[dict(found.profile), found.error, found.cost] for found in answer()]

        found = self._store.remember(key_of(self._key, *question), plain)
        return tuple(Assignment(profile, error, cost) for profile, error, cost in found)


def _content(problem: Problem) -> list[Any]:
    costs = problem.costs
    noise = {p: [n.own, n.written, _pairs(n.read)] for p, n in problem.noise.items()}
    typed = [[*types, _pairs(of)] for types, of in costs.typed.items()]
    limits = [[limit.precision, limit.most, limit.shares] for limit in problem.limits]
    allowed = {group: list(names) for group, names in problem.candidates.items()}
    return [noise, list(problem.noise), costs.groups, _pairs(costs.conversions), typed, costs.fixed, allowed, limits]


def _pairs(of: Any) -> list[Any]:
    return [[*pair, value] for pair, value in of.items()]
