"""Scales of cross-layer equalization: even ranges of weights at the boundaries of chains of layers; no graph here.

At a boundary, r1_i is the largest weight of output channel i of the first layer, r2_i that of input channel i of the
second, R1 and R2 are the largest weights of the layers, and p1_i = r1_i / R1, p2_i = r2_i / R2 the shares of the range
that a channel uses. Scaling by s_i = sqrt(p1_i p2_i) / p2_i makes the shares equal; this is repeated over all
boundaries until nothing moves. The error is 1 - mean_i p1_i p2_i. With r in place of p this is equation 11 of the
paper; one factor for all channels of a boundary changes no share, and finding the paper's takes a long chain hundreds
of sweeps.

One boundary alone never gets worse: the products r1_i r2_i stay, and R1 R2 falls to the largest of them. In a chain a
neighbour may raise R1 or R2; a chain where that leaves any boundary worse is evened out again in guarded steps, of
which only those are taken that leave no boundary worse than it was.

Source: Nagel et al. 2019, Data-Free Quantization through Weight Equalization and Bias Correction, equations 9 to 11.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.graph.passes.base import FloatArray

Window = tuple[FloatArray, FloatArray]
SETTLED = 1e-4
"""A sweep that moves no scale by more than this share is the last."""
NEGLIGIBLE = 1e-3
"""A chain in which no scale differs from 1 by more than this share is left alone."""
MOST_SWEEPS = 300
_WORSE = 1e-7
_DEAD = 1e-5  # share of the range: what trained to nothing is not worth a scale that blows up its activation
_TINY = 1e-30
_FREE, _GUARDED = (1.0,), (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where output channels of the layer `first` are input channels of `second`, `repeat` of them for each."""

    first: str
    second: str
    repeat: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Evened:
    """What evening out one boundary gives: the scale s [C], and the error before and after."""

    scale: FloatArray
    before: float
    after: float


def even_out(
    matrices: Mapping[str, FloatArray], boundaries: Sequence[Boundary], windows: Sequence[Window]
) -> tuple[Evened, ...]:
    """Return the scales of all boundaries, in their order.

    Args:
        matrices: layer -> largest absolute weight [G, I, O] over the taps; left as they are.
        boundaries: a layer is `first` of at most one of them, and `second` of at most one.
        windows: for each boundary lowest and highest log s, [C] each, around zero.
    """
    found, window_of = dict[Boundary, Evened](), dict(zip(boundaries, windows, strict=True))
    for chain in _chains(boundaries):
        before = _errors(matrices, chain)
        scales, after = _evened(matrices, chain, before, [window_of[boundary] for boundary in chain])
        rows = map(Evened, scales, before, after)
        found.update(zip(chain, rows, strict=True))
    return tuple(found[boundary] for boundary in boundaries)


def _chains(boundaries: Sequence[Boundary]) -> list[list[Boundary]]:
    """Group boundaries that are joined by layers; each chain is in order."""
    by_first = {boundary.first: boundary for boundary in boundaries}
    seconds = {boundary.second for boundary in boundaries}
    chains = []
    for boundary in boundaries:
        if boundary.first in seconds:
            continue
        chain = [boundary]
        while (following := by_first.get(chain[-1].second)) is not None:
            chain.append(following)
        chains.append(chain)
    return chains


def _evened(
    matrices: Mapping[str, FloatArray], chain: list[Boundary], before: list[float], windows: list[Window]
) -> tuple[list[FloatArray], list[float]]:
    for shares in (_FREE, _GUARDED):
        state = {name: matrices[name] for b in chain for name in (b.first, b.second)}
        logs = _sweep(state, chain, shares, (before, windows))
        after = _errors(state, chain)
        if all(new <= old + _WORSE for new, old in zip(after, before, strict=True)):
            break
    if max(float(np.abs(log).max(initial=0.0)) for log in logs) < NEGLIGIBLE:
        return [np.ones_like(log) for log in logs], before
    return [np.exp(log) for log in logs], after


def _sweep(
    state: dict[str, FloatArray],
    chain: list[Boundary],
    shares: tuple[float, ...],
    rules: tuple[list[float], list[Window]],
) -> list[FloatArray]:
    """Step over the chain until it is settled, in place; return the logarithms of the scales."""
    before, windows = rules
    alive = [_alive(state, boundary) for boundary in chain]
    logs = [np.zeros(mask.size) for mask in alive]
    for _ in range(MOST_SWEEPS):
        largest = 0.0
        for i, boundary in enumerate(chain):
            alive[i] |= _alive(state, boundary)  # the range of the others may have come down to it
            step = np.clip(logs[i] + alive[i] * _wanted(state, boundary), *windows[i]) - logs[i]
            taken = _take(state, chain, i, [share * step for share in shares], before)
            logs[i] = logs[i] + taken
            largest = max(largest, float(np.abs(taken).max(initial=0.0)))
        if largest < SETTLED:
            break
    return logs


def _take(
    state: dict[str, FloatArray], chain: list[Boundary], i: int, steps: list[FloatArray], before: list[float]
) -> FloatArray:
    """Apply the first of `steps` that leaves no boundary around worse than `before`; a single step needs no leave."""
    near = range(max(i - 1, 0), min(i + 2, len(chain)))
    for step in steps:
        trial = {**state, **_stepped(state, chain[i], step)}
        is_fine = len(steps) == 1 or all(_error(trial, chain[j]) <= before[j] + _WORSE for j in near)
        if is_fine:
            state.update(trial)
            return step
    return np.zeros_like(steps[0])


def _stepped(state: Mapping[str, FloatArray], boundary: Boundary, step: FloatArray) -> dict[str, FloatArray]:
    first, second = state[boundary.first], state[boundary.second]
    scale = np.exp(step)
    return {
        boundary.first: first / scale.reshape(first.shape[0], 1, -1),
        boundary.second: second * np.repeat(scale, boundary.repeat).reshape(second.shape[0], -1, 1),
    }


def _wanted(state: Mapping[str, FloatArray], boundary: Boundary) -> FloatArray:
    """Return what log s still lacks, where both ranges are above zero."""
    first, second = (np.log(np.maximum(share, _TINY)) for share in _shares(state, boundary))
    wanted: FloatArray = 0.5 * (first - second)
    return wanted


def _alive(state: Mapping[str, FloatArray], boundary: Boundary) -> npt.NDArray[np.bool_]:
    first, second = _shares(state, boundary)
    return (first > _DEAD) & (second > _DEAD)


def _shares(state: Mapping[str, FloatArray], boundary: Boundary) -> tuple[FloatArray, FloatArray]:
    """Return p1 and p2, [C] each."""
    first, second = _ranges(state, boundary)
    return first / max(float(first.max(initial=0.0)), _TINY), second / max(float(second.max(initial=0.0)), _TINY)


def _ranges(state: Mapping[str, FloatArray], boundary: Boundary) -> tuple[FloatArray, FloatArray]:
    """Return r1 and r2, [C] each."""
    second = state[boundary.second]
    inputs = second.max(axis=2).reshape(-1, boundary.repeat).max(axis=1)
    return _outputs(state[boundary.first]), inputs


def _outputs(matrix: FloatArray) -> FloatArray:
    ranges: FloatArray = matrix.max(axis=1).reshape(-1)
    return ranges


def _errors(state: Mapping[str, FloatArray], chain: list[Boundary]) -> list[float]:
    return [_error(state, boundary) for boundary in chain]


def _error(state: Mapping[str, FloatArray], boundary: Boundary) -> float:
    first, second = _ranges(state, boundary)
    top = float(first.max(initial=0.0)) * float(second.max(initial=0.0))
    return 1.0 - float((first * second).mean()) / top if top > 0 else 1.0
