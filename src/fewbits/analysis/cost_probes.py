"""Mixed profiles that show a cost model what changes of activation type cost: few, fixed, and of any density."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fewbits.analysis.cost_layout import Layout
from fewbits.analysis.costs import activation_type

_SHORTEST = 1.5  # groups of a block, on average
_LONGEST = 0.25  # of all groups


def probe_profiles(layout: Layout, count: int) -> Iterator[dict[str, str]]:
    """Yield profiles (group -> precision), `count` for every two activation types of the candidates.

    Two of them change type once, in the middle of the network and in either order; the others between blocks of random
    length, long ones first. A group that cannot have a type takes what it can have. The same network gives the same
    profiles.

    Args:
        layout: the network; the first candidate of each activation type stands for the type.
        count: at least 2.
    """
    first: dict[str, str] = {}
    for name in layout.plans:
        first.setdefault(activation_type(name), name)
    known = {group.name: layout.precisions(group) for group in layout.groups}
    for pair in combinations(first.values(), 2):
        for takes_second in _patterns(len(layout.groups), count):
            wanted = {group.name: pair[int(second)] for group, second in zip(layout.groups, takes_second, strict=True)}
            yield {
                name: precision if precision in known[name] else next(iter({*pair} & {*known[name]}), known[name][0])
                for name, precision in wanted.items()
                if known[name]
            }


def _patterns(groups: int, count: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield arrays [groups] that say which groups take the second type."""
    half = np.arange(groups) >= groups // 2
    yield half
    yield ~half
    for seed, length in enumerate(np.geomspace(max(_LONGEST * groups, _SHORTEST), _SHORTEST, count - 2)):
        rng = np.random.default_rng(seed)
        yield (np.cumsum(rng.random(groups) < 1 / length) + rng.integers(2)) % 2 == 1
