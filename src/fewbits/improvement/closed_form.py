"""Methods that need no gradients: what a layer's moments say decides its scale and its codes.

- seq-mse: the scale of least error at the output, with the nearest codes.
- gptq: codes chosen together (Frantar et al. 2023), aimed at the output of the float model.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from fewbits.improvement.layer_case import F64, LayerCase, Rounded
from fewbits.numerics.joint_moment import DAMPING
from fewbits.numerics.rounding import RoundingProblem, nearest_of_blocks, round_nearest, round_together

LayerMethod = Callable[[LayerCase], Rounded]
SCALES = np.linspace(1.1, 0.4, 71)
"""Scales that seq-mse tries, over the one that covers the whole range of the float weights."""


def search_scale(case: LayerCase) -> Rounded:
    """Return the nearest codes at the scale of least output error; the present ones where none is better."""
    problem = case.problem(DAMPING)
    tops = case.layout.largest(case.weights) / case.encoding.spec.qmax
    if case.is_shared:
        tops = np.full_like(tops, tops.max())
    whole = np.where(tops > 0, tops, case.scale)
    scales = [problem.allowed(whole * ratio).astype(np.float32).astype(np.float64) for ratio in SCALES]
    found = _best(case, problem, ((round_nearest(problem, case.weights, scale), scale) for scale in scales))
    if problem.blocks is None:
        return found
    # what is found block by block has to beat what suits all blocks of a row, and that the present state
    by_block = nearest_of_blocks(problem, case.weights, found.scale, scales)
    return _best(case, problem, [(found.codes, found.scale), by_block])


def gptq(case: LayerCase) -> Rounded:
    """Return codes that are chosen together; the present ones where none are better."""
    problem = case.problem(DAMPING)
    codes, scale = round_together(problem, case.scale)
    return _best(case, problem, [(codes, scale.astype(np.float32).astype(np.float64))])


def has_moved(case: LayerCase) -> bool:
    """Whether the weights lie on their grid already, since an earlier method rounded them."""
    return bool(np.array_equal(case.present.weights, case.current.astype(np.float32)))


def _best(case: LayerCase, problem: RoundingProblem, found: Iterable[tuple[F64, F64]]) -> Rounded:
    """Return for every channel the candidate of least cost, the present state first."""
    now = case.present
    codes, scale = now.codes, now.scale.copy()
    first = least = problem.objective(codes, scale)
    for trial, steps in found:
        error = problem.objective(trial, steps)
        better = error < least * (1 - 1e-9)
        least, scale = np.where(better, error, least), np.where(better[..., None], steps, scale)
        codes = np.where(problem.of_rows(better)[..., None], trial, codes)
    power = _power(case) * first.size
    share = first.size if problem.is_shared else 1
    before, after = (float(errors.sum()) / power / share for errors in (first, least))
    return replace(now, codes=codes, scale=scale, before=before, after=after)


def _power(case: LayerCase) -> float:
    """Return the mean power of the layer's output that is not its mean, as its moments tell it."""
    groups, channels, taps, inputs = case.weights.shape
    rows = case.weights.reshape(groups, channels * taps, inputs)
    matrix = case.moment.cost(centered=case.corrects, damping=0.0)
    power: F64 = ((rows @ matrix) * rows).sum(-1)
    return float(power.sum() / (groups * channels)) or 1.0
