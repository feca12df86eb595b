"""AdaRound: up or down is learned for every weight of a layer, with the activation function inside the loss.

Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization: a weight is scale * (floor + h(V)), h
the rectified sigmoid; the loss is the squared error of the layer's output on what the layer reads in the quantized
model (eq. 25) plus lambda * sum(1 - |2 h - 1|^beta), whose beta falls so that every h ends at 0 or 1.

With `Effort.drop` a part of what the layer reads is that of the float model, drawn anew each time (`torch_drop.py`).

What is ours: the start is the codes that `gptq` finds, so that few iterations suffice; rows of the layer stand for
images (`torch_rows.py`); the learned codes slide down to the nearest minimum of the quadratic loss; the best of all
that was seen, by the loss on all rows, is what comes out.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from fewbits.improvement.closed_form import gptq, has_moved
from fewbits.improvement.layer_case import F64, LEARNED_ELEMENTS, LEARNED_ROWS, LayerCase, Rounded
from fewbits.improvement.methods import Effort
from fewbits.improvement.torch_activation import Act, activation_after
from fewbits.improvement.torch_drop import mixed
from fewbits.improvement.torch_layers import LayerWalk
from fewbits.improvement.torch_walk import FLOAT, QUANTIZED
from fewbits.numerics.rounding import Ordered, best_steps
from fewbits.runtime.torch_graph import Step

_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1  # of the rectified sigmoid (eq. 23)
_LAMBDA = 5.0  # of the regularizer, where the loss at the start counts 1 per weight
_WARM = 0.2  # share of the iterations without the regularizer
_BETA_HIGH, _BETA_LOW = 20.0, 2.0
_RATE = 1e-2
_CHECK = 50  # iterations between looks at whether all h are at 0 or 1
_SURE = 0.8  # share of the way from the float value to the code of the start at which h begins


def learn_layer(layers: LayerWalk, step: Step, effort: Effort) -> Rounded:
    """Return learned codes of one layer; those that it began with where learning won nothing.

    Args:
        layers: the walk, which stands before `step`.
        step: a node with a weight.
        effort: iterations and seed.
    """
    case = layers.case(step)
    begin = _start(case)
    x, y = _rows(layers, step, case)
    exact = _rows(layers, step, case, FLOAT)[0] if effort.drop else None
    act = activation_after(layers.walk.floating, step, case.layer)
    problem = _Problem(case, begin, x, y, act, _power(act(y)), exact)
    learned, now = problem.learn(effort), case.present
    tried = [(now.codes, now.scale), (begin.codes, begin.scale), (learned, begin.scale)]
    tried += _polished(case, learned, begin.scale)
    losses = [problem.loss(*one) for one in tried]
    best = int(np.argmin(losses))
    codes, scale = tried[best]
    return case.with_bias(replace(now, codes=codes, scale=scale, before=losses[0], after=losses[best]))


def _polished(case: LayerCase, codes: F64, scale: F64) -> list[tuple[F64, F64]]:
    """Return the nearest minimum of the quadratic loss below learned codes, and the same with the scale refitted."""
    problem = case.problem()
    ordered = Ordered(problem)
    near = ordered.descend(codes, scale)
    steps = best_steps(problem, near, scale)
    return [(near, scale), (ordered.descend(near, steps), steps)]


def _power(wanted: torch.Tensor) -> float:
    """Return the mean square of the deviation from each output's mean; 1 where nothing deviates."""
    return float((wanted - wanted.mean(1, keepdim=True)).pow(2).mean()) or 1.0


def first_guess(layers: LayerWalk, step: Step) -> Rounded:
    """Return where learning starts: the present codes where an earlier method chose them, else those of `gptq`."""
    case = layers.case(step)
    return case.with_bias(_start(case))


def _start(case: LayerCase) -> Rounded:
    """Return the present codes where an earlier method chose them, else those of `gptq`."""
    return case.present if has_moved(case) else gptq(case)


def _rows(layers: LayerWalk, step: Step, case: LayerCase, stream: str = QUANTIZED) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of all batches that learning draws from: [G, R, K], read in a stream, and [G, R, C * T]."""
    groups, channels, taps, inputs = case.weights.shape
    count = LEARNED_ELEMENTS // (groups * (inputs + channels * taps))
    found = list(layers.rows(step, max(count, LEARNED_ROWS), stream))
    return torch.cat([x for x, _ in found], dim=1), torch.cat([y for _, y in found], dim=1)


@dataclass(eq=False)
class _Problem:
    """The rounding of one layer as something to learn.

    Attributes:
        case: the layer.
        begin: codes to start from.
        x, y: rows, in the units of the layer; y is before the activation.
        act: the function that follows, on rows [G, R, C * T].
        power: mean square of the deviation of act(y): losses are relative to it.
        exact: rows in the float model, where part of the activations is to be read from there.
    """

    case: LayerCase
    begin: Rounded
    x: torch.Tensor
    y: torch.Tensor
    act: Act
    power: float
    exact: torch.Tensor | None = None

    def loss(self, codes: np.ndarray, scale: np.ndarray) -> float:
        """Return the loss of codes on all rows."""
        rounded = replace(self.begin, codes=codes, scale=scale)
        weight = torch.from_numpy(rounded.weights).reshape(codes.shape).to(self.x)
        bias = self._bias(torch.from_numpy(rounded.weights.astype(np.float64)).reshape(codes.shape))
        with torch.no_grad():
            error = self.act(self.x @ weight.transpose(1, 2) + bias.to(self.x)) - self.act(self.y)
            return float(error.pow(2).mean()) / self.power

    def _bias(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the bias [G, 1, C] that belongs to a weight; zero where the layer has none of ours to fit."""
        if not self.case.corrects:
            return torch.zeros(weight.shape[0], 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        x, y = (torch.from_numpy(part).to(weight) for part in self.case.moment.means())
        return (y - (weight @ x[..., None])[..., 0])[:, None]

    def learn(self, effort: Effort) -> np.ndarray:
        """Return the codes that learning ends with."""
        rounding = _Rounding(self.case, self.begin, self.x)
        optimizer = torch.optim.Adam([rounding.v], lr=_RATE)
        generator = torch.Generator().manual_seed(effort.seed)
        drawn = torch.Generator(self.x.device).manual_seed(effort.seed)
        rows, warm = self.x.shape[1], int(effort.iterations * _WARM)
        batch = min(LEARNED_ROWS, rows)
        usual = max(self.loss(self.begin.codes, self.begin.scale), 1e-12)
        for i in range(effort.iterations):
            chosen = torch.randint(rows, (batch,), generator=generator).to(self.x.device)
            with torch.no_grad():
                wanted = self.act(self.y[:, chosen])
                read = self.x[:, chosen]
                if self.exact is not None:
                    read = mixed(read, self.exact[:, chosen], effort.drop, drawn)
            weight = rounding.weight()
            given = self.act(read @ weight.transpose(1, 2) + self._bias(weight))
            # in units of the error at the start, and of the number of weights: one lambda then suits every layer
            loss = (given - wanted).pow(2).mean() * (rounding.v.numel() / self.power / usual)
            if i >= warm:
                loss = loss + _LAMBDA * rounding.doubt(_beta((i - warm) / max(effort.iterations - warm, 1)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if i % _CHECK == _CHECK - 1 and i > warm and rounding.is_settled():
                break
        return rounding.codes()


class _Rounding:
    """The learned part: V, and the weight that it stands for."""

    def __init__(self, case: LayerCase, begin: Rounded, like: torch.Tensor) -> None:
        spec = case.encoding.spec
        steps = torch.from_numpy(begin.steps)
        codes = torch.from_numpy(begin.codes)
        # each weight may stay or take one step to the side where its float value lies
        exact = torch.from_numpy(case.target()).reshape(codes.shape) / steps
        low = torch.where(exact >= codes, codes, codes - 1).clamp(spec.qmin, max(spec.qmax - 1, spec.qmin))
        share = (exact - low).clamp(0.0, 1.0)
        chosen = codes - low
        start = share + (chosen - share) * _SURE
        inner = (start - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)
        self.v = torch.log(inner / (1 - inner)).to(like).requires_grad_(True)
        self._low, self._steps = low.to(like), steps.to(like)
        self._bounds = (spec.qmin, spec.qmax)

    def shares(self) -> torch.Tensor:
        """Return h(V) in [0, 1]."""
        return (torch.sigmoid(self.v) * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW).clamp(0.0, 1.0)

    def weight(self) -> torch.Tensor:
        return (self._low + self.shares()) * self._steps

    def doubt(self, beta: float) -> torch.Tensor:
        """Return the sum of 1 - |2 h - 1|^beta (eq. 24)."""
        return (1 - (2 * self.shares() - 1).abs().pow(beta)).sum()

    def is_settled(self) -> bool:
        with torch.no_grad():
            shares = self.shares()
            return bool(((shares == 0) | (shares == 1)).all())

    def codes(self) -> np.ndarray:
        with torch.no_grad():
            found = self._low + (self.shares() >= 0.5).to(self._low)
        return found.clamp(*self._bounds).cpu().numpy().astype(np.float64)


def _beta(progress: float) -> float:
    """Return the exponent of the regularizer, which falls along a cosine."""
    return _BETA_LOW + (_BETA_HIGH - _BETA_LOW) * 0.5 * (1 + math.cos(progress * math.pi))
