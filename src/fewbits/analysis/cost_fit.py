"""Fit what conversions cost to what whole models cost.

    minimize    sum over samples  ((fixed + sum over groups group[g, p]
                                          + sum over terms and types  c[term, types] term[types, pairs]) / cost - 1)^2
                + (ridge |column| (c - expected))^2 of each term,      c >= 0

where a column is what a term adds to all samples at c = 1, relative to their costs. Groups keep their costs. The ridge
also splits what samples cannot tell apart: along a chain of layers there is a way back for nearly every way there, and
only their sum shows. Solved by scipy's non-negative least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fewbits.analysis.costs import Costs, Pair, activation_type

F64 = npt.NDArray[np.float64]
Typed = Mapping[Pair, Mapping[Pair, float]]
"""(type written, type read) -> (writer group, reader group) -> cost."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a whole model costs.

    Attributes:
        profile: group -> precision.
        cost: of the model, above 0.
    """

    profile: Mapping[str, str]
    cost: float


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One way in which the costs of conversions grow; each pair of types has a factor of its own.

    Attributes:
        values: of every conversion, for every pair of types.
        expected: what the factors are where no sample says otherwise.
        ridge: how hard they are pulled there; 1 weighs as much as all samples.
    """

    values: Typed
    expected: float
    ridge: float


def with_conversions(costs: Costs, terms: Sequence[Term], samples: Sequence[Sample]) -> Costs:
    """Return costs whose conversions explain the samples best.

    Args:
        costs: of the groups; its own conversions do not matter.
        terms: what conversions are made of, over the same pairs of groups and types.
        samples: of mixed profiles; none leaves the factors at what is expected.
    """
    factors = _factors(costs, terms, samples)
    typed: dict[Pair, dict[Pair, float]] = {}
    for (index, types), factor in factors.items():
        found = typed.setdefault(types, {})
        for pair, value in terms[index].values[types].items():
            found[pair] = found.get(pair, 0.0) + factor * value
    pairs = next(iter(typed.values()), {})
    mean = {pair: sum(values[pair] for values in typed.values()) / len(typed) for pair in pairs}
    return replace(costs, conversions=mean, typed=typed)


def _factors(costs: Costs, terms: Sequence[Term], samples: Sequence[Sample]) -> dict[tuple[int, Pair], float]:
    """Return (position of the term, types) -> factor."""
    keys = [(index, types) for index, term in enumerate(terms) for types in term.values]
    if not keys:
        return {}
    from scipy.optimize import nnls  # half a second to import

    cost = np.array([sample.cost for sample in samples])
    without = replace(costs, conversions={}, typed={})
    left = 1.0 - np.array([without.total(sample.profile) for sample in samples]) / cost
    columns = np.array(
        [[_amount(terms[index].values[types], types, s.profile) for index, types in keys] for s in samples]
    )
    columns = columns.reshape(len(samples), len(keys)) / cost[:, None]
    size = np.sqrt((columns**2).sum(axis=0))
    pull = np.array([terms[index].ridge for index, _ in keys]) * np.where(size > 0, size, 1.0)
    expected = np.array([terms[index].expected for index, _ in keys])
    found, _ = nnls(np.vstack([columns, np.diag(pull)]), np.concatenate([left, pull * expected]), maxiter=1000)
    return dict(zip(keys, map(float, found), strict=True))


def _amount(values: Mapping[Pair, float], types: Pair, profile: Mapping[str, str]) -> float:
    """Return what the conversions between two types add up to in a profile."""
    kinds = {group: activation_type(precision) for group, precision in profile.items()}
    return sum(value for (w, r), value in values.items() if (kinds.get(w), kinds.get(r)) == types)
