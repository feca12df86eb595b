"""Grids that are fixed: a spec together with its scale and zero point."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.errors import SpecError
from fewbits.spec.dtypes import PerTensor, QuantSpec


@dataclass(frozen=True, eq=False)
class Encoding:
    """The grid of one tensor: real = (code - zero_point) * scale.

    Attributes:
        spec: container, width, symmetry and granularity.
        scale: float32, positive; shape [] per tensor, [C] per channel, the blocked shape per block.
        zero_point: int64 codes, shape of `scale`.
    """

    spec: QuantSpec
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32 or self.scale.shape != self.zero_point.shape:
            raise SpecError(
                f"An encoding needs a float32 scale and a zero point of the same shape, not {self.scale.dtype} "
                f"{self.scale.shape} and {self.zero_point.shape}."
            )
        if isinstance(self.spec.granularity, PerTensor) and self.scale.shape != ():
            raise SpecError(f"A per-tensor encoding has one scale, not the shape {self.scale.shape}.")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise SpecError("Every scale of an encoding is a positive finite number.")
        bits = self.spec.dtype.bits
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if self.spec.dtype.is_signed else (0, (1 << bits) - 1)
        if self.zero_point.size and not low <= int(self.zero_point.min()) <= int(self.zero_point.max()) <= high:
            raise SpecError(f"A zero point of {self.spec.dtype.value} lies in [{low}, {high}].")

    @property
    def range(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Lowest and highest real value on the grid, each of the shape of `scale`; no farther out than float32 goes."""
        low = (self.spec.qmin - self.zero_point) * self.scale.astype(np.float64)
        high = (self.spec.qmax - self.zero_point) * self.scale.astype(np.float64)
        most = np.finfo(np.float32).max
        return np.maximum(low, -most).astype(np.float32), np.minimum(high, most).astype(np.float32)
