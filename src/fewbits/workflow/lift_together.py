"""Which groups to lift together: the set that leaves the least noise, found exactly.

A group computes, reads and writes in one precision. A tensor that passes between two groups keeps the higher
precision where both are lifted, and only there: groups pay together, not one by one.

    minimize    sum over groups   own[g] (1 - x[g]) + written[g] (1 - x[g])
              + sum over pairs    read[w, r] z[w, r],      z[w, r] >= x[w] - x[r],  z >= 0
    subject to  sum x <= count,   sum share[g] x[g] <= limit

where x[g] is 1 if g is lifted, and own, written and read are what lifting takes off the error of the output (see
`Noise`). Solved by scipy's interface to HiGHS.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.analysis.sensitivity import Noise
from fewbits.errors import SpecError

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

F64 = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

_TIME_LIMIT_S = 20.0
_CUT_SHORT = 1  # scipy.optimize.milp's status where the time ran out
_GAP = 1e-3
"""Relative; the noise itself is known to about a tenth."""


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
    from scipy.optimize import Bounds, milp  # half a second to import

    index = {name: i for i, name in enumerate(names)}
    gains, pairs = _gains(base, high, index), _pairs(base, high, index)
    cost = np.concatenate([-gains, [error for _, _, error in pairs]])
    if not np.isfinite(cost).all():
        raise SpecError("The noise of some groups is not finite: rank by --ranking brute-force instead.")
    limits = [_at_most(count, np.ones(len(names)), len(cost))]
    if limit is not None and shares is not None:
        limits.append(_at_most(limit + 1e-12, np.array([shares[name] for name in names]), len(cost)))
    found = milp(
        cost / (np.abs(cost).max(initial=0.0) or 1.0),
        integrality=(np.arange(len(cost)) < len(names)).astype(int),
        bounds=Bounds(0.0, 1.0),
        constraints=[*limits, *_losses(pairs, len(names))],
        options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": _GAP},
    )
    if found.x is None:
        raise SpecError(f"No set of groups to lift was found ({found.message}): rank by --ranking brute-force instead.")
    if found.status == _CUT_SHORT:
        logger.warning(
            "The search for the groups to lift was stopped after %g s: another set may leave up to %.2g %% less noise.",
            _TIME_LIMIT_S, 100 * float(found.mip_gap or 0.0),
        )  # fmt: skip
    return tuple(name for name, chosen in zip(names, found.x[: len(names)], strict=True) if chosen > 0.5)


def left_noise(base: Noise, high: Noise, lifted: Sequence[str]) -> float:
    """Return the error of the output that is left when some groups are lifted: what `least_noise` minimizes."""
    chosen = set(lifted)
    total = 0.0
    for before, after in ((base.own, high.own), (base.written, high.written)):
        total += sum(after.get(name, 0.0) if name in chosen else error for name, error in before.items())
    for (writer, reader), error in base.read.items():
        if not writer or writer in chosen:
            total += high.read.get((writer, reader), 0.0) if reader in chosen else error
    return total


def _gains(base: Noise, high: Noise, index: Mapping[str, int]) -> F64:
    """Return what lifting each group wins whatever else is lifted."""
    gains = np.zeros(len(index))
    for before, after in ((base.own, high.own), (base.written, high.written)):
        for name, error in before.items():
            if name in index:
                gains[index[name]] += error - after.get(name, 0.0)
    for (writer, reader), error in base.read.items():
        if not writer and reader in index:
            gains[index[reader]] += error - high.read.get((writer, reader), 0.0)
    return gains


def _pairs(base: Noise, high: Noise, index: Mapping[str, int]) -> list[tuple[int, int | None, float]]:
    """Return (writer, reader, error): what is lost where the writer is lifted and the reader is not."""
    found = []
    for (writer, reader), error in base.read.items():
        loss = error - high.read.get((writer, reader), 0.0)
        if writer in index and writer != reader and loss > 0:
            found.append((index[writer], index.get(reader), loss))
    return found


def _at_most(limit: float, weights: F64, size: int) -> "LinearConstraint":
    """Return: weights . x <= limit."""
    from scipy.optimize import LinearConstraint

    row = np.zeros((1, size))
    row[0, : len(weights)] = weights
    return LinearConstraint(row, ub=limit)


def _losses(pairs: Sequence[tuple[int, int | None, float]], choices: int) -> "list[LinearConstraint]":
    """Return: x[writer] - x[reader] - z <= 0 for every pair."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import csr_array

    entries = []
    for row, (writer, reader, _) in enumerate(pairs):
        entries += [(row, writer, 1.0), (row, choices + row, -1.0)]
        entries += [] if reader is None else [(row, reader, -1.0)]
    if not entries:
        return []
    rows, columns, values = zip(*entries, strict=True)
    return [LinearConstraint(csr_array((values, (rows, columns)), shape=(len(pairs), choices + len(pairs))), ub=0.0)]
