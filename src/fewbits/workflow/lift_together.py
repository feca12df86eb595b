"""Which groups to lift together: the set that leaves the least noise, found exactly.

A group computes, reads and writes in one precision. A tensor that passes between two groups keeps the higher precision
where both are lifted, and only there: groups pay together, not one by one. This is the choice of precisions (see
`noise_program`) with two to choose from, a count of lifted groups for a cost, and what the grids of both precisions add
alike left out of what is lost where a lifted group is read by one that is not.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError
from fewbits.workflow.integer_program import Effort, Limit, minimize
from fewbits.workflow.noise_program import NoiseProgram, Passing, noise_program

logger = logging.getLogger(__name__)

_EFFORT = Effort()
_BASE, _HIGH = "base", "high"
_PASSING = Passing(kind=str, hands_over=lambda written, read: written in (read, _BASE))


def least_noise(
    base: Noise,
    high: Noise,
    names: Sequence[str],
    count: int,
    *,
    shares: Mapping[str, float] | None = None,
    limit: float | None = None,
) -> tuple[str, ...]:
    """Return the names of at most `count` groups that leave the least noise when they are lifted together.

    Args:
        base: noise of the precision that groups are lifted from.
        high: noise of the precision that they are lifted to.
        names: of the groups that may be lifted.
        count: of groups, at most.
        shares: group -> its share of the multiply-accumulates, 0 to 1.
        limit: of the sum of the shares of lifted groups; None sets none.

    Raises:
        SpecError: the solver finds no answer, or the noise is not finite.
    """
    if not names:
        return ()
    noise = _between(base, high, set(names))
    _check_finite(noise.values())
    rest = dict.fromkeys(reader for _, reader in noise[_BASE].read if reader not in set(names))
    candidates = {**dict.fromkeys(names, (_BASE, _HIGH)), **dict.fromkeys(rest, (_BASE,))}
    space = noise_program(candidates, noise, _PASSING)
    nothing = space.chosen(dict.fromkeys(candidates, _BASE))
    found = minimize(space.program, space.error, [*_limits(space, count, shares, limit)], known=nothing, effort=_EFFORT)
    assert found is not None
    if found.gap:
        logger.warning(
            "The search for the groups to lift was stopped after %g s: another set may leave up to %.2g %% less noise.",
            _EFFORT.time_limit_s, 100 * found.gap,
        )  # fmt: skip
    profile = space.profile(found.chosen)
    return tuple(name for name in names if profile[name] == _HIGH)


def _limits(
    space: NoiseProgram, count: int, shares: Mapping[str, float] | None, limit: float | None
) -> Iterator[Limit]:
    yield Limit(space.single(lambda _, precision: precision == _HIGH), count)
    if limit is not None and shares is not None:
        yield Limit(space.single(lambda group, precision: shares[group] if precision == _HIGH else 0.0), limit)


def _between(base: Noise, high: Noise, names: Collection[str]) -> dict[str, Noise]:
    """Return the noise that lifting `names` can change, less what both grids add where a tensor passes."""
    inputs = [{pair: e for pair, e in n.read.items() if not pair[0] and pair[1] in names} for n in (base, high)]
    lost = {pair: e - high.read.get(pair, 0.0) for pair, e in base.read.items() if pair[0] in names}
    positive = {pair: error for pair, error in lost.items() if not error <= 0}
    return {
        _BASE: Noise(_part(base.own, names), _part(base.written, names), {**inputs[0], **positive}),
        _HIGH: Noise(_part(high.own, names), _part(high.written, names), inputs[1]),
    }


def _check_finite(noise: Iterable[Noise]) -> None:
    values = [value for found in noise for part in (found.own, found.written, found.read) for value in part.values()]
    if not np.isfinite(values).all():
        raise SpecError("The noise of some groups is not finite: rank by --ranking brute-force instead.")


def _part(errors: Mapping[str, float], names: Collection[str]) -> dict[str, float]:
    return {name: error for name, error in errors.items() if name in names}
