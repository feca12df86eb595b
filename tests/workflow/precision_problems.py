"""Random problems of choosing precisions, and their answers by trying everything."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from fewbits.analysis.costs import Costs
from fewbits.analysis.sensitivity import Noise
from fewbits.workflow.precision_problem import Assignment, Problem, ShareLimit, predicted_error

PRECISIONS = ("w8a8", "w8a16", "w4a8", "fp16")
_WEIGHTS = {"w8a8": 1.0, "w8a16": 1.0, "w4a8": 200.0, "fp16": 0.003}
_GRIDS = {"w8a8": 1.0, "w8a16": 1.5e-5, "w4a8": 1.3, "fp16": 1e-3}
_BITS = {"w8a8": 64, "w8a16": 128, "w4a8": 32, "fp16": 256}


def costs_of(groups, conversions=None, fixed=0.0, typed=None):
    return Costs("bitops", "bit operations", groups, conversions or {}, fixed, is_estimate=False, typed=typed or {})


def drawn(seed, size=6, *, precisions=PRECISIONS, wild=1.0, lacking=0.15, limits=(), allowed=None):
    """A chain with random branches, over `wild` powers of ten in error and cost; some groups lack some precisions."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(size)]
    often = min(0.2, 1.2 / size)
    pairs = [(w, r) for i, r in enumerate(names) for j, w in enumerate(names[:i]) if i == j + 1 or rng.random() < often]
    sizes = dict(zip(names, 10 ** rng.uniform(-wild, 0, size), strict=True))
    shares = {pair: float(rng.uniform(0.3, 1)) for pair in pairs}
    weights = {name: float(sizes[name] * 10 ** rng.uniform(-2, 0)) for name in names}
    noise = {
        p: Noise(
            {name: weights[name] * _WEIGHTS[p] for name in names},
            {name: float(sizes[name]) * _GRIDS[p] for name in names if name != "g1"},  # what is absent is 0
            {("", "g0"): float(sizes["g0"]) * _GRIDS[p]} | {e: sizes[e[0]] * s * _GRIDS[p] for e, s in shares.items()},
        )
        for p in precisions
    }
    macs = dict(zip(names, 10 ** rng.uniform(6 - wild, 6, size), strict=True))
    groups = {
        name: {p: float(macs[name]) * _BITS[p] for p in precisions if p == "w8a8" or rng.random() > lacking}
        for name in names
    }
    conversions = {pair: float(macs[pair[0]] * rng.uniform(0, 40)) for pair in pairs if rng.random() < 0.7}
    conversions["", "g0"] = 1e9  # from outside: never charged
    typed = {("uint16", "uint8"): {pair: 3 * cost for pair, cost in conversions.items()}} if seed % 2 else {}
    return Problem(noise, costs_of(groups, conversions, 1234.5, typed), allowed or {}, limits)


def everything(problem: Problem) -> Iterator[Assignment]:
    """Yield every assignment that the limits on shares allow."""
    candidates = problem.candidates
    for chosen in product(*candidates.values()):
        profile = dict(zip(candidates, chosen, strict=True))
        if all(_share(limit, profile) <= limit.most + 1e-9 for limit in problem.limits):
            error, cost = predicted_error(problem.noise, profile), problem.costs.total(profile)
            yield Assignment(profile, error, cost)


def _share(limit: ShareLimit, profile):
    taken = [group for group, precision in profile.items() if precision == limit.precision]
    return len(taken) / len(profile) if limit.shares is None else sum(limit.shares[group] for group in taken)
