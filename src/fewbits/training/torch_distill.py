"""Distillation: the quantized model learns to give what the float model gives, without labels.

The loss is the squared error of every output relative to that output's power in the float model, and with less weight
that of block outputs as hints (Romero et al. 2015, FitNets). Adam changes each parameter by a share of its own size, so
that one learning rate suits weights, biases and scales of every network; the rate falls along a cosine. The state with
the least loss on held-out samples is kept, the start among them.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fewbits.runtime.progress import Progress
from fewbits.training.schedule import RATES, Training
from fewbits.training.torch_samples import Samples, Tensors

Student = Callable[[Tensors], dict[str, torch.Tensor]]
_HINTS = 0.3  # weight of all hints together, where the outputs have 1
_WARM = 0.05  # share of the steps in which the rate rises
_CHECKS = 20  # looks at the held-out samples
_PATIENCE = 12  # looks without a better state before training stops
_TRIAL = 0.04  # share of the steps that each rate is tried for
_FEWEST_TRIED = 20
_BETAS = (0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Distilled:
    """How a training went.

    Attributes:
        rate: the learning rate.
        steps: that were made.
        before, after: loss on held-out samples.
        history: (step, loss on the held-out samples).
        stopped: why it ended before its last step; empty where it did not.
        notes: sentences for the user.
    """

    rate: float
    steps: int
    before: float
    after: float
    history: tuple[tuple[int, float], ...]
    stopped: str = ""
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Distillation:
    """A student and its teacher.

    Args:
        student: module that returns outputs by name; its parameters are learned.
        teacher: module that returns the same names.
        outputs: names of the model's outputs that are compared.
        hints: names of further ones.
    """

    student: nn.Module
    teacher: nn.Module
    outputs: Sequence[str]
    hints: Sequence[str] = ()
    powers: dict[str, float] = field(default_factory=dict)

    def prepare(self, samples: Samples) -> None:
        """Note the power of every compared tensor; those that are constant or no real numbers are not compared."""
        sums: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            for batch in samples.held_out:
                for name, value in self.teacher(batch).items():
                    if value.is_floating_point() and value.numel():
                        wide = value.double()
                        parts = torch.stack([wide.sum(), wide.pow(2).sum(), wide.new_tensor(value.numel())])
                        sums.setdefault(name, []).append(parts)
        for name, found in sums.items():
            total, square, count = (float(v) for v in torch.stack(found).sum(0))
            power = square / count - (total / count) ** 2
            if math.isfinite(power) and power > 0:
                self.powers[name] = power

    def loss(self, batch: Tensors) -> torch.Tensor:
        """Return the loss on one batch."""
        with torch.no_grad():
            wanted = self.teacher(batch)
        given = self.student(batch)

        def mean(names: Sequence[str]) -> torch.Tensor | float:
            errors = [(given[n] - wanted[n]).pow(2).mean() / self.powers[n] for n in names if n in self.powers]
            return torch.stack(errors).mean() if errors else 0.0

        return torch.as_tensor(mean(self.outputs) + _HINTS * mean(self.hints))

    def held_out_loss(self, samples: Samples) -> float:
        """Return the mean loss on the held-out samples, in evaluation mode."""
        self.student.eval()
        with torch.no_grad():
            found = [float(self.loss(batch)) for batch in samples.held_out]
        self.student.train()
        return sum(found) / len(found)


def distill(pair: Distillation, samples: Samples, training: Training, *, progress: Progress | None = None) -> Distilled:
    """Train the student in place; it ends in its best state.

    Args:
        pair: student and teacher.
        samples: what is trained on, and what judges.
        training: how long and how fast.
        progress: told of every step.
    """
    begin = time.perf_counter()
    pair.prepare(samples)
    first = pair.held_out_loss(samples)
    notes = () if samples.holds_out else ("There are too few samples to hold any out: the same ones judged.",)
    rate = training.rate or _best_rate(pair, samples, training)
    best, least, waited = _state(pair.student), first, 0
    history = [(0, first)]
    optimizer = _optimizer(pair.student)
    pause, stopped, done = max(training.steps // _CHECKS, 1), "", 0
    batches = samples.forever(training.seed)
    for step in range(training.steps):
        _step(pair, next(batches), optimizer, rate * _share(step, training.steps))
        done = step + 1
        if progress is not None:
            progress.advance(1)
        is_late = training.minutes is not None and time.perf_counter() - begin > 60 * training.minutes
        if done % pause and done < training.steps and not is_late:
            continue
        found = pair.held_out_loss(samples)
        history.append((done, found))
        waited = 0 if found < least else waited + 1
        if found < least:
            least, best = found, _state(pair.student)
        if is_late or waited >= _PATIENCE:
            stopped = "the time was up" if is_late else "held-out samples got no better"
            break
    pair.student.load_state_dict(best)
    return Distilled(rate, done, first, least, tuple(history), stopped, notes)


def _best_rate(pair: Distillation, samples: Samples, training: Training) -> float:
    """Return the rate with the least held-out loss after a few steps; the student ends as it began."""
    begin, found = _state(pair.student), {}
    count = min(max(int(training.steps * _TRIAL), _FEWEST_TRIED), training.steps)
    for rate in RATES:
        optimizer, batches = _optimizer(pair.student), samples.forever(training.seed)
        for step in range(count):
            _step(pair, next(batches), optimizer, rate * _share(step, count))
        found[rate] = pair.held_out_loss(samples)
        pair.student.load_state_dict(begin)
    finite = {rate: loss for rate, loss in found.items() if math.isfinite(loss)}
    return min(finite, key=lambda rate: finite[rate]) if finite else RATES[0]


def _optimizer(student: nn.Module) -> torch.optim.Adam:
    groups: list[dict[str, Any]] = []
    for parameter in student.parameters():
        if parameter.requires_grad:
            size = float(parameter.detach().double().pow(2).mean().sqrt())
            groups.append({"params": [parameter], "size": size or 1e-3, "lr": 0.0})
    return torch.optim.Adam(groups, lr=0.0, betas=_BETAS)


def _step(pair: Distillation, batch: Tensors, optimizer: torch.optim.Adam, rate: float) -> None:
    pair.student.train()
    for group in optimizer.param_groups:
        group["lr"] = rate * group["size"]
    loss = pair.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _share(step: int, steps: int) -> float:
    """Return the share of the rate at a step: a short rise, then half a cosine."""
    warm = max(int(steps * _WARM), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _state(module: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(module.state_dict())
