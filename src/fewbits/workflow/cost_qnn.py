"""Costs calibrated by Qualcomm's compiler, which says how long whole models take on a chip, and nothing of their parts.

The latency of each uniform precision is spread over its groups: half by multiply-accumulates x bits of both factors,
half by bytes of weights and activations. What conversions cost is fitted to a few mixed profiles, since they may cost
more than all groups together: a part for each, and one that grows with the tensor.
"""

import logging
from collections.abc import Mapping, Sequence

from fewbits.analysis.cost_counts import bit_operation_costs, byte_costs
from fewbits.analysis.cost_fit import Sample, Term, with_conversions
from fewbits.analysis.cost_layout import Layout, conversions_of
from fewbits.analysis.cost_probes import probe_profiles
from fewbits.analysis.costs import Costs, activation_type
from fewbits.artifact.folder import sha256, temporary_folder
from fewbits.deployment.qnn import need_qnn
from fewbits.errors import ModelError, SpecError
from fewbits.graph.save import save_model
from fewbits.reporting.record import versions
from fewbits.runtime.progress import Progress
from fewbits.runtime.store import key_of
from fewbits.spec.soc import Soc, find_soc
from fewbits.workflow.compile import dims_of, estimate
from fewbits.workflow.cost_context import CostContext

logger = logging.getLogger(__name__)

PROBES = 8
"""Mixed profiles to estimate for every two activation types: about a second each."""
_LARGE = 100_000  # elements: the estimates of conversions grow no further
_RIDGE = 0.1


def qnn_costs(context: CostContext, precisions: Sequence[str], soc: str) -> Costs:
    """Return microseconds per sample as the compiler's estimates of whole models imply them.

    The total of a uniform profile is the compiler's estimate of it; that of another profile is a prediction.

    Args:
        context: the network, and the store that remembers estimates.
        precisions: the candidates.
        soc: name or number of a chip that has estimates, such as soc77.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        SpecError: the chip is unknown or has no estimates, a precision cannot be, or a shape is not known.
        ModelError: the compiler does not take the network in one of the precisions, or has no cost for an operator.
    """
    chip = find_soc(soc)
    need_qnn()
    layout, estimates = context.layout(precisions), _Estimates(context, chip)
    with context.stages.stage(f"estimate on {chip.name}", len(layout.plans)) as told:
        groups = _spread(layout, estimates, told)
    name = f"qnn-estimate:{chip.name}"
    costs = Costs(name, "us", groups, {}, fixed=0.0, is_estimate=True, whole=estimates.get)
    probes = list(probe_profiles(layout, PROBES))
    if not probes:
        return costs
    with context.stages.stage(f"estimate mixed profiles on {chip.name}", len(probes)) as told:
        samples = []
        for profile in probes:
            latency = estimates.get(profile)
            samples += [] if latency is None else [Sample(profile, latency)]
            told.advance(1)
    _warn_of_free(probes, samples)
    counted = conversions_of(layout, lambda _sizes, _written, _read: 1.0)[1]
    sized = conversions_of(layout, lambda sizes, _written, _read: min(sum(sizes) / _LARGE, 1.0))[1]
    return with_conversions(costs, [Term(values, 0.0, _RIDGE) for values in (counted, sized)], samples)


def _warn_of_free(probes: Sequence[Mapping[str, str]], samples: Sequence[Sample]) -> None:
    """Say which types meet in no profile that has an estimate: nothing tells what their conversions cost."""
    seen = {_types(sample.profile) for sample in samples}
    for types in dict.fromkeys(_types(profile) for profile in probes):
        if types not in seen:
            logger.warning(
                "The compiler has no estimate of any profile that mixes %s: changes between them are taken to be free.",
                " and ".join(types),
            )


def _types(profile: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({activation_type(precision) for precision in profile.values()}))


class _Estimates:
    """Latencies of whole models, remembered by their content."""

    def __init__(self, context: CostContext, chip: Soc) -> None:
        self._context, self._chip = context, chip

    def get(self, profile: Mapping[str, str]) -> float | None:
        """Return microseconds; None where the compiler has no estimate for a profile."""
        try:
            return self.need(profile)
        except ModelError:
            return None

    def need(self, profile: Mapping[str, str]) -> float:
        """Return microseconds.

        Raises:
            ModelError: the compiler has no estimate.
        """
        made = self._context.make(profile)
        with temporary_folder() as folder:
            path = folder / "model.onnx"
            save_model(made.model, path)
            dims = dims_of(path, self._context.feeds)
            content = [sha256(file) for file in sorted(folder.iterdir())]
            key = key_of("qnn-estimate", content, self._chip.id, dims, versions())
            chip = self._chip.name
            return float(
                self._context.store.remember(key, lambda: estimate(path, soc=chip, dims=dims).estimate.latency_us)
            )


def _spread(layout: Layout, estimates: _Estimates, told: Progress) -> dict[str, dict[str, float]]:
    """Return group -> precision -> its part of the latency of the network that is in one precision as a whole.

    Groups that cannot have a precision take one that all groups have, and what they cost in that is taken off.
    """
    names, groups = tuple(layout.plans), layout.groups
    whole = [name for name in names if all(name in layout.precisions(group) for group in groups)]
    if not whole:
        raise SpecError(f"Every group must be able to run in one of {', '.join(names)}: add a precision such as w8a16.")
    shares, found = _shares(layout), {group.name: dict[str, float]() for group in groups}
    for name in (*whole, *(name for name in names if name not in whole)):
        profile = {group.name: name if name in layout.precisions(group) else whole[0] for group in groups}
        try:
            latency = estimates.need(profile)
        except ModelError as error:
            raise ModelError(
                f"There is no estimate of the network in {name}: {error} Leave it out, or choose another cost."
            ) from error
        left = latency - sum(found[group][other] for group, other in profile.items() if other != name)
        for group, share in shares[name].items():
            found[group][name] = max(left, 0.0) * share
        told.advance(1)
    return found


def _shares(layout: Layout) -> dict[str, dict[str, float]]:
    """Return precision -> group -> its share of the work, over the groups that can have the precision."""
    counted = [bit_operation_costs(layout).groups, byte_costs(layout).groups]
    found: dict[str, dict[str, float]] = {}
    for name in layout.plans:
        of = [{group: costs[name] for group, costs in counts.items() if name in costs} for counts in counted]
        of = [costs for costs in of if sum(costs.values()) > 0]
        found[name] = {g: sum(costs[g] / sum(costs.values()) for costs in of) / len(of) for g in (of[0] if of else ())}
    return found
