"""Which precision each group takes: the least predicted error within a cost, or the least cost within an error.

Found as an integer program (see `integer_program`), to within a thousandth of the best. Near ties go to what uses less
of the limit, ties to the precision that the noise names earlier: the same question has the same answer.
"""

import logging
from functools import partial
from math import inf
from typing import Literal

from fewbits.analysis.costs import activation_type
from fewbits.errors import SpecError
from fewbits.workflow.integer_program import Amount, Effort, Limit, minimize, within
from fewbits.workflow.noise_program import Passing, noise_program
from fewbits.workflow.precision_problem import Assignment, Problem, ShareLimit, hands_over, predicted_error

logger = logging.getLogger(__name__)

EFFORT = Effort(gap=1e-3, thrift=1e-4)


def least_error(problem: Problem, budget: float | None = None) -> Assignment:
    """Return the assignment with the least predicted error that costs no more than `budget`; see `Assigner`."""
    return Assigner(problem).least_error(budget)


def least_cost(problem: Problem, most_error: float | None = None) -> Assignment:
    """Return the cheapest assignment with a predicted error of no more than `most_error`; see `Assigner`."""
    return Assigner(problem).least_cost(most_error)


class Assigner:
    """Answers any number of questions about one problem.

    Args:
        problem: what there is to choose from.
        effort: how well; by default to a thousandth, where using up the limit is worth a tenth of that.
    """

    def __init__(self, problem: Problem, effort: Effort = EFFORT) -> None:
        self._problem, self._effort, costs = problem, effort, problem.costs
        conversions = {pair: partial(costs.conversion, pair) for pair in costs.conversions}
        passing = Passing(activation_type, hands_over)
        self._space = noise_program(problem.candidates, problem.noise, passing, conversions)
        single = self._space.single(lambda group, precision: costs.groups[group][precision]).single
        self._cost = Amount(single, self._space.conversions.joint)
        self._shares = [self._share(limit) for limit in problem.limits]

    def _share(self, limit: ShareLimit) -> Limit:
        shares, each = limit.shares, 1 / len(self._problem.costs.groups)

        def share(group: str, precision: str) -> float:
            if precision != limit.precision:
                return 0.0
            return each if shares is None else shares[group]

        return Limit(self._space.single(share), limit.most)

    def least_error(self, budget: float | None = None, *, known: Assignment | None = None) -> Assignment:
        """Return the assignment with the least predicted error.

        Args:
            budget: of the cost; None sets none.
            known: an assignment within it, from which the search is quicker.

        Raises:
            SpecError: nothing is within budget and limits; the message says what the least is.
        """
        costs = self._problem.costs
        found = self._search("error", inf if budget is None else budget - costs.fixed, known)
        found = found or self._best("cost")
        if budget is not None and found.cost > _rounded_up(budget):
            raise SpecError(
                f"No assignment costs {budget:.6g} {costs.unit} or less: the cheapest possible costs {found.cost:.6g}. "
                f"Raise the budget or allow cheaper precisions."
            )
        return found

    def least_cost(self, most_error: float | None = None, *, known: Assignment | None = None) -> Assignment:
        """Return the cheapest assignment.

        Args:
            most_error: what the predicted error may be; None sets no limit.
            known: an assignment within it, from which the search is quicker.

        Raises:
            SpecError: nothing is within error and limits; the message says what the least is.
        """
        found = self._search("cost", inf if most_error is None else most_error, known)
        found = found or self._best("error")
        if most_error is not None and found.error > _rounded_up(most_error):
            raise SpecError(
                f"No assignment has a predicted error of {most_error:.3g} or less: the least possible is "
                f"{found.error:.3g}. Accept a larger error or allow higher precisions."
            )
        return found

    def _best(self, wanted: Literal["error", "cost"]) -> Assignment:
        """Return what has the least error, or cost, within the limits on shares alone."""
        found = self._search(wanted, inf, None)
        if found is None:
            raise SpecError(self._contradiction())
        return found

    def _search(self, wanted: Literal["error", "cost"], most: float, known: Assignment | None) -> Assignment | None:
        """Return the least error within a cost, or the least cost within an error; None where nothing is within."""
        amounts = (self._space.error, self._cost)
        objective, limited = amounts if wanted == "error" else amounts[::-1]
        program = self._space.program
        limits = [Limit(limited, min(most, limited.highest(program))), *self._shares]
        start = None if known is None else self._space.chosen(known.profile)
        if start is not None and not within(program, limits, start):
            start = None
        found = minimize(program, objective, limits, known=start, effort=self._effort)
        if found is None:
            return None
        if found.gap:
            logger.warning(
                "The search for precisions was stopped after %g s: another assignment may have up to %.2g %% less %s.",
                self._effort.time_limit_s, 100 * found.gap, wanted,
            )  # fmt: skip
        profile, problem = self._space.profile(found.chosen), self._problem
        return Assignment(profile, predicted_error(problem.noise, profile), problem.costs.total(profile))

    def _contradiction(self) -> str:
        """Say which limits on shares cannot hold."""
        for limit, share in zip(self._problem.limits, self._shares, strict=True):
            least = share.amount.lowest(self._space.program)
            if least > share.most + share.slip:
                return (
                    f"At most {100 * limit.most:g} % may take {limit.precision}, but the groups that may take nothing "
                    f"else make up {100 * least:.3g} %. Raise the limit or allow them another precision."
                )
        names = ", ".join(limit.precision for limit in self._problem.limits)
        return f"The limits on {names} cannot hold together. Raise one of them or allow other precisions."


def _rounded_up(limit: float) -> float:
    return limit + 1e-9 * abs(limit)
