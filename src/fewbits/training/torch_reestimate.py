"""Channel statistics re-estimated: what re-estimating normalizations does where they are folded into layers.

    a = std_float / std,  w <- a w,  s_w <- a s_w,  b <- a (b - mean) + mean_float

per output channel, with mean and std of what the layer gives on the data. Weights and scales grow alike, so that every
weight keeps its code.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fewbits.errors import DataError, SpecError
from fewbits.runtime.torch_graph import Step, TorchGraph, channels_last
from fewbits.runtime.torch_quantize import QuantizedGraph
from fewbits.spec.dtypes import PerChannel
from fewbits.spec.plan import Role
from fewbits.training.torch_lsq import LearnedQuantizer
from fewbits.training.torch_segments import reads_of, run_step

_MOST = 4.0  # factor of a channel: one that is further off was not moved by rounding
_DEAD = 1e-6  # share of the largest standard deviation of a layer, below which a channel says nothing of its size
_OPERATORS = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True)
class Reestimated:
    """What re-estimation did.

    Attributes:
        changed: node -> root mean square over its channels of the change of their means, as a share of the standard
            deviation in the float network.
        declined: node -> why it stays as it is.
    """

    changed: Mapping[str, float]
    declined: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Site:
    """A layer whose rows can be scaled: its weight, the quantizer of that, and its bias."""

    weight: torch.Tensor
    quantizer: LearnedQuantizer
    bias: torch.Tensor


@dataclass(slots=True)
class _Moments:
    """Sums of a layer's outputs per channel (axis 1)."""

    count: int = 0
    first: Any = 0.0
    second: Any = 0.0

    def add(self, value: torch.Tensor) -> None:
        axes = [axis for axis in range(value.ndim) if axis != 1]
        wide = value.detach().double()
        self.count += value.numel() // value.shape[1]
        self.first, self.second = self.first + wide.sum(axes), self.second + wide.square().sum(axes)

    def mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.first / self.count
        return mean, (self.second / self.count - mean.square()).clamp_(min=0).sqrt_()


@dataclass(frozen=True, slots=True)
class _Watch:
    """A hook that looks at what the named nodes give, before any grid."""

    names: frozenset[str]
    found: dict[str, _Moments] = field(default_factory=dict)

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        return value

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        if step.name in self.names and outputs[0] is not None:
            self.found.setdefault(step.name, _Moments()).add(outputs[0])
        return outputs


class _Raw:
    """A hook with the quantized inputs of a node, and its outputs before their grid."""

    def __init__(self, student: QuantizedGraph) -> None:
        self.read = student.read

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        return outputs


@torch.no_grad()
def reestimate(student: QuantizedGraph, batches: Iterable[Any], reference: TorchGraph) -> Reestimated:
    """Give the layers of a quantized network the channel means and standard deviations of a float one.

    Layers take their turn in the order of execution, each on what the layers before it give after their turn. The
    values of all batches that later nodes read are held in memory.

    Args:
        student: its grids are learned; changed in place; back in its own mode afterwards.
        batches: what `student` is called with: a tensor, a tuple of them, or a dict by input name; arrays will do.
        reference: the float network, with the same nodes.

    Raises:
        DataError: there are no batches, or one of them cannot be used.
        SpecError: the float network lacks a node.
    """
    sites, declined = _sites(student)
    lacking = sorted(sites.keys() - {step.name for step in reference.steps})
    if lacking:
        raise SpecError(f"The reference has no node {lacking[0]!r}: give the float network that this one was made of.")
    held = [_feeds(student, batch) for batch in batches]
    if not held:
        raise DataError("There are no batches to re-estimate statistics on: give some of the calibration data.")
    watch = _Watch(frozenset(sites))
    for feeds in held:
        reference(feeds, watch)
    was_training, changed = student.training, {}
    student.eval()
    try:
        for step in student.graph.steps:
            if step.name in sites:
                changed[step.name] = _turn(student, step, held, sites[step.name], watch.found[step.name])
            for values in held:
                run_step(student.graph, step, values, student)
    finally:
        student.train(was_training)
    return Reestimated(changed, declined)


def _turn(
    student: QuantizedGraph, step: Step, held: list[dict[str, torch.Tensor]], site: _Site, wanted: _Moments
) -> float:
    """Give one layer the statistics of the float one; return how far its means were off."""
    now, raw = _Moments(), _Raw(student)
    for values in held:
        (value,) = student.graph.compute(step, reads_of(student.graph, step, values), raw)
        assert value is not None
        now.add(value)
    (mean, std), (mean_wanted, std_wanted) = now.mean_and_std(), wanted.mean_and_std()
    lives = (std > _DEAD * std.max()) & (std_wanted > _DEAD * std_wanted.max())
    factor = torch.where(lives, (std_wanted / std).clamp(1 / _MOST, _MOST), 1.0)
    factor = _scale_rows(site, factor)
    bias = site.bias.reshape(-1).double()
    site.bias.copy_((factor * (bias - mean) + mean_wanted).reshape(site.bias.shape))
    off = (mean - mean_wanted)[lives] / std_wanted[lives]
    return float(off.square().mean().sqrt()) if len(off) else 0.0


def _scale_rows(site: _Site, factor: torch.Tensor) -> torch.Tensor:
    """Scale rows of a weight and their grid alike; return the factors as the grid took them."""
    quantizer, weight = site.quantizer, site.weight
    assert quantizer.ratio is not None
    before = quantizer.scale.clone()
    codes = (quantizer(weight) / before).round()
    quantizer.ratio.mul_(factor.reshape(before.shape).to(before.dtype))
    after = quantizer.scale
    taken = after.double() / before.double()
    weight.copy_((weight.double() * taken).to(weight.dtype))
    moved = (quantizer(weight) / after).round() != codes  # those that lay on the border between two codes
    weight.copy_(torch.where(moved, codes * after, weight))
    return taken.reshape(-1)


def _sites(student: QuantizedGraph) -> tuple[dict[str, _Site], dict[str, str]]:
    """Return the layers whose rows can be scaled, by node, and why others cannot."""
    graph, plan = student.graph, student.plan
    trained = {name: value for name, value in graph.named_values() if value.requires_grad}
    readers = Counter(name for step in graph.steps for name in step.reads if name)
    users = Counter(id(student.quantizer(key)) for key in plan.grids)
    sites, declined = {}, {}
    for step in graph.steps:
        key = plan.inputs.get((step.name, 1)) if step.call.op in _OPERATORS else None
        if key is None or plan.grids[key].role is not Role.WEIGHT:
            continue
        quantizer, (weight, bias) = student.quantizer(key), (step.reads[1], (*step.reads, "")[2])
        assert isinstance(quantizer, LearnedQuantizer)
        if not isinstance(quantizer.spec.granularity, PerChannel):
            declined[step.name] = "its weight has one scale"
        elif quantizer.ratio is None or users[id(quantizer)] > 1:
            declined[step.name] = "the grid of its weight is kept fixed, or shared"
        elif bias not in trained or trained[bias].numel() != quantizer.scale.numel():
            declined[step.name] = "it has no constant bias with one value per channel"
        elif readers[weight] > 1 or readers[bias] > 1:
            declined[step.name] = "its weight or bias is read by another node, too"
        elif step.call.op == "Gemm" and (
            step.call.attributes.get("alpha", 1.0),
            step.call.attributes.get("beta", 1.0),
        ) != (1.0, 1.0):
            declined[step.name] = "its alpha or beta is not 1"
        else:
            sites[step.name] = _Site(trained[weight], quantizer, trained[bias])
    return sites, declined


def _feeds(student: QuantizedGraph, batch: Any) -> dict[str, torch.Tensor]:
    names = student.graph.input_names
    if isinstance(batch, torch.Tensor | np.ndarray):
        batch = (batch,)
    if not isinstance(batch, Mapping):
        if len(batch) != len(names):
            raise DataError(
                f"The model reads {len(names)} inputs ({', '.join(names)}), and a batch has {len(batch)}: give batches "
                f"without labels."
            )
        batch = dict(zip(names, batch, strict=True))
    lacking = [name for name in names if name not in batch]
    if lacking:
        raise DataError(f"A batch lacks the input {lacking[0]!r}: the model reads {', '.join(names)}.")
    return {name: channels_last(torch.as_tensor(batch[name]).to(student.graph.device)) for name in names}
