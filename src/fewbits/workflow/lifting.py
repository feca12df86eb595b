"""Which groups to lift to a higher precision, one by one or together, and how many a percentage is."""

import math
from collections.abc import Mapping, Sequence

from fewbits.analysis.sensitivity import Noise, Sensitivity
from fewbits.errors import SpecError
from fewbits.graph.inspect import inspect_graph
from fewbits.quantization.groups import Group
from fewbits.spec.plan import Plan
from fewbits.spec.precision import Precision
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.lift_together import least_noise


def lifting_order(plan: Plan, sensitivity: Sensitivity, base: str, high: str) -> tuple[Group, ...]:
    """Return the groups in the order in which lifting them pays: by the error that each causes less, alone, in `high`.

    Args:
        plan: of the network in `base`; groups of which no node runs in it (float16 would overflow there) are left out.
        sensitivity: of the network's groups in both precisions.
        base: precision that groups are lifted from.
        high: precision that they are lifted to.

    Raises:
        SpecError: the sensitivity is of another network, or lacks a precision.
    """
    unknown = [node for group in sensitivity.groups for node in group.nodes if node not in plan.nodes]
    if unknown:
        raise SpecError(f"The sensitivity is of another network: this one has no node {unknown[0]!r}. Measure it anew.")
    lowest = Precision.parse(base)
    groups = [g for g in sensitivity.groups if any(plan.nodes[node].precision == lowest for node in g.nodes)]
    gains = {g.name: _gain(sensitivity.error(g.name, base), sensitivity.error(g.name, high)) for g in groups}
    return tuple(sorted(groups, key=lambda group: -gains[group.name]))


def _gain(before: float, after: float) -> float:
    return before if math.isinf(before) else before - after


def lifted(
    order: Sequence[Group], percent: float, *, shares: Mapping[str, float] | None = None, most_macs: float | None = None
) -> tuple[Group, ...]:
    """Return the first groups of an order: `percent` of them, rounded up, up to a share of the multiply-accumulates.

    Args:
        order: the most sensitive first.
        percent: of the groups, above 0 and up to 100.
        shares: group name -> share of the network's multiply-accumulates, see `mac_shares`.
        most_macs: percent of the multiply-accumulates at which to stop; the group that would exceed it stays out.

    Raises:
        SpecError: there is a limit, and the shares are not known.
    """
    groups = tuple(order[: _count(order, percent)])
    _check_shares(shares, most_macs)
    if most_macs is None or shares is None:
        return groups
    total = 0.0
    for count, group in enumerate(groups):
        total += shares[group.name]
        if 100 * total > most_macs + 1e-9:
            return groups[:count]
    return groups


def lifted_together(
    order: Sequence[Group],
    noise: tuple[Noise, Noise],
    percent: float,
    *,
    shares: Mapping[str, float] | None = None,
    most_macs: float | None = None,
) -> tuple[Group, ...]:
    """Return the groups that leave the least noise when they are lifted together, in the order given.

    Args:
        order: groups that may be lifted.
        noise: of the precision that they are lifted from, and of that which they are lifted to.
        percent: of the groups, above 0 and up to 100, rounded up.
        shares: group name -> share of the network's multiply-accumulates, see `mac_shares`.
        most_macs: percent of the multiply-accumulates at most.

    Raises:
        SpecError: there is a limit, and the shares are not known; or no answer is found.
    """
    _check_shares(shares, most_macs)
    limit = None if most_macs is None else most_macs / 100
    names = [group.name for group in order]
    chosen = set(least_noise(*noise, names, _count(order, percent), shares=shares, limit=limit))
    return tuple(group for group in order if group.name in chosen)


def _count(order: Sequence[Group], percent: float) -> int:
    return math.ceil(len(order) * percent / 100 - 1e-9)


def _check_shares(shares: Mapping[str, float] | None, most_macs: float | None) -> None:
    if most_macs is not None and shares is None:
        raise SpecError(
            "The share of multiply-accumulates cannot be limited, since shapes of the network are not known: fix open "
            "dimensions with --dim, or leave --most-macs out."
        )


def mac_shares(calibration: Calibration, groups: Sequence[Group], sizes: Mapping[str, int]) -> dict[str, float] | None:
    """Return group name -> its share of the network's multiply-accumulates, 0 to 1; None where shapes are not known.

    Args:
        calibration: of the float model.
        groups: of it.
        sizes: open dimension -> size, see `sizes_of`.
    """
    summary = inspect_graph(calibration.model, sizes)
    total = summary.total_macs
    if total is None:
        return None
    macs = {row.name: row.macs or 0 for row in summary.macs}
    return {group.name: sum(macs.get(n, 0) for n in group.nodes) / max(total, 1) for group in groups}
