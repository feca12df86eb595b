"""How far a test tensor is from its reference: two arrays of one shape in, one figure out (float64 arithmetic)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import MetricError
from fewbits.numerics.affine import F64, quantize
from fewbits.spec.encodings import Encoding


def mse(reference: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """Return the mean squared difference, in squared units of the tensors.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
    """
    left, right = _pair(reference, test)
    return float(np.mean((left - right) ** 2))


def sqnr_db(reference: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """Return the signal-to-quantization-noise ratio in dB: 10 log10(sum ref^2 / sum (ref - test)^2).

    Identical tensors give inf (cap it before averaging), noise on a reference of zeros gives -inf, NaN gives nan.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
    """
    accumulator = SqnrAccumulator()
    accumulator.update(reference, test)
    return accumulator.db


class SqnrAccumulator:
    """The SQNR of a tensor that arrives in batches: powers are summed, batches forgotten.

    Attributes:
        signal: sum of squares of the references so far.
        noise: sum of squared differences so far.
    """

    __slots__ = ("noise", "signal")

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def update(self, reference: npt.ArrayLike, test: npt.ArrayLike) -> None:
        """Take one batch in.

        Raises:
            MetricError: the shapes differ, or nothing is there to compare.
        """
        left, right = _pair(reference, test)
        self.signal += float(np.vdot(left, left))
        difference = left - right
        self.noise += float(np.vdot(difference, difference))

    @property
    def db(self) -> float:
        """SQNR in dB of everything seen; inf without noise, -inf for noise on a signal of zeros."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0:
            return -math.inf
        return 10.0 * math.log10(self.signal) - 10.0 * math.log10(self.noise)


def cosine(reference: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """Return the cosine of the angle between the tensors read as vectors; 1 for two of zeros, 0 if only one is.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
    """
    left, right = (x.ravel() for x in _pair(reference, test))
    norms = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    if 0.0 in norms:
        return float(norms[0] == norms[1])
    return float(np.clip((left / norms[0]) @ (right / norms[1]), -1.0, 1.0))


def agreement(reference: npt.ArrayLike, test: npt.ArrayLike, axis: int = -1) -> float:
    """Return the share (0 to 1) of positions whose argmax along `axis` is the same; of ties the first counts.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
    """
    left, right = _pair(reference, test)
    return float(np.mean(left.argmax(axis=axis) == right.argmax(axis=axis)))


def kl_divergence(reference: npt.ArrayLike, test: npt.ArrayLike, axis: int = -1) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, from softmax(reference) to softmax(test).

    Args:
        reference: logits, classes along `axis`.
        test: logits of the same shape.
        axis: the axis that the softmax runs along.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
    """
    left, right = (_log_softmax(x, axis) for x in _pair(reference, test))
    return max(float(np.mean(np.sum(np.exp(left) * (left - right), axis=axis))), 0.0)


def lsb_difference(reference: npt.ArrayLike, test: npt.ArrayLike, encoding: Encoding) -> npt.NDArray[np.int64]:
    """Return how many quantization steps (LSB) apart the tensors' codes are, element by element.

    Args:
        reference: reals, any shape.
        test: reals of the same shape.
        encoding: the grid on which both are read.

    Returns:
        int64, not negative, shape of the tensors.

    Raises:
        MetricError: the shapes differ, or nothing is there to compare.
        SpecError: the encoding does not fit the shape.
    """
    left, right = _pair(reference, test)
    codes = [quantize(x, encoding).astype(np.int64) for x in (left, right)]
    return np.asarray(np.abs(codes[0] - codes[1]), dtype=np.int64)


def _pair(reference: npt.ArrayLike, test: npt.ArrayLike) -> tuple[F64, F64]:
    left: npt.NDArray[Any] = np.asarray(reference)
    right: npt.NDArray[Any] = np.asarray(test)
    if left.shape != right.shape:
        raise MetricError(f"A tensor of shape {left.shape} cannot be compared with one of shape {right.shape}.")
    if left.size == 0:
        raise MetricError(f"There is nothing to compare in tensors of shape {left.shape}.")
    return left.astype(np.float64), right.astype(np.float64)


def _log_softmax(x: F64, axis: int) -> F64:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), dtype=np.float64)
