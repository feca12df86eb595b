"""Integer storage types of quantized tensors, and how finely a grid is shared."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np

from fewbits.errors import SpecError


class DType(Enum):
    """Integer container types that ONNX QuantizeLinear can produce; the value is ONNX's own name for it."""

    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"

    @property
    def bits(self) -> int:
        """Bits of one stored element."""
        return int(self.value.lstrip("uint"))

    @property
    def is_signed(self) -> bool:
        """Whether negative codes exist."""
        return not self.value.startswith("u")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype with one array element per code (4-bit types come from ml_dtypes)."""
        return np.dtype(getattr(ml_dtypes, self.value) if self.bits == 4 else self.value)

    @classmethod
    def container(cls, bits: int, *, signed: bool) -> "DType":
        """Return the narrowest type that holds `bits` bits: ONNX has 4, 8 and 16 only."""
        for width in (4, 8, 16, 32):
            if bits <= width:
                return cls(f"{'' if signed else 'u'}int{width}")
        raise SpecError(f"No integer type holds {bits} bits: the widest grid has 32.")


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor: x [A, B] -> scale []."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale per index of `axis`: x [A, B], axis 0 -> scale [A]."""

    axis: int


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale per `size` consecutive elements of `axis`: x [A, B], axis 1, size k -> scale [A, B / k]."""

    axis: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SpecError(f"A block holds at least one element, not {self.size}.")


Granularity = PerTensor | PerChannel | PerBlock


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """The grid wanted for one tensor; scale and zero point come later, from statistics.

    Attributes:
        dtype: container type of the stored codes.
        bits: width of the grid; smaller than the container where ONNX lacks the width (6 bits live in int8).
        is_symmetric: zero point in the middle of the codes (0 for signed types); the lowest signed code stays unused.
        granularity: how finely scales are shared.
    """

    dtype: DType
    bits: int
    is_symmetric: bool
    granularity: Granularity = PerTensor()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= self.dtype.bits:
            raise SpecError(f"A grid in {self.dtype.value} has 2 to {self.dtype.bits} bits, not {self.bits}.")

    @property
    def qmin(self) -> int:
        """Lowest code in use: symmetric signed grids leave -2^(bits-1) unused."""
        if not self.dtype.is_signed:
            return 0
        return -(1 << (self.bits - 1)) + (1 if self.is_symmetric else 0)

    @property
    def qmax(self) -> int:
        """Highest code in use."""
        return (1 << (self.bits - 1)) - 1 if self.dtype.is_signed else (1 << self.bits) - 1
