"""Grids for weights: a weight and the grid wanted in, its encoding out, by absolute maximum or by least squared error.

Every granularity is lowered to one matrix [groups, elements]: one row per scale (per tensor one row, per channel C
rows, per block one row per block, the last padded with zeros). One search over rows then serves all three.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fewbits.errors import DataError, SpecError
from fewbits.numerics.affine import F32, F64, blocked_shape, encoding_from_range, grid_from_range, normalized_axis
from fewbits.spec.dtypes import PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding

WeightMethod = Literal["absmax", "mse"]

RATIOS: F64 = np.linspace(1.0, 0.3, 57)
"""Shares of the full range that the search tries; the full range comes first and wins ties."""

_CHUNK = 1 << 16  # elements searched at a time: the temporaries stay in the processor's cache


def weight_encoding(
    w: npt.ArrayLike,
    spec: QuantSpec,
    *,
    method: WeightMethod = "absmax",
    importance: npt.ArrayLike | None = None,
    mean: npt.ArrayLike | None = None,
) -> Encoding:
    """Return the grid for a weight, one scale per tensor, channel or block as `spec.granularity` asks.

    "absmax" covers the full range: scale = absmax / qmax where symmetric, minimum to maximum where not. "mse" shrinks
    each group's range by the ratio that minimizes, with d = fake_quantize(w) - w and sums over the group,

        sum(importance * d^2) + (sum(mean * d))^2

    which is the expected squared error of a dot product with inputs of that variance and mean. A group of zeros only
    takes the tensor's largest scale, or 1 / qmax where all are zero.

    Args:
        w: float32, any shape.
        spec: the grid wanted.
        method: how far the range reaches.
        importance: not negative, broadcastable to `w`: the mean square of each input, or with `mean` its variance; 1 if
            not given. Read by "mse" only.
        mean: broadcastable to `w`: the mean of each input. Read by "mse" only.

    Raises:
        SpecError: an unknown method, an axis that `w` lacks, or importance or mean that do not fit `w`.
        DataError: `w`, `importance` or `mean` holds NaN or Inf, or an importance is negative.
    """
    if method not in ("absmax", "mse"):
        raise SpecError(f"Unknown weight range method {method!r}: write absmax or mse.")
    weight = np.asarray(w, dtype=np.float32)
    _check(weight, "weight")
    rows = _rows(weight, spec)
    low, high = _row_ranges(rows)
    if method == "mse":
        problem = _Problem(rows, _factor(importance, "importance", weight, spec), _factor(mean, "mean", weight, spec))
        ratios = _best_ratios(*_near_one(problem, low, high), spec)
        low, high = low * ratios, high * ratios
    shape = _scale_shape(weight.shape, spec)
    encoding = encoding_from_range(low.reshape(shape), high.reshape(shape), spec)
    return _with_scale_for_zeros(encoding, ((low == 0) & (high == 0)).reshape(shape))


@dataclass(frozen=True, slots=True)
class _Problem:
    """One search: weight rows [groups, elements] and the optional factors of the objective, of the same shape."""

    rows: F32
    importance: F32 | None
    mean: F32 | None


def _check(values: F32, name: str) -> None:
    if values.size == 0:
        raise DataError(f"An empty {name} of shape {values.shape} has no grid.")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise DataError(f"The {name} holds NaN or Inf: mend the model before quantizing it.")


def _factor(values: npt.ArrayLike | None, name: str, weight: F32, spec: QuantSpec) -> F32 | None:
    """Return importance or mean laid out like the weight's rows."""
    if values is None:
        return None
    factor = np.asarray(values, dtype=np.float32)
    _check(factor, name)
    if name == "importance" and factor.min() < 0:
        raise DataError(f"An importance is negative ({factor.min():g}): give mean squares or variances.")
    try:
        return _rows(np.broadcast_to(factor, weight.shape), spec)
    except ValueError:
        raise SpecError(
            f"The {name} of shape {factor.shape} does not broadcast to the weight {weight.shape}."
        ) from None


def _rows(x: F32, spec: QuantSpec) -> F32:
    """Return `x` as [groups, elements]: [O, I] with blocks of k along axis 1 -> [O * ceil(I / k), k]."""
    granularity = spec.granularity
    if isinstance(granularity, PerTensor):
        return x.reshape(1, -1)
    axis = normalized_axis(granularity.axis, x.shape)
    if isinstance(granularity, PerChannel):
        return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    last = np.moveaxis(x, axis, -1)
    padding = -last.shape[-1] % granularity.size
    if padding:
        last = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, padding)])
    blocks = last.reshape(*last.shape[:-1], -1, granularity.size)
    return np.moveaxis(blocks, -2, axis).reshape(-1, granularity.size)


def _scale_shape(shape: tuple[int, ...], spec: QuantSpec) -> tuple[int, ...]:
    granularity = spec.granularity
    if isinstance(granularity, PerTensor):
        return ()
    if isinstance(granularity, PerChannel):
        return (shape[normalized_axis(granularity.axis, shape)],)
    return blocked_shape(shape, granularity)


def _row_ranges(rows: F32) -> tuple[F64, F64]:
    low = np.minimum(rows.min(axis=1), 0.0).astype(np.float64)
    return low, np.maximum(rows.max(axis=1), 0.0).astype(np.float64)


def _with_scale_for_zeros(encoding: Encoding, is_zero: npt.NDArray[np.bool_]) -> Encoding:
    if not is_zero.any():
        return encoding
    scale = encoding.scale.copy()
    if is_zero.all():
        scale[...] = 1.0 / encoding.spec.qmax
    else:
        scale[is_zero] = scale[~is_zero].max()
    return Encoding(encoding.spec, scale, encoding.zero_point)


def _near_one(problem: _Problem, low: F64, high: F64) -> tuple[_Problem, F64, F64]:
    """Return the search with each row scaled by a power of two: its squares neither overflow nor vanish."""
    unit = np.frexp(np.maximum(-low, high))[1]
    rows = np.ldexp(problem.rows, -unit[:, None])
    return _Problem(rows, problem.importance, problem.mean), np.ldexp(low, -unit), np.ldexp(high, -unit)


def _best_ratios(problem: _Problem, low: F64, high: F64, spec: QuantSpec) -> F64:
    """Return for each row the ratio of least objective."""
    grids = [grid_from_range(low * ratio, high * ratio, spec) for ratio in RATIOS]
    groups, elements = problem.rows.shape
    columns = min(elements, _CHUNK)
    step = max(1, _CHUNK // columns)
    best = np.ones(groups)
    for start in range(0, groups, step):
        part = slice(start, min(start + step, groups))
        squares = np.zeros((len(RATIOS), part.stop - start))
        shifts = np.zeros_like(squares)
        for column in range(0, elements, columns):
            chunk = _cut(problem, part, slice(column, column + columns))
            for i, (scale, zero_point) in enumerate(grids):
                square, shift = _objective(chunk, scale[part, None], zero_point[part, None], spec)
                squares[i] += square
                shifts[i] += shift
        loss = squares + shifts**2
        chosen = loss.argmin(axis=0)
        gain = loss[chosen, np.arange(len(chosen))] < loss[0] * (1 - 1e-6)  # beyond float32 summation noise
        best[part] = np.where(gain, RATIOS[chosen], 1.0)
    return best


def _cut(problem: _Problem, rows: slice, columns: slice) -> _Problem:
    importance, mean = (None if x is None else x[rows, columns] for x in (problem.importance, problem.mean))
    return _Problem(problem.rows[rows, columns], importance, mean)


def _objective(chunk: _Problem, scale: F64, zero_point: F64, spec: QuantSpec) -> tuple[F64, F64]:
    """Return sum(importance * d^2) and sum(mean * d) of each row."""
    step = scale.astype(np.float32)
    d = chunk.rows / step
    np.rint(d, out=d)
    np.clip(d, (spec.qmin - zero_point).astype(np.float32), (spec.qmax - zero_point).astype(np.float32), out=d)
    d *= step
    d -= chunk.rows
    shift = np.zeros(len(d)) if chunk.mean is None else np.sum(d * chunk.mean, axis=1).astype(np.float64)
    weighted = d if chunk.importance is None else d * chunk.importance
    return np.einsum("ij,ij->i", weighted, d).astype(np.float64), shift
