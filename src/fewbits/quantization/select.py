"""Stage select: choose between candidate ranges by what they do to the output of the network, in a few short runs.

Local error ranks candidates well for one tensor, but whether a tail matters only the output knows. So whole settings
are tried first, then one run of tensors after the other (in topological order) is switched to the runner-up and
kept there when the output error falls. Every trial is one pass of the quantized model over the same few samples.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from fewbits.numerics.ranges import Estimator, MinMax, Mse, Percentile
from fewbits.quantization.encode import Ranges
from fewbits.spec.plan import Plan, Role

CANDIDATES: tuple[Estimator, ...] = (Mse(), MinMax(), Percentile(99.95), Percentile(99.99), Percentile(99.999))
"""Settings tried on the whole network; the first is the one kept unless another is clearly better."""

_BLOCKS = 4
MOST_TRIALS = len(CANDIDATES) + _BLOCKS
"""Passes over the few samples that a choice may take."""
TRIAL_SAMPLES = 32
"""Samples that every trial runs on, at most."""
_GAIN = 0.01  # relative fall of the output error that counts as better


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen ranges and what was tried.

    Attributes:
        ranges: the choice.
        trials: (what was tried, relative output error), in order.
    """

    ranges: Ranges
    trials: tuple[tuple[str, float], ...]


def choose_ranges(
    plan: Plan, base: Ranges, measure: Callable[[Ranges], float], pinned: Collection[str] = ()
) -> Selection:
    """Return ranges with a small output error; grids of more than 8 bits keep the whole range that was observed.

    Args:
        plan: the plan to encode; only activations of 8 bits or fewer leave something to choose.
        base: settings that are not up for choice (weights, biases).
        measure: relative output error of the quantized model under given ranges; called at most MOST_TRIALS times.
        pinned: tensors whose encodings are fixed, so that nothing is to be chosen for them.
    """
    tensors = tuple(name for name in narrow_tensors(plan) if name not in pinned)
    base = replace(base, wide=MinMax())
    if not tensors:
        return Selection(replace(base, activations=CANDIDATES[0]), ())
    trials: list[tuple[str, float]] = []

    def attempt(name: str, ranges: Ranges) -> float:
        error = measure(ranges)
        trials.append((name, error))
        return error

    whole = [replace(base, activations=c) for c in CANDIDATES]
    errors = [attempt(str(c), r) for c, r in zip(CANDIDATES, whole, strict=True)]
    first, second = sorted(range(len(errors)), key=lambda i: errors[i] * (1 - _GAIN if i == 0 else 1))[:2]
    best, error, other = whole[first], errors[first], CANDIDATES[second]
    for block in _blocks(tensors):
        changed = replace(best, by_tensor={**best.by_tensor, **dict.fromkeys(block, other)})
        found = attempt(f"{other} on {len(block)} tensors from {block[0]!r}", changed)
        if found < error * (1 - _GAIN):
            best, error = changed, found
    return Selection(best, tuple(trials))


def narrow_tensors(plan: Plan) -> tuple[str, ...]:
    """Return the activations of at most 8 bits whose range is taken from statistics.

    Results of operators come first, in topological order, then what is fed in.
    """
    return tuple(
        grid.tensor
        for grid in plan.grids.values()
        if grid.role is Role.ACTIVATION and grid.spec.bits <= 8 and grid.shares is None and grid.fixed_range is None
    )


def _blocks(tensors: Sequence[str]) -> list[tuple[str, ...]]:
    size = -(-len(tensors) // _BLOCKS)
    return [tuple(tensors[i : i + size]) for i in range(0, len(tensors), size)]
