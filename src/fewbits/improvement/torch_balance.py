"""Channels balanced: a network that computes the same, with the least error expected of its grids.

A grid has one step for all channels of a tensor, so that channels of a small range get few codes. With a factor s_c for
each channel, taken back by the layers that read it, outputs stay, and the expected squared error of the outputs is

    sum over grids of step(s)^2 / 12 sum_c g_c / s_c^2                             rounded activations
  + sum over layers and their outputs o of step_o(s)^2 / 12 g_o / s_o^2 sum_i K p_i s_i^2     rounded weights

with g the squared gradients of the outputs, p the variances of what layers read, and K the taps of a weight; what
rounded weights do to means is taken back by biases. The factors that give the least are found by descent on their
logarithms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fewbits.improvement.torch_channels import FIXED, Channels, ScaledLayer, find_channels
from fewbits.improvement.torch_rescale import Values, rescale, sharing
from fewbits.improvement.torch_seen import Seen
from fewbits.improvement.torch_walk import Start
from fewbits.runtime.torch_graph import Tensors, TorchGraph
from fewbits.spec.dtypes import Granularity, PerBlock, PerTensor
from fewbits.spec.plan import Plan

_ITERATIONS, _RATE = 150, 0.06
_MOST = 16.0  # factor of a channel
_WORTH = 0.95  # share of the expected error above which the network stays as it is
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """A network in other channel sizes.

    Attributes:
        start: the same network, with its grids; the very one that was given where little is to be gained.
        before, after: error of the outputs that the formula above expects, in units of their power.
        declined: node of a layer that keeps its weight -> the reason.
    """

    start: Start
    before: float
    after: float
    declined: Mapping[str, str]


def look(
    start: Start,
    batches: Iterable[Tensors],
    powers: Mapping[str, float | torch.Tensor | None],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> Seen:
    """Return what the channels of the float model of `start` are like.

    Args:
        start: models and grids.
        batches: what ranges and gradients are taken from.
        powers: output of the model -> power that its error is relative to, or one for each of its elements; None where
            its error does not count.
        device: where torch computes.
        seed: of the projections of gradients.
    """
    graph, generator = TorchGraph(start.reference).to(device), torch.Generator().manual_seed(seed)
    seen = Seen()
    for batch in batches:
        seen.add(graph, batch, {name: power for name, power in powers.items() if power is not None}, generator)
    return seen


def balance(start: Start, seen: Seen, outputs: Iterable[str], *, weights: float = 1.0) -> Balanced:
    """Return the models of `start` with balanced channels.

    Args:
        start: left as it is; the biases of its current model make up for what its rounded weights do to means.
        seen: what the channels of its float model are like.
        outputs: of the model.
        weights: share of the error expected of rounded weights that counts.
    """
    graph = TorchGraph(start.reference)
    channels = find_channels(graph, seen.shapes, _kept(start.plan, outputs))
    terms: list[_Term] = []
    if channels.count > 1 and seen.gradient:
        terms += [*_grid_terms(start.plan, channels, seen), *_weight_terms(graph, start.plan, channels, seen, weights)]
    factors, before, after = _least(terms, channels.count) if terms else (np.ones(channels.count), 0.0, 0.0)
    if not after < _WORTH * before:
        nodes = [layer.node for layer in channels.layers if layer.node not in channels.declined]
        why = f"the error expected of the outputs would not fall by {1 - _WORTH:.0%}"
        return Balanced(start, before, before, {**dict.fromkeys(nodes, why), **channels.declined})
    extremes = (seen.low, seen.high, seen.mean)
    values = {name: Values(*(of[name].numpy() for of in extremes)) for name in channels.classes}
    return Balanced(rescale(start, channels, values, factors), before, after, channels.declined)


def _kept(plan: Plan, outputs: Iterable[str]) -> dict[str, str]:
    """Return the tensors whose channels keep their size, and why."""
    fixed = [grid.tensor for grid in plan.grids.values() if grid.fixed_range is not None]
    kept = {name: f"the operator that writes {name!r} fixes its range" for name in fixed}
    return kept | {name: f"{name!r} is an output of the model" for name in outputs}


@dataclass(frozen=True, slots=True, eq=False)
class _GridTerm:
    """A grid of activations.

    Attributes:
        members: classes of all channels that share it.
        low, high: their extremes.
        rounded: classes of the channels that are rounded on it.
        gradient: squared gradients at these.
        steps: highest less lowest code.
        is_symmetric: whether it reaches as far below zero as above.
    """

    members: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    rounded: torch.Tensor
    gradient: torch.Tensor
    steps: int
    is_symmetric: bool

    def error(self, factors: torch.Tensor) -> torch.Tensor:
        s = factors[self.members]
        low, high = (self.low * s).min(), (self.high * s).max()
        width = 2 * torch.maximum(-low, high) if self.is_symmetric else high - low
        return (width / self.steps).square() / 12 * (self.gradient / factors[self.rounded].square()).sum()


@dataclass(frozen=True, slots=True, eq=False)
class _WeightTerm:
    """The weight of a layer.

    Attributes:
        tops: largest magnitudes over the taps, [O, I].
        inputs: classes of what its elements are multiplied by, [O, I].
        outputs: classes of its outputs, [O].
        variance: of what its elements are multiplied by, times the taps, [O, I].
        gradient: squared gradients at its outputs, [O].
        steps: highest less lowest code.
        is_per_tensor: whether all outputs share one scale.
        block: inputs that share a scale; all of an output's where they have no blocks.
    """

    tops: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor
    variance: torch.Tensor
    gradient: torch.Tensor
    steps: int
    is_per_tensor: bool
    block: int

    def error(self, factors: torch.Tensor) -> torch.Tensor:
        s_in, s_out = factors[self.inputs], factors[self.outputs][:, None]
        tops = torch.stack([part.amax(1) for part in torch.split(self.tops / s_in, self.block, 1)], 1) * s_out
        tops = tops.max().expand_as(tops) if self.is_per_tensor else tops
        power = torch.stack([part.sum(1) for part in torch.split(self.variance * s_in.square(), self.block, 1)], 1)
        return ((2 * tops / self.steps).square() / 12 * power * self.gradient[:, None] / s_out.square()).sum()


_Term = _GridTerm | _WeightTerm


def _grid_terms(plan: Plan, channels: Channels, seen: Seen) -> list[_GridTerm]:
    found = []
    for key, members in sharing(plan).items():
        grid, names = plan.grids[key], [name for name in members if name in channels.classes]
        if grid.tensor not in channels.classes:
            continue
        classes = torch.cat([torch.from_numpy(channels.classes[name]) for name in names])
        low, high = (torch.cat([part[name] for name in names]) for part in (seen.low, seen.high))
        rounded, gradient = torch.from_numpy(channels.classes[grid.tensor]), seen.gradient[grid.tensor]
        steps = grid.spec.qmax - grid.spec.qmin
        found.append(_GridTerm(classes, low, high, rounded, gradient, steps, grid.spec.is_symmetric))
    return found


def _weight_terms(graph: TorchGraph, plan: Plan, channels: Channels, seen: Seen, share: float) -> list[_WeightTerm]:
    found = []
    for layer in channels.layers:
        key, value = plan.inputs.get((layer.node, 1)), graph.known(layer.weight)
        if key is None:
            continue
        assert value is not None
        rows = layer.rows(value.detach().double().cpu())
        spec, inputs = plan.grids[key].spec, torch.from_numpy(channels.classes[layer.source])
        index = torch.from_numpy(layer.read_by(rows.shape[0], rows.shape[1], len(inputs)))
        variance = seen.square[layer.source] - seen.mean[layer.source].square()
        taps = rows.reshape(rows.shape[0], rows.shape[1], -1)
        found.append(
            _WeightTerm(
                taps.abs().amax(2), inputs[index], torch.from_numpy(channels.classes[layer.result]),
                variance[index] * taps.shape[2], share * seen.gradient[layer.result], spec.qmax - spec.qmin,
                isinstance(spec.granularity, PerTensor), _block(layer, spec.granularity, rows.shape[1]),
            )
        )  # fmt: skip
    return found


def _block(layer: ScaledLayer, granularity: Granularity, inputs: int) -> int:
    """Return how many of the inputs of a layer share a scale of its weight; blocks along others are not looked at."""
    is_of_inputs = isinstance(granularity, PerBlock) and granularity.axis == (0 if layer.is_turned else 1)
    return granularity.size if is_of_inputs else inputs  # type: ignore[union-attr]


def _least(terms: Sequence[_Term], count: int) -> tuple[F64, float, float]:
    """Return the factor of every class, and the expected error before and after."""
    logs = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    free = torch.ones(count, dtype=torch.float64)
    free[FIXED] = 0
    optimizer = torch.optim.Adam([logs], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _ITERATIONS)
    first, least, best = 0.0, np.inf, np.ones(count)
    for i in range(_ITERATIONS + 1):
        factors = (logs * free).clamp(-np.log(_MOST), np.log(_MOST)).exp()
        error = torch.stack([term.error(factors) for term in terms]).sum()
        now = error.item()
        first = first if i else now
        if now < least:
            least, best = now, factors.detach().numpy().copy()
        optimizer.zero_grad()
        error.log().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return best, first, least
