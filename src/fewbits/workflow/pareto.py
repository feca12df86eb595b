"""The Pareto curve: assignments that nothing betters both in predicted error and in cost, spread over its length.

From the cheapest assignment to the most accurate one, the widest gap is searched next: for the least cost within the
middle of its errors (on a logarithmic scale) where it is wider in error, for the least error within the middle of its
costs elsewhere. What a search rules out is not searched again.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fewbits.errors import SpecError
from fewbits.workflow.assign_precisions import EFFORT, Assigner
from fewbits.workflow.precision_problem import Assignment, Problem

POINTS = 16

_EFFORT = replace(EFFORT, time_limit_s=5.0)
_SEARCHES = 2  # per point: some find what is known already
_FLOOR = 1e-12  # of the largest error: what is below counts as equal on the logarithmic scale
_NARROW = 1e-3  # of the curve, in either direction: not searched


def pareto_curve(problem: Problem, *, points: int = POINTS) -> tuple[Assignment, ...]:
    """Return assignments on the Pareto curve, the cheapest first: rising in cost, falling in error.

    Args:
        problem: what there is to choose from.
        points: how many at most, both ends included.

    Raises:
        SpecError: limits allow no assignment, or there is no room for both ends.
    """
    if points < 2:
        raise SpecError(f"A curve of {points} points has no two ends: ask for 2 or more.")
    assigner = Assigner(problem, _EFFORT)
    cheap, accurate = assigner.least_cost(), assigner.least_error()
    scale, found = _Scale.of(cheap, accurate), [cheap, accurate]
    gaps = [_Gap(cheap, accurate, cheap.error, accurate.error, cheap.cost, accurate.cost)]
    for _ in range(_SEARCHES * points):
        gap = max(gaps, key=scale.width)
        if len(front(found)) >= points or scale.width(gap) <= 0:
            break
        gaps.remove(gap)
        by_error = scale.height(gap) >= scale.length(gap)
        point, halves = _by_error(assigner, gap, scale.floor) if by_error else _by_cost(assigner, gap)
        found.append(point)
        gaps += halves
    return front(found)


def dominates(one: Assignment, other: Assignment) -> bool:
    """Say whether `one` is better than `other` in error or cost and worse in neither."""
    no_worse = one.error <= other.error and one.cost <= other.cost
    return no_worse and (one.error < other.error or one.cost < other.cost)


def front(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """Return those that no other dominates, the cheapest first; of equals the first."""
    kept: list[Assignment] = []
    for assignment in sorted(assignments, key=lambda a: (a.cost, a.error)):
        if not kept or assignment.error < kept[-1].error:
            kept.append(assignment)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Gap:
    """Two neighbours on the curve, and between which errors and costs there may be more."""

    cheap: Assignment
    accurate: Assignment
    most_error: float
    least_error: float
    least_cost: float
    most_cost: float


@dataclass(frozen=True, slots=True)
class _Scale:
    """What counts as wide: shares of the whole curve."""

    cost: float
    log_error: float
    floor: float

    @classmethod
    def of(cls, cheap: Assignment, accurate: Assignment) -> "_Scale":
        floor = _FLOOR * cheap.error
        return cls(accurate.cost - cheap.cost, _log_ratio(cheap.error, accurate.error, floor), floor)

    def length(self, gap: _Gap) -> float:
        """Return its share of the costs."""
        return (gap.most_cost - gap.least_cost) / self.cost if self.cost > 0 else 0.0

    def height(self, gap: _Gap) -> float:
        """Return its share of the errors, in powers of ten."""
        return _log_ratio(gap.most_error, gap.least_error, self.floor) / self.log_error if self.log_error > 0 else 0.0

    def width(self, gap: _Gap) -> float:
        """Return the larger share; 0 for what is too narrow to hold another point."""
        shares = self.length(gap), self.height(gap)
        return max(shares) if min(shares) > _NARROW else 0.0


def _log_ratio(high: float, low: float, floor: float) -> float:
    return math.log10(max(high, floor) / max(low, floor)) if max(low, floor) > 0 else 0.0


def _by_error(assigner: Assigner, gap: _Gap, floor: float) -> tuple[Assignment, list[_Gap]]:
    """Return the cheapest within the geometric mean of the errors, and what may be left on both sides."""
    middle = math.sqrt(gap.most_error * max(gap.least_error, floor))
    point = assigner.least_cost(middle, known=gap.accurate)
    before = replace(gap, accurate=point, least_error=middle, most_cost=point.cost)
    after = replace(gap, cheap=point, most_error=point.error, least_cost=point.cost)
    return point, [before, after]


def _by_cost(assigner: Assigner, gap: _Gap) -> tuple[Assignment, list[_Gap]]:
    """Return the most accurate within the mean of the costs, and what may be left on both sides."""
    middle = (gap.most_cost + gap.least_cost) / 2
    point = assigner.least_error(middle, known=gap.cheap)
    before = replace(gap, accurate=point, least_error=point.error, most_cost=point.cost)
    after = replace(gap, cheap=point, most_error=point.error, least_cost=middle)
    return point, [before, after]
