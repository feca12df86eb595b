"""The quantization arithmetic, and its one owner: reals and an encoding in, codes out, and back.

    q = clip(rint(x / scale) + zero_point, qmin, qmax)        x' = (q - zero_point) * scale

The division is a float32 division, ties go to even and the zero point is added after rounding: of the variants in use
elsewhere only this one gives the bits of ONNX Runtime's QuantizeLinear. Two differences are wanted. Codes are clipped
to the spec's qmin and qmax, narrower than the container for symmetric signed grids and for odd widths. And int32
(biases, for which ONNX has no QuantizeLinear) divides in float64, since float32 cannot hold 32-bit codes.
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding

Reals = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_T = TypeVar("_T", bound=np.generic)

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Smallest normal float32: scales below are raised to it, since runtimes may flush denormals to zero."""
LARGEST_VALUE = float(np.finfo(np.float32).max) * (1 - 2.0**-20)
"""No code may stand for more, whatever way a runtime rounds the product of code and scale."""


def quantize(x: npt.ArrayLike, encoding: Encoding) -> npt.NDArray[Any]:
    """Map real values to the integer grid: clip(rint(x / scale) + zero_point, qmin, qmax).

    Args:
        x: reals, any shape; computed in float32.
        encoding: the grid; per channel its [C] lies along `axis`, per block each scale covers `size` elements.

    Returns:
        Codes of `encoding.spec.dtype.numpy`, shape of `x`. Infinities saturate; the code of a NaN is unspecified.

    Raises:
        SpecError: the encoding does not fit the shape of `x`.
    Source: ONNX QuantizeLinear-21, as ONNX Runtime computes it.
    """
    values = np.asarray(x, dtype=np.float32)
    scale, zero_point = broadcast_grid(values.shape, encoding)
    steps = _steps(values, scale, zero_point, encoding.spec)
    with np.errstate(invalid="ignore"):
        codes = np.asarray(steps + zero_point.astype(steps.dtype))
        if encoding.spec.dtype.bits == 4:
            return codes.astype(np.int8).astype(encoding.spec.dtype.numpy)
        return codes.astype(encoding.spec.dtype.numpy)


def dequantize(q: npt.NDArray[Any], encoding: Encoding) -> F32:
    """Map codes to the reals they stand for: (q - zero_point) * scale.

    Args:
        q: integer codes, any shape.
        encoding: the grid, laid out as in `quantize`.

    Returns:
        float32, shape of `q`.

    Raises:
        SpecError: the encoding does not fit the shape of `q`.
    Source: ONNX DequantizeLinear-21.
    """
    codes = np.asarray(q)
    scale, zero_point = broadcast_grid(codes.shape, encoding)
    if encoding.spec.dtype.bits == 4:
        codes = codes.astype(np.int8)
    steps = (codes.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32)
    return np.asarray(steps * scale, dtype=np.float32)


def fake_quantize(x: npt.ArrayLike, encoding: Encoding) -> F32:
    """Return `x` as the grid holds it: dequantize(quantize(x)), bit for bit, without storing the codes.

    Args:
        x: reals, any shape; computed in float32.
        encoding: the grid, laid out as in `quantize`.

    Returns:
        float32, shape of `x`. A NaN stays a NaN.

    Raises:
        SpecError: the encoding does not fit the shape of `x`.
    """
    values = np.asarray(x, dtype=np.float32)
    scale, zero_point = broadcast_grid(values.shape, encoding)
    steps = np.asarray(_steps(values, scale, zero_point, encoding.spec), dtype=np.float32)
    steps += np.float32(0)  # -0.0 becomes the 0.0 that a code stands for
    steps *= scale
    return steps


def stored_shape(shape: tuple[int, ...], encoding: Encoding) -> tuple[int, ...]:
    """Return the shape in which a bias is stored: one row of any rank is a vector of one value per channel."""
    granularity = encoding.spec.granularity
    if not isinstance(granularity, PerChannel):
        return shape
    return (encoding.scale.size,) if granularity.axis == 0 else (*shape[:-1], encoding.scale.size)


def broadcast_grid(shape: tuple[int, ...], encoding: Encoding) -> tuple[F32, npt.NDArray[np.int64]]:
    """Return scale and zero point in one layout that broadcasts against a tensor of `shape`, for every granularity.

    Shapes: per tensor [] -> []; per channel [C] with axis 1 of [N, C, H, W] -> [1, C, 1, 1]; per block [A, B / k] with
    axis 1 of [A, B] -> [A, B] (the last block may be cut short).

    Raises:
        SpecError: the encoding does not fit `shape`.
    """
    granularity, scale = encoding.spec.granularity, encoding.scale
    if not isinstance(granularity, PerTensor):
        axis = normalized_axis(granularity.axis, shape)
        wanted = (shape[axis],) if isinstance(granularity, PerChannel) else blocked_shape(shape, granularity)
        if scale.shape != wanted:
            what = f"-channel scales along axis {axis}"
            if isinstance(granularity, PerBlock):
                what = f"-block scales ({granularity.size} along axis {axis})"
            raise SpecError(f"Per{what} of a tensor {shape} have the shape {wanted}, not {scale.shape}.")
    return spread_scales(scale, shape, granularity), spread_scales(encoding.zero_point, shape, granularity)


def spread_scales(values: npt.NDArray[_T], shape: tuple[int, ...], granularity: Granularity) -> npt.NDArray[_T]:
    """Return what belongs to scales in a layout that broadcasts against a tensor of `shape`; see `broadcast_grid`."""
    if isinstance(granularity, PerTensor):
        return values
    axis = normalized_axis(granularity.axis, shape)
    if isinstance(granularity, PerChannel):
        return values.reshape(tuple(-1 if i == axis else 1 for i in range(len(shape))))
    cut = (slice(None),) * axis + (slice(shape[axis]),)
    return np.repeat(values, granularity.size, axis)[cut]


def blocked_shape(shape: tuple[int, ...], granularity: PerBlock) -> tuple[int, ...]:
    """Return the shape of the scales of a tensor of `shape`: [A, B], axis 1, size k -> [A, ceil(B / k)]."""
    axis = normalized_axis(granularity.axis, shape)
    return (*shape[:axis], -(-shape[axis] // granularity.size), *shape[axis + 1 :])


def normalized_axis(axis: int, shape: tuple[int, ...]) -> int:
    """Return `axis` counted from the front.

    Raises:
        SpecError: a tensor of `shape` has no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise SpecError(f"A tensor of shape {shape} has no axis {axis} to share scales along.")
    return axis % len(shape)


def encoding_from_range(low: npt.ArrayLike, high: npt.ArrayLike, spec: QuantSpec) -> Encoding:
    """Return the grid of `spec` that covers [low, high] and zero.

    Asymmetric: scale = (high - low) / (qmax - qmin), zero_point = rint(qmin - low / scale): a range that starts at 0
    gets zero_point = qmin exactly. Symmetric: see `grid_from_range`. A range of zeros only is taken as [0, 1].

    Args:
        low: lowest value(s), shape [] per tensor, [C] per channel, the blocked shape per block; above zero means zero.
        high: highest value(s), of the same shape; below zero means zero.
        spec: the grid wanted.

    Raises:
        SpecError: a bound is not finite, low exceeds high, or the shape does not fit the granularity.
    """
    lows, highs = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if lows.shape != highs.shape or (isinstance(spec.granularity, PerChannel) and lows.ndim != 1):
        raise SpecError(
            f"Ranges of shape {lows.shape} and {highs.shape} do not fit the granularity {spec.granularity}."
        )
    bad = ~(np.isfinite(lows) & np.isfinite(highs) & (lows <= highs))
    if bad.any():
        where = f" at index {np.argwhere(bad)[0].tolist()}" if bad.ndim else ""
        raise SpecError(
            f"The range [{lows[bad][0]:g}, {highs[bad][0]:g}]{where} makes no grid: both ends must be finite and in "
            f"order. Look for NaN or Inf in the tensor it was taken from."
        )
    scale, zero_point = grid_from_range(lows, highs, spec)
    return Encoding(spec, np.asarray(scale, dtype=np.float32), np.asarray(zero_point, dtype=np.int64))


def grid_from_range(low: F64, high: F64, spec: QuantSpec) -> tuple[F64, F64]:
    """Return (scale, zero_point) for finite ranges, vectorized: scale has a float32's precision, both are float64.

    Symmetric signed: scale = max(|low|, |high|) / qmax, zero_point 0. Symmetric unsigned: zero_point 2^(bits-1), and
    2^(bits-1) - 1 steps on the shorter (upper) side reach max(|low|, |high|), so both ends fit.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    high = np.where((low == 0) & (high == 0), 1.0, high)
    if spec.is_symmetric:
        middle = 0 if spec.dtype.is_signed else 2 ** (spec.bits - 1)
        scale = _usable(np.maximum(-low, high) / (spec.qmax - middle))
        return bounded_scale(scale, middle - spec.qmin), np.full(scale.shape, float(middle))
    scale = _usable((high - low) / (spec.qmax - spec.qmin))
    zero_point = np.clip(np.rint(spec.qmin - low / scale), spec.qmin, spec.qmax)
    return bounded_scale(scale, np.maximum(zero_point - spec.qmin, spec.qmax - zero_point)), zero_point


def bias_encoding(input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike) -> Encoding:
    """Return the int32 grid of a bias: scale = input scale x weight scale in float32, zero point 0.

    Args:
        input_scale: the input's one scale.
        weight_scale: [] for a per-tensor weight, [C] for a per-channel one: so is the bias's scale, along its axis 0.

    Raises:
        SpecError: the product is not a positive finite float32, or the scales have other shapes.
    """
    left, right = np.asarray(input_scale, dtype=np.float32), np.asarray(weight_scale, dtype=np.float32)
    if left.size != 1 or right.ndim > 1:
        raise SpecError(
            f"A bias needs one input scale and per-tensor or per-channel weight scales, not the shapes {left.shape} "
            f"and {right.shape}."
        )
    with np.errstate(over="ignore", under="ignore"):
        scale = np.asarray(left.reshape(()) * right, dtype=np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise SpecError(
            f"The bias scale (input scale {left.reshape(()):g} x weight scale) leaves float32: raise or lower the "
            f"scales of this layer."
        )
    spec = QuantSpec(DType.INT32, 32, is_symmetric=True, granularity=PerChannel(0) if right.ndim else PerTensor())
    return Encoding(spec, scale, np.zeros(scale.shape, dtype=np.int64))


def _usable(scale: F64) -> F64:
    rounded = np.asarray(scale).astype(np.float32).astype(np.float64)
    return np.asarray(np.maximum(rounded, SMALLEST_SCALE), dtype=np.float64)


def bounded_scale(scale: F32 | F64, steps: F64 | float) -> F64:
    """Return `scale`, or less of it, such that `steps` of it, the farthest code from zero, stay a finite float32."""
    return np.asarray(np.minimum(scale, np.float32(LARGEST_VALUE / steps)), dtype=np.float64)


def _steps(values: F32, scale: F32, zero_point: npt.NDArray[np.int64], spec: QuantSpec) -> Reals:
    """Return the code minus the zero point as reals: clip(rint(x / scale), qmin - zp, qmax - zp)."""
    real = np.float64 if spec.dtype.bits > 16 else np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        steps = np.asarray(np.divide(values, scale, dtype=real))
    np.rint(steps, out=steps)
    np.clip(steps, (spec.qmin - zero_point).astype(real), (spec.qmax - zero_point).astype(real), out=steps)
    return steps
