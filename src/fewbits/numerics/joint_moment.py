"""Streaming moments of what a layer reads in the quantized model, with what it should give: the ground of rounding.

The quantized network feeds a layer x^ instead of x; its weights should give the float model's y = w x + b all the same.
Rows (x^, y) come in; out come the cost E[x^ x^^T] of an error in the weights, and the weights that come closest to y,
w* = E[y x^^T] (E[x^ x^^T])^-1: what the layers before did wrong is made up for here as far as a linear layer can.
Sums are taken of differences to the means of the first rows, so that far means do not drown variances in rounding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

DAMPING = 0.03
"""Share of the mean power of the inputs that is added to the power of each, so that rare inputs keep a price."""


@dataclass
class JointMoment:
    """Mutable accumulator for one layer of G groups with K inputs and C outputs each.

    Attributes:
        rows: how many rows each group has seen.
    """

    rows: int = 0
    _offsets: tuple[F32, F32] | None = None
    _square: F64 | None = None
    _cross: F64 | None = None
    _sums: tuple[F64, F64] | None = None

    def offsets(self) -> tuple[F32, F32] | None:
        """Return what is taken off x [G, 1, K] and y [G, 1, C] before they are multiplied; None at first."""
        return self._offsets

    def start(self, x: F32, y: F32) -> None:
        """Set the offsets: means of the first rows, x [G, 1, K] and y [G, 1, C]."""
        self._offsets = (x, y)

    def add(self, rows: int, products: tuple[F32, F32], sums: tuple[F32, F32]) -> None:
        """Take rows in whose products were formed elsewhere, of x and y less their offsets.

        Args:
            rows: how many.
            products: sum of x x^T [G, K, K] and of x y^T [G, K, C].
            sums: of x [G, K] and of y [G, C].
        """
        self.rows += rows
        if self._square is None or self._cross is None or self._sums is None:
            self._square, self._cross = (np.array(part, np.float64) for part in products)
            self._sums = (np.array(sums[0], np.float64), np.array(sums[1], np.float64))
            return
        self._square += products[0]
        self._cross += products[1]
        self._sums = (self._sums[0] + sums[0], self._sums[1] + sums[1])

    def means(self) -> tuple[F64, F64]:
        """Return E[x^] [G, K] and E[y] [G, C]."""
        assert self._offsets is not None
        assert self._sums is not None
        x, y = (offset[:, 0] + total / self.rows for offset, total in zip(self._offsets, self._sums, strict=True))
        return np.asarray(x, np.float64), np.asarray(y, np.float64)

    def cost(self, *, centered: bool, damping: float = DAMPING) -> F64:
        """Return the damped E[x^ x^^T] per group, [G, K, K], or the covariance when `centered`; positive definite."""
        matrix = self._second(centered=centered)
        lift = self._lift(matrix, damping)
        return np.asarray(matrix + lift[:, None, None] * np.eye(matrix.shape[-1]))

    def closest(self, weights: F64, *, centered: bool, damping: float = DAMPING) -> F64:
        """Return the weights [G, C, K] that come closest to y on the inputs x^, held near `weights` by the damping.

        Args:
            weights: the float ones, [G, C, K].
            centered: a bias takes up what the means differ by.
            damping: as for `cost`.
        """
        assert self._cross is not None
        matrix = self._second(centered=centered)
        lift = self._lift(matrix, damping)[:, None, None]
        cross = self._cross / self.rows
        (shift_x, shift_y), (x, y) = self._shifts(), self.means()
        cross = cross - shift_x[:, :, None] * shift_y[:, None, :]
        if not centered:
            cross = cross + x[:, :, None] * y[:, None, :]
        right = cross + lift * weights.transpose(0, 2, 1)
        found = np.linalg.solve(matrix + lift * np.eye(matrix.shape[-1]), right)
        return np.asarray(found.transpose(0, 2, 1))

    def _second(self, *, centered: bool) -> F64:
        assert self._square is not None
        shift, mean = self._shifts()[0], self.means()[0]
        matrix = self._square / self.rows - shift[:, :, None] * shift[:, None, :]
        return np.asarray(matrix if centered else matrix + mean[:, :, None] * mean[:, None, :])

    def _shifts(self) -> tuple[F64, F64]:
        assert self._sums is not None
        return self._sums[0] / self.rows, self._sums[1] / self.rows

    @staticmethod
    def _lift(matrix: F64, damping: float) -> F64:
        """Return what is added to each group's diagonal; a group that never varied is priced like the others."""
        power = np.einsum("gkk->gk", matrix).mean(-1)
        found = damping * power
        usual = float(found.mean()) or 1.0
        return np.asarray(np.maximum(found, 1e-6 * usual))
