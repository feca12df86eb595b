"""Steps of training: the optimizer, the learning rate along the way, and which rates suit a network.

Adam changes each parameter by a share of its own size, so that few rates are enough to choose from for weights, biases
and scales of every network; the rate falls along half a cosine.
"""

import copy
import math
from typing import Any

import torch
from torch import nn

from fewbits.training.schedule import RATES, SCALE_FACTORS, Rates
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_samples import Tensors

_WARMUP = 0.05  # share of the steps in which the rate rises
_BETAS = (0.9, 0.99)
_SMALLEST = 1e-3  # size of a parameter that is all zero
_WORSE_IN_A_ROW = 2  # higher rates that fared worse, after which no still higher one is tried

Tried = list[tuple[Rates, float]]
"""Rates and the held-out loss after a few steps with them."""


def open_optimizer(pair: Distillation) -> torch.optim.Adam:
    """Return an optimizer for what the student learns; `take_step` sets its rates."""
    scales = {id(value) for value in pair.scales}
    groups: list[dict[str, Any]] = []
    for parameter in pair.student.parameters():
        if parameter.requires_grad:
            size = float(parameter.detach().double().pow(2).mean().sqrt()) or _SMALLEST
            groups.append({"params": [parameter], "size": size, "is_scale": id(parameter) in scales, "lr": 0.0})
    return torch.optim.Adam(groups, lr=0.0, betas=_BETAS)


def take_step(pair: Distillation, batch: Tensors, optimizer: torch.optim.Adam, rates: Rates) -> None:
    """Change the student once, at the given rates of weights and of scales."""
    for group in optimizer.param_groups:
        group["lr"] = rates[1 if group["is_scale"] else 0] * group["size"]
    loss = pair.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def share_at(done: float, step: float) -> float:
    """Return the share of the rate: a short rise, then half a cosine.

    Args:
        done: share of the training that is behind.
        step: share of the training that a step is.
    """
    if done < _WARMUP:
        return min((done + step) / _WARMUP, 1.0)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))


def next_trial(tried: Tried) -> Rates | None:
    """Return the rates to try next, after those in `tried`; None where enough were tried.

    First the rate of weights, from the lowest up, until higher ones fare worse, with that of scales and zero points in
    one proportion to it; then other proportions. Scales of narrow weights stand high rates badly: each change of one
    moves many codes.
    """
    first, *others = SCALE_FACTORS
    ladder = [(rate, rate * first) for rate in RATES]
    losses = [loss for rates, loss in tried if rates in ladder]
    is_over = len(losses) > _WORSE_IN_A_ROW and min(losses[-_WORSE_IN_A_ROW:]) > min(losses[:-_WORSE_IN_A_ROW])
    if len(losses) < len(ladder) and not is_over:
        return ladder[len(losses)]
    best = ladder[losses.index(min(losses))][0]
    known = [rates for rates, _ in tried]
    return next(((best, best * factor) for factor in others if (best, best * factor) not in known), None)


def best_rates(tried: Tried) -> Rates:
    """Return the rates after which the held-out loss was least."""
    return min(tried, key=lambda pair: pair[1])[0]


def state_of(module: nn.Module) -> dict[str, Any]:
    """Return a copy of a module's state."""
    return copy.deepcopy(dict(module.state_dict()))
