"""What the tensors of a float network are like, channel by channel: ranges, mean squares, gradients of the outputs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from fewbits.runtime.torch_graph import Step, Tensors, TorchGraph

_PROBES = 2  # per batch
Rows = dict[str, torch.Tensor]


def variances(network: Callable[[Tensors], Mapping[str, torch.Tensor]], batches: Iterable[Tensors]) -> dict[str, float]:
    """Return output -> its variance over all batches; without outputs that are constant or no real numbers.

    Args:
        network: returns outputs by name.
        batches: input name -> tensor, each.
    """
    sums: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in batches:
            for name, value in network(batch).items():
                if value.is_floating_point() and value.numel():
                    wide = value.double()
                    parts = torch.stack([wide.sum(), wide.pow(2).sum(), wide.new_tensor(value.numel())])
                    sums.setdefault(name, []).append(parts)
    found = {}
    for name, parts_of in sums.items():
        total, square, count = (float(v) for v in torch.stack(parts_of).sum(0))
        power = square / count - (total / count) ** 2
        if math.isfinite(power) and power > 0:
            found[name] = power
    return found


@dataclass(slots=True)
class Seen:
    """A hook that remembers tensors, and what they were like over all batches; channels are those of axis 1.

    Attributes:
        shapes: of float tensors, but those of which batches had different numbers of channels.
        low, high: extremes of each channel, zero included, float64 [C], of tensors of rank 2 and more.
        mean, square: mean values and mean squares, [C].
        gradient: squared gradients of the outputs, in units of the power of an output and summed over the positions of
            all samples of a batch, by random projections, [C].
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    low: Rows = field(default_factory=dict)
    high: Rows = field(default_factory=dict)
    mean: Rows = field(default_factory=dict)
    square: Rows = field(default_factory=dict)
    gradient: Rows = field(default_factory=dict)
    _values: Rows = field(default_factory=dict)
    _uneven: set[str] = field(default_factory=set)
    _batches: int = 0

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hand on what a node reads."""
        return value

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        """Remember what a node writes."""
        named = zip(step.writes, outputs, strict=False)
        self._values.update((n, v) for n, v in named if n and v is not None and v.is_floating_point())
        return outputs

    def add(
        self, graph: TorchGraph, batch: Tensors, powers: Mapping[str, float | torch.Tensor], generator: torch.Generator
    ) -> None:
        """Take in one batch.

        Args:
            graph: the float network.
            batch: input name -> tensor.
            powers: output -> power that its error is relative to, or one for each of its elements, broadcastable.
            generator: of the projections, on the CPU.
        """
        leaves = {name: v.detach().requires_grad_() for name, v in batch.items() if v.is_floating_point()}
        self._values = dict(leaves)
        with torch.enable_grad():
            found = graph({**batch, **leaves}, self)
        self._batches += 1
        self._take_shapes()
        squares = {name: self._take_moments(name, value) for name, value in self._values.items() if self._has(name)}
        self._values = {}
        ends = {name: found[name] for name in powers if found[name].requires_grad}
        for turn in range(_PROBES if ends and leaves else 0):
            signs = [torch.randint(0, 2, v.shape, generator=generator).mul_(2).sub_(1).to(v) for v in ends.values()]
            roots = [(powers[name] * value.numel()) ** -0.5 for name, value in ends.items()]
            seeds = [root * sign for root, sign in zip(roots, signs, strict=True)]
            more = turn + 1 < _PROBES
            torch.autograd.grad(list(ends.values()), list(leaves.values()), seeds, retain_graph=more, allow_unused=True)
        for name, square in squares.items():
            self._average(self.gradient, name, square / _PROBES)

    def _has(self, name: str) -> bool:
        shape = self.shapes.get(name, ())
        return len(shape) >= 2 and 0 not in shape

    def _take_shapes(self) -> None:
        for name, value in self._values.items():
            known, shape = self.shapes.get(name), tuple(value.shape)
            if name in self._uneven or (known is not None and known[1:2] != shape[1:2]):
                self._uneven.add(name)
                self.shapes.pop(name, None)
            else:
                self.shapes[name] = shape

    def _take_moments(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Take in one tensor; return what gradients that come back to it are added to, squared."""
        rows, total = _by_channel(value.detach()), torch.zeros(value.shape[1], dtype=torch.float64)
        low, high = rows.amin(1).double().cpu().clamp_(max=0), rows.amax(1).double().cpu().clamp_(min=0)
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)
        self._average(self.mean, name, rows.double().mean(1).cpu())
        self._average(self.square, name, rows.double().square().mean(1).cpu())
        if value.requires_grad:
            value.register_hook(partial(_add_squares, total))  # type: ignore[no-untyped-call]
        return total

    def _average(self, into: Rows, name: str, value: torch.Tensor) -> None:
        old = into.get(name, value)
        into[name] = old + (value - old) / self._batches


def _add_squares(total: torch.Tensor, gradient: torch.Tensor) -> None:
    total += _by_channel(gradient).double().square().sum(1).cpu()


def _by_channel(value: torch.Tensor) -> torch.Tensor:
    """Return [C, n] of [N, C, ...]."""
    return value.transpose(0, 1).reshape(value.shape[1], -1)
