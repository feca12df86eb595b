"""Scales of weights chosen by what they do to the layer's output: the least d^T E[x x^T] d over candidate scales.

d = fake_quantize(w) - w is the error that a scale causes in one output channel's weights. Candidates shrink the
channel's absmax scale; with the full second moment even a slightly different scale counts: roundings cancel or add up.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import SMALLEST_SCALE, bounded_scale
from fewbits.numerics.rounding import Blocks, RoundingProblem, nearest_of_blocks
from fewbits.numerics.second_moment import SecondMoment
from fewbits.spec.dtypes import QuantSpec

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
RATIOS = np.linspace(1.05, 0.3, 61)
"""Candidate scales over the channel's absmax scale; a little above 1 shifts the roundings without clipping anything."""
_WORK = 3e8  # multiply-adds spent on the full objective of one layer
_BLOCK_WORK = 1e9  # the same where rows have blocks, each of which is tried by itself
_FINE = 0.0125  # the second round looks one step of RATIOS to either side


def search_weight_scales(rows: F32, spec: QuantSpec, moment: SecondMoment, *, centered: bool = False) -> F32:
    """Return one scale per output channel, float32 [G * C].

    Args:
        rows: weights [G, C, T, K], G groups of C outputs with K inputs and T independent taps each.
        spec: a symmetric signed grid.
        moment: second moments of the K inputs of each group.
        centered: the mean error will be taken up by the bias: only deviations from the mean inputs count.

    Source: the objective of layer-wise reconstruction (Nagel et al. 2020, AdaRound, eq. 13), minimized over the scale.
    """
    tops = np.abs(rows).max(axis=(2, 3))
    full = np.where(tops > 0, tops, tops.max() if tops.max() > 0 else 1.0) / spec.qmax
    absmax_scale = np.asarray(np.maximum(full, SMALLEST_SCALE), dtype=np.float32)
    unit = np.frexp(tops)[1]  # channels are searched near 1, where squares neither overflow nor vanish
    rows, base = np.ldexp(rows, -unit[:, :, None, None]), np.ldexp(absmax_scale, -unit)
    variance, mean = moment.variance(), moment.mean() * (0 if centered else 1)
    matrix = moment.matrix(centered=centered)
    cheap = np.stack([_cheap_error(_delta(rows, base * r, spec), variance, mean) for r in RATIOS])
    if matrix is None:
        return _pick(absmax_scale, RATIOS[np.argmin(cheap, axis=0)], spec)
    kept = int(np.clip(_WORK / max(rows.size * rows.shape[-1], 1), 5, len(RATIOS)))
    order = np.argsort(cheap, axis=0, kind="stable")[:kept]
    coarse = [np.ones(base.shape), *RATIOS[order]]
    chosen = _least(rows, base, spec, matrix, coarse)
    fine = [chosen, *(chosen * (1 + _FINE * step) for step in np.linspace(-1, 1, max(kept // 2, 4)))]
    finest = _least(rows, base, spec, matrix, [np.minimum(f, RATIOS[0]) for f in fine])
    return _pick(absmax_scale, finest, spec)


def search_block_scales(rows: F32, start: F64, blocks: Blocks, spec: QuantSpec, moment: SecondMoment) -> F64:
    """Return one scale per block of inputs, [G, C, B], chosen one block after the other.

    Where moments keep no more than diagonals, each block is chosen as if the others made no error.

    Args:
        rows: weights [G, C, 1, K].
        start: [G, C, B], the scales that cover each block.
        blocks: [K], the block of each input.
        spec: a symmetric signed grid.
        moment: second moments of the K inputs of each group.
    """
    matrix, variance, mean = moment.matrix(), moment.variance().astype(np.float64), moment.mean().astype(np.float64)
    unit = np.frexp(np.abs(rows).max(axis=(2, 3)))[1][..., None]
    near, base = np.ldexp(rows, -unit[..., None]).astype(np.float64), np.ldexp(start, -unit)
    count = int(np.clip(_BLOCK_WORK * start.shape[2] / (rows.size * rows.shape[-1]), 6, len(RATIOS)))
    ratios, least = RATIOS[np.linspace(0, len(RATIOS) - 1, count).astype(int)], np.full(start.shape[:2], SMALLEST_SCALE)
    if matrix is not None:
        problem = RoundingProblem(near, matrix.astype(np.float64), spec, least, blocks=blocks)
        found = nearest_of_blocks(problem, near, base, [base * ratio for ratio in ratios])[1]
    else:
        found = base.copy()
        for block in range(base.shape[2]):
            own, first = np.flatnonzero(blocks == block), base[..., block : block + 1]
            cost = variance[:, own, None] * np.eye(len(own)) + mean[:, own, None] * mean[:, None, own]
            part = RoundingProblem(near[..., own], cost, spec, least)
            scale = nearest_of_blocks(part, part.target, first, [first * ratio for ratio in ratios])[1]
            found[..., block : block + 1] = scale
    return np.asarray(bounded_scale(np.maximum(np.ldexp(found, unit), SMALLEST_SCALE), -spec.qmin), np.float64)


def _least(rows: F32, base: F32, spec: QuantSpec, matrix: F32, ratios: Sequence[F64]) -> F64:
    """Return for each channel the ratio with the least output error; the first wins a tie."""
    best, chosen = np.full(base.shape, np.inf), ratios[0]
    for ratio in ratios:
        error = _full_error(_delta(rows, base * ratio.astype(np.float32), spec), matrix)
        better = error < best * (1 - 1e-6)
        best, chosen = np.where(better, error, best), np.where(better, ratio, chosen)
    return chosen


def _pick(base: F32, ratio: F64, spec: QuantSpec) -> F32:
    scale = bounded_scale(np.maximum(base * ratio, SMALLEST_SCALE), -spec.qmin)
    return np.asarray(scale, dtype=np.float32).ravel()


def _delta(rows: F32, scale: F32 | F64, spec: QuantSpec) -> F32:
    step = scale.astype(np.float32)[:, :, None, None]
    return np.asarray(np.clip(np.rint(rows / step), spec.qmin, spec.qmax) * step - rows, dtype=np.float32)


def _cheap_error(delta: F32, variance: F32, mean: F32) -> npt.NDArray[np.float64]:
    spread = np.einsum("gctk,gk->gc", delta * delta, variance)
    shift = np.einsum("gctk,gk->gct", delta, mean)
    return np.asarray(spread + (shift * shift).sum(-1), dtype=np.float64)


def _full_error(delta: F32, matrix: F32) -> npt.NDArray[np.float64]:
    groups, channels, taps, inputs = delta.shape
    flat = delta.reshape(groups, channels * taps, inputs)
    error = ((flat @ matrix) * flat).sum(-1, dtype=np.float64)
    return np.asarray(error.reshape(groups, channels, taps).sum(-1))
