"""Streaming second moments of the inputs of one layer: what an error in its weights does to its output.

For a linear layer y = w x, replacing w by w + d changes the output by an expected square of d^T E[x x^T] d. Rows x come
in, E[x x^T] comes out; for layers with very many inputs per output only its diagonal and the mean are kept. Sums are
taken of x less the mean of the first rows, so that inputs far from zero do not drown their own variance in rounding.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

MOST_INPUTS = 1024
"""Layers with more inputs per output than this keep the diagonal and the mean only."""

LARGEST = 2.0**50
"""Larger inputs are not squared: a million of these squares still add up to a float32."""

_FLUSH_ROWS = 64


@dataclass
class SecondMoment:
    """Mutable accumulator for one layer with G groups of K inputs each.

    Attributes:
        rows: how many rows each group has seen; 0 for good once an input was larger than `LARGEST`.
        is_too_large: an input was.
    """

    rows: int = 0
    is_too_large: bool = False
    _waiting: list[F32] = field(default_factory=list)
    _waiting_rows: int = 0
    _offset: F32 | None = None
    _square: F32 | None = None
    _sum: F64 | None = None

    def update(self, rows: npt.NDArray[Any]) -> None:
        """Take rows in: [G, R, K], R sampled input vectors of each of G groups."""
        if self.is_too_large or (rows.size and max(rows.max(), -rows.min()) > LARGEST):
            self.is_too_large, self.rows = True, 0
            self._waiting, self._waiting_rows, self._offset, self._square, self._sum = [], 0, None, None, None
            return
        self._waiting.append(np.array(rows, dtype=np.float32))
        self._waiting_rows += rows.shape[1]
        self.rows += rows.shape[1]
        if self._square is None or self._waiting_rows >= _FLUSH_ROWS:
            self.finish()

    def matrix(self, *, centered: bool = False) -> F32 | None:
        """Return E[x x^T] per group [G, K, K], or the covariance when `centered`; None when only diagonals are kept.

        It is shrunk towards its diagonal where rows are few, and the diagonal is lifted by 1 % of the mean power: an
        input that no sampled row excited (a rare feature) still has a price. The shrinkage K / (K + rows) keeps
        directions that no sample happened to excite from looking free of cost.
        """
        self.finish()
        if self._square is None or self._square.ndim != 3:
            return None
        shift, mean = self._shift(), self.mean().astype(np.float64)
        matrix = self._square / self.rows - shift[:, :, None] * shift[:, None, :]
        if not centered:
            matrix = matrix + mean[:, :, None] * mean[:, None, :]
        inputs = matrix.shape[-1]
        keep = self.rows / (self.rows + inputs)
        diagonal = np.einsum("gkk->gk", matrix).copy()
        matrix = matrix * keep
        np.einsum("gkk->gk", matrix)[...] = _lifted(diagonal)
        return np.asarray(matrix, dtype=np.float32)

    def mean(self) -> F32:
        """Return E[x] per group, [G, K]."""
        shift = self._shift()
        assert self._offset is not None
        return np.asarray(self._offset + shift, dtype=np.float32)

    def variance(self) -> F32:
        """Return the variance of each input, [G, K], lifted as in `matrix`."""
        shift = self._shift()
        assert self._square is not None
        square = np.einsum("gkk->gk", self._square) if self._square.ndim == 3 else self._square
        return _lifted(np.maximum(square / self.rows - shift**2, 0.0)).astype(np.float32)

    def _shift(self) -> F64:
        """Return E[x - offset], [G, K]."""
        self.finish()
        assert self._sum is not None
        return self._sum / self.rows

    def finish(self) -> None:
        """Take in the rows that still wait (they are gathered: few large products are faster than many small ones)."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting, self._waiting_rows = [], 0
        ones = np.ones((1, rows.shape[1]), dtype=np.float32)  # sums as products: much faster than sum(axis=1)
        if self._offset is None:
            self._offset = (ones @ rows)[:, 0] / np.float32(rows.shape[1])
        rows -= self._offset[:, None]
        if rows.shape[2] <= MOST_INPUTS:
            square = rows.transpose(0, 2, 1) @ rows
        else:
            square = np.einsum("grk,grk->gk", rows, rows)
        if self._square is None:
            self._square = np.zeros_like(square)
        self._square += square  # in place: these are the largest arrays that calibration keeps
        total = (ones @ rows)[:, 0].astype(np.float64)
        self._sum = total if self._sum is None else self._sum + total


def _lifted(power: F64) -> F64:
    return np.asarray(power + 0.01 * power.mean(axis=-1, keepdims=True))
