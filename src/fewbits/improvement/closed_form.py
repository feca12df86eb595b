"""Methods that need no gradients: what a layer's moments say decides its scale and its codes.

- seq-mse: the scale of least error at the output, with the nearest codes.
- gptq: codes chosen together (Frantar et al. 2023), aimed at the output of the float model.
"""

from collections.abc import Callable, Iterable

import numpy as np

from fewbits.improvement.layer_case import F64, LayerCase, Rounded
from fewbits.numerics.joint_moment import DAMPING
from fewbits.numerics.rounding import RoundingProblem, round_nearest, round_together

LayerMethod = Callable[[LayerCase], Rounded]
SCALES = np.linspace(1.1, 0.4, 71)
"""Scales that seq-mse tries, over the one that covers the whole range of the float weights."""


def search_scale(case: LayerCase) -> Rounded:
    """Return the nearest codes at the scale of least output error; the present ones where none is better."""
    problem = case.problem(DAMPING)
    tops = np.abs(case.weights).max(axis=(2, 3)) / case.encoding.spec.qmax
    if case.is_shared:
        tops = np.full_like(tops, tops.max())
    whole = np.where(tops > 0, tops, case.scale)
    scales = [np.maximum(whole * ratio, case.least).astype(np.float32).astype(np.float64) for ratio in SCALES]
    return _best(case, problem, ((round_nearest(problem, case.weights, scale), scale) for scale in scales))


def gptq(case: LayerCase) -> Rounded:
    """Return codes that are chosen together; the present ones where none are better."""
    problem = case.problem(DAMPING)
    codes, scale = round_together(problem, case.scale)
    return _best(case, problem, [(codes, scale.astype(np.float32).astype(np.float64))])


def has_moved(case: LayerCase) -> bool:
    """Whether the weights lie on their grid already, since an earlier method rounded them."""
    rounded = Rounded(case.codes, case.scale, 0.0, 0.0).weights
    return bool(np.array_equal(rounded, case.current.astype(np.float32)))


def _best(case: LayerCase, problem: RoundingProblem, found: Iterable[tuple[F64, F64]]) -> Rounded:
    """Return for every scale the candidate of least cost, the present state first."""
    codes, scale = case.codes, case.scale.copy()
    first = least = problem.objective(codes, scale)
    for trial, steps in found:
        error = problem.objective(trial, steps)
        better = error < least * (1 - 1e-9)
        least, scale = np.where(better, error, least), np.where(better, steps, scale)
        codes = np.where(problem.of_rows(better)[..., None], trial, codes)
    power = _power(case) * first.size
    share = first.size if problem.is_shared else 1
    return Rounded(codes, scale, float(first.sum()) / power / share, float(least.sum()) / power / share)


def _power(case: LayerCase) -> float:
    """Return the mean power of the layer's output that is not its mean, as its moments tell it."""
    groups, channels, taps, inputs = case.weights.shape
    rows = case.weights.reshape(groups, channels * taps, inputs)
    matrix = case.moment.cost(centered=case.corrects, damping=0.0)
    power: F64 = ((rows @ matrix) * rows).sum(-1)
    return float(power.sum() / (groups * channels)) or 1.0
