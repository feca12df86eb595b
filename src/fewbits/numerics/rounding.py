"""Codes of weights that are chosen together: least error at the output of a layer, not at each weight.

For a layer y = w x whose inputs have the second moment H = E[x x^T], weights q in place of a target t cost
(q - t) H (q - t)^T per row. Rounding each weight to the nearest code ignores H; here the error of one weight is made
up for by the others. All functions work on G groups at once (a depthwise convolution has one per channel).

A row has one scale, or one per block of its inputs: scales are [G, C, B], B = 1 where there are no blocks.

Source: Frantar et al. 2023 (GPTQ: columns in turn, the error spread over those that are left), followed by coordinate
descent over the codes, which can only lower the cost, and by the scale that suits the codes best in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import SMALLEST_SCALE
from fewbits.spec.dtypes import QuantSpec

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Blocks = npt.NDArray[np.intp]

RATIOS = (1.0, 0.9, 0.8)
"""Scales that are tried, over the one given: with errors that make up for each other, a finer step often pays."""
SWEEPS = 3
"""Rounds of coordinate descent after every choice of scale."""
_REFITS = 2
_BLOCK = 64  # columns whose errors are spread over the rest in one product


@dataclass(frozen=True, slots=True, eq=False)
class RoundingProblem:
    """What is to be rounded, and what an error costs.

    Attributes:
        target: [G, C, T, K]: for each of G groups C outputs of T taps with K inputs.
        cost: [G, K, K]: symmetric, positive definite.
        spec: the grid: symmetric and signed.
        least: [G, C]: the smallest scale allowed.
        is_shared: one scale serves the whole weight.
        blocks: [K], the block of each input, counted from 0; None where a row has one scale.
    """

    target: F64
    cost: F64
    spec: QuantSpec
    least: F64
    is_shared: bool = False
    blocks: Blocks | None = None

    @property
    def rows(self) -> F64:
        """The target as [G, C * T, K]."""
        groups, channels, taps, inputs = self.target.shape
        return self.target.reshape(groups, channels * taps, inputs)

    @property
    def parts(self) -> list[slice | Blocks]:
        """The inputs of each block."""
        if self.blocks is None:
            return [slice(None)]
        return [np.flatnonzero(self.blocks == block) for block in range(self.blocks.max() + 1)]

    def steps(self, scale: F64) -> F64:
        """Return scales [G, C, B] as the step of every weight, [G, C * T, K]."""
        return np.broadcast_to(steps_of(scale, self.target.shape[2], self.blocks), self.rows.shape)

    def allowed(self, scale: F64) -> F64:
        """Return scales [G, C, B], raised where they are below the smallest allowed."""
        return np.maximum(scale, self.least[..., None])

    def of_rows(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return a choice per channel [G, C] as one per row, [G, C * T]."""
        return np.repeat(chosen, self.target.shape[2], axis=1)

    def per_channel(self, values: F64) -> F64:
        """Return figures of rows [G, C * T] summed over what shares scales, [G, C]."""
        groups, channels, taps, _ = self.target.shape
        found = values.reshape(groups, channels, taps).sum(-1)
        return np.full_like(found, found.sum()) if self.is_shared else found

    def objective(self, codes: F64, scale: F64) -> F64:
        """Return the cost of codes [G, C * T, K] at scales [G, C, B], summed over what shares them: [G, C]."""
        delta = codes * self.steps(scale) - self.rows
        return self.per_channel(((delta @ self.cost) * delta).sum(-1))


def steps_of(scale: F64, taps: int, blocks: Blocks | None) -> F64:
    """Return scales [G, C, B] as the steps of rows: [G, C * T, K], or [G, C * T, 1] where a row has one scale."""
    found = np.repeat(scale, taps, axis=1)
    return found if blocks is None else found[..., blocks]


def round_nearest(problem: RoundingProblem, values: F64, scale: F64) -> F64:
    """Return the codes nearest to `values` [G, C, T, K] at scales [G, C, B], as [G, C * T, K]."""
    rows = values.reshape(problem.rows.shape)
    return np.clip(np.rint(rows / problem.steps(scale)), problem.spec.qmin, problem.spec.qmax)


def round_together(problem: RoundingProblem, scale: F64, ratios: tuple[float, ...] = RATIOS) -> tuple[F64, F64]:
    """Return codes [G, C * T, K] and scales [G, C, B] of small cost; never worse than the target's nearest codes.

    Args:
        problem: what is to be rounded.
        scale: [G, C, B], the scales to start from.
        ratios: of them, that are tried.
    """
    ordered = Ordered(problem)
    best_scale = problem.allowed(scale)
    best = ordered.descend(round_nearest(problem, problem.target, best_scale), best_scale)
    least = problem.objective(best, best_scale)
    for ratio in ratios:
        trial = problem.allowed(scale * ratio)
        codes = ordered.descend(ordered.gptq(trial), trial)
        for refit in range(_REFITS + 1):
            if refit:
                trial = best_steps(problem, codes, trial)
                codes = ordered.descend(codes, trial)
            found = problem.objective(codes, trial)
            better = found < least * (1 - 1e-9)
            least, best_scale = np.where(better, found, least), np.where(better[..., None], trial, best_scale)
            best = np.where(problem.of_rows(better)[..., None], codes, best)
    return best, best_scale


def nearest_of_blocks(problem: RoundingProblem, values: F64, start: F64, trials: Sequence[F64]) -> tuple[F64, F64]:
    """Return the codes nearest to `values` [G, C, T, K], and scales [G, C, B] chosen one block after the other.

    Args:
        problem: what is to be rounded.
        values: that codes are nearest to.
        start: [G, C, B], the scales to start from: each stays where no other costs less.
        trials: [G, C, B] each, the scales to try.
    """
    scale, rows = problem.allowed(start), values.reshape(problem.rows.shape)
    codes = round_nearest(problem, values, scale)
    errors = codes * problem.steps(scale) - problem.rows
    for block, own in enumerate(problem.parts):
        near, target = problem.cost[:, own][..., own], problem.rows[..., own]
        drawn = errors @ problem.cost[..., own] - errors[..., own] @ near  # by the errors of all other blocks
        least: F64 | None = None
        for trial in (scale, *map(problem.allowed, trials)):
            steps = np.repeat(trial[..., block], problem.target.shape[2], axis=1)[..., None]
            found = np.clip(np.rint(rows[..., own] / steps), problem.spec.qmin, problem.spec.qmax)
            delta = found * steps - target
            cost = problem.per_channel(((2 * drawn + delta @ near) * delta).sum(-1))
            if least is None:
                least = cost
                continue
            better = cost < least - 1e-9 * np.abs(least)
            least = np.where(better, cost, least)
            scale[..., block] = np.where(better, trial[..., block], scale[..., block])
            chosen = problem.of_rows(better)[..., None]
            codes[..., own] = np.where(chosen, found, codes[..., own])
            errors[..., own] = np.where(chosen, delta, errors[..., own])
    return codes, scale


def best_steps(problem: RoundingProblem, codes: F64, scale: F64) -> F64:
    """Return the scales [G, C, B] that suit given codes best: q H t / q H q, where that is positive and allowed.

    Of several blocks one comes after the other; t is what the others leave to it.
    """
    found, lowest = scale.copy(), np.maximum(problem.least, SMALLEST_SCALE)
    left = problem.rows - codes * problem.steps(scale)
    for block, own in enumerate(problem.parts):
        left[..., own] = problem.rows[..., own]
        part = codes[..., own]
        weighed = part @ problem.cost[:, own]
        above = problem.per_channel((weighed * left).sum(-1))
        below = problem.per_channel((weighed[..., own] * part).sum(-1))
        best = np.where((above > 0) & (below > 0), above / np.where(below > 0, below, 1.0), scale[..., block])
        found[..., block] = np.maximum(best.astype(np.float32), lowest)
        left[..., own] -= part * np.repeat(found[..., block], problem.target.shape[2], axis=1)[..., None]
    return found


class Ordered:
    """A problem with the inputs of each group in falling order of their power: what costs most is rounded first."""

    def __init__(self, problem: RoundingProblem) -> None:
        self.problem = problem
        power = np.einsum("gkk->gk", problem.cost)
        self.order = np.argsort(-power, axis=1, kind="stable")
        rows = np.take_along_axis(problem.cost, self.order[:, :, None], axis=1)
        self.cost = np.ascontiguousarray(np.take_along_axis(rows, self.order[:, None, :], axis=2))
        self.target = self._sorted(problem.rows)
        self._spread: F64 | None = None

    def _sorted(self, values: F64) -> F64:
        return np.take_along_axis(values, self.order[:, None, :], axis=2)

    def _restored(self, values: F64) -> F64:
        found = np.empty_like(values)
        np.put_along_axis(found, np.broadcast_to(self.order[:, None, :], values.shape), values, axis=2)
        return found

    def _steps(self, scale: F64) -> F64:
        steps = self.problem.steps(scale)
        return steps if self.problem.blocks is None else self._sorted(steps)

    @property
    def spread(self) -> F64:
        """The upper Cholesky factor of the inverse of the cost, [G, K, K]."""
        if self._spread is None:
            inverse = np.linalg.inv(self.cost)
            factor = np.asarray(np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2), np.float64)
            self._spread = factor.transpose(0, 2, 1)
        return self._spread

    def gptq(self, scale: F64) -> F64:
        """Return codes [G, C * T, K]: one input after the other, its error spread over those that are left."""
        spec, spread, left = self.problem.spec, self.spread, self.target.copy()
        steps, inputs = self._steps(scale), left.shape[2]
        codes = np.zeros_like(left)
        for begin in range(0, inputs, _BLOCK):
            end = min(begin + _BLOCK, inputs)
            errors = np.zeros((*left.shape[:2], end - begin))
            for j in range(begin, end):
                codes[:, :, j] = np.clip(np.rint(left[:, :, j] / steps[:, :, j]), spec.qmin, spec.qmax)
                error = (left[:, :, j] - codes[:, :, j] * steps[:, :, j]) / spread[:, j, j][:, None]
                errors[:, :, j - begin] = error
                left[:, :, j + 1 : end] -= error[:, :, None] * spread[:, j, j + 1 : end][:, None]
            left[:, :, end:] -= errors @ spread[:, begin:end, end:]
        return self._restored(codes)

    def descend(self, codes: F64, scale: F64, sweeps: int = SWEEPS) -> F64:
        """Return codes of no larger cost: each in turn takes the value that is best beside the others."""
        spec, steps, codes = self.problem.spec, self._steps(scale), self._sorted(codes)
        power = np.maximum(np.einsum("gkk->gk", self.cost), 1e-300)
        slope = (codes * steps - self.target) @ self.cost
        for _ in range(sweeps):
            moved = 0
            for j in range(codes.shape[2]):
                wish = codes[:, :, j] - slope[:, :, j] / (power[:, j][:, None] * steps[:, :, j])
                step = np.clip(np.rint(wish), spec.qmin, spec.qmax) - codes[:, :, j]
                group, row = np.nonzero(step)
                if len(row):
                    moved += len(row)
                    change = step[group, row]
                    codes[group, row, j] += change
                    slope[group, row] += (change * steps[group, row, j])[:, None] * self.cost[group, j]
            if not moved:
                break
        return self._restored(codes)
