"""What there is to choose from when every group takes a precision, and what a choice comes to.

    error = sum over groups  own[p][g] + written[p][g]                                        where g takes p
          + sum over pairs   read[p][w, r]      where r takes p, and w does not hand over on p's grid or a narrower one
    cost  = fixed + sum over groups  cost[g][p] + sum over pairs  conversion[w, r]            where their types differ

Activations of up to 8 bits travel in one type and share one grid; those of 16 bits and float16 have their own. Read on
a wider grid than it was written on, a tensor gains no noise to speak of. What comes from outside of all groups (writer
"") is rounded by each of its readers, and never converted.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from math import isfinite

from fewbits.analysis.costs import Costs, activation_type
from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType


@dataclass(frozen=True, slots=True)
class Assignment:
    """A precision for every group, and what it comes to.

    Attributes:
        profile: group -> precision.
        error: of the network's output, predicted.
        cost: in the unit of the costs.
    """

    profile: Mapping[str, str]
    error: float
    cost: float


@dataclass(frozen=True, slots=True, eq=False)
class ShareLimit:
    """How much of the network may take one precision.

    Attributes:
        precision: its name.
        most: share, 0 to 1.
        shares: group -> its share, such as that of the multiply-accumulates; None counts groups.
    """

    precision: str
    most: float
    shares: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1:
            raise SpecError(f"{100 * self.most:g} % is no share for {self.precision} to have: write 0 to 100.")


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What there is to choose from.

    Attributes:
        noise: precision -> where its noise arises; what is absent is 0.
        costs: of every group in every precision that it can run in.
        allowed: group -> precisions that it may take; one that is not named may take all that it can run in.
        limits: how much of the network may take a precision.

    Raises:
        SpecError: a name is unknown, a group has nothing to take, or a noise or cost is not a finite number.
    """

    noise: Mapping[str, Noise]
    costs: Costs
    allowed: Mapping[str, Collection[str]] = field(default_factory=dict)
    limits: Sequence[ShareLimit] = ()

    def __post_init__(self) -> None:
        _check_precisions(self)
        _check_groups(self)
        candidates = self.candidates
        for group, names in candidates.items():
            if not names:
                raise SpecError(
                    f"Group {group!r} has no precision left: it can run in {_list(self.costs.groups[group])}, and may "
                    f"take {_list(self.allowed.get(group, ()))}. Allow it another one."
                )
        _check_noise(self.noise, candidates)
        _check_costs(self.costs, candidates)

    @property
    def candidates(self) -> dict[str, tuple[str, ...]]:
        """Group -> precisions that it may take, in the order of the noise."""
        return {
            group: tuple(p for p in self.noise if p in costs and p in self.allowed.get(group, costs))
            for group, costs in self.costs.groups.items()
        }


def predicted_error(noise: Mapping[str, Noise], profile: Mapping[str, str]) -> float:
    """Return the error of the output that a profile is predicted to cause.

    Args:
        noise: precision -> where its noise arises; what is absent is 0.
        profile: group -> precision; a group that is left out stays in float, adds nothing and hands over floats.

    Raises:
        SpecError: the noise of a precision is not known.
    """
    unknown = next((p for p in profile.values() if p not in noise), None)
    if unknown is not None:
        raise SpecError(f"The noise of {unknown} is not known: it was found for {_list(noise)}. Measure it, too.")
    total = 0.0
    for group, precision in profile.items():
        total += noise[precision].own.get(group, 0.0) + noise[precision].written.get(group, 0.0)
    for precision, found in noise.items():
        for (writer, reader), error in found.read.items():
            if profile.get(reader) == precision and writer != reader:
                handed = writer in profile and hands_over(profile[writer], precision)
                total += 0.0 if handed else error
    return total


@cache
def hands_over(written: str, read: str) -> bool:
    """Say whether reading in one precision what was written in another adds no noise to speak of."""
    source, wanted = activation_type(written), activation_type(read)
    return source in (wanted, DType.UINT8.value) or wanted == "fp32"


def _check_precisions(problem: Problem) -> None:
    known = problem.noise
    for group, names in (*problem.costs.groups.items(), *problem.allowed.items()):
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise SpecError(
                f"Group {group!r} is to run in {unknown}, whose noise is not known: choose from {_list(known)}."
            )
    for limit in problem.limits:
        if limit.precision not in known:
            raise SpecError(f"There is nothing to limit in {limit.precision}: choose from {_list(known)}.")


def _check_groups(problem: Problem) -> None:
    groups = problem.costs.groups
    if not groups:
        raise SpecError("There is no group to choose a precision for: nothing of this network can be quantized.")
    unknown = next((group for group in problem.allowed if group not in groups), None)
    if unknown is not None:
        raise SpecError(f"There is no group {unknown!r} to choose a precision for: name one that `analyze` lists.")
    for group in (group for noise in problem.noise.values() for group in _groups(noise)):
        if group not in groups:
            raise SpecError(f"The {problem.costs.name} of group {group!r} is not known: find costs of all groups.")
    for limit in problem.limits:
        lacking = next((group for group in groups if limit.shares is not None and group not in limit.shares), None)
        if lacking is not None:
            raise SpecError(f"The share of group {lacking!r} is not known: limit {limit.precision} by groups instead.")


def _groups(noise: Noise) -> Iterator[str]:
    yield from (*noise.own, *noise.written, *(reader for _, reader in noise.read))


def _check_noise(noise: Mapping[str, Noise], candidates: Mapping[str, Collection[str]]) -> None:
    for precision, found in noise.items():
        errors = [*found.own.items(), *found.written.items(), *((r, error) for (_, r), error in found.read.items())]
        for group, error in errors:
            if precision in candidates[group] and not _is_amount(error):
                raise SpecError(
                    f"The noise of group {group!r} in {precision} is {error}, no finite number: leave {precision} out "
                    f"for this group."
                )


def _check_costs(costs: Costs, candidates: Mapping[str, Collection[str]]) -> None:
    for group, names in candidates.items():
        for precision in names:
            if not _is_amount(costs.groups[group][precision]):
                raise SpecError(
                    f"The {costs.name} of group {group!r} in {precision} is {costs.groups[group][precision]}: a cost "
                    f"is a finite number and not negative."
                )
    for (writer, reader), cost in chain(costs.conversions.items(), *(typed.items() for typed in costs.typed.values())):
        if not _is_amount(cost):
            raise SpecError(
                f"The {costs.name} of a conversion from {writer!r} to {reader!r} is {cost}: a cost is a finite number "
                f"and not negative."
            )


def _is_amount(value: float) -> bool:
    return isfinite(value) and value >= 0


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
