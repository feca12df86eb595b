"""What stands for an infinity on a grid."""

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import LARGEST_VALUE

MASK = 65504.0
"""What an infinity in a mask is taken for: the largest float16."""
_REACH = 4.0


def without_infinities(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return `values` with infinities replaced by what stands for them on a grid.

    That is 65504 where all other values are zero (a mask), which fp16 holds too; else a bound well outside of the other
    values, so that these keep a part of the grid.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == values.size:
        return values
    low, high = outside(float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf)))
    return np.nan_to_num(values, nan=np.nan, posinf=high, neginf=low).astype(np.float32)


def outside(low: float, high: float) -> tuple[float, float]:
    """Return what stands for infinities beside finite values from `low` to `high` (none, where low > high)."""
    if low >= high == 0 or low > high:
        return -MASK, MASK
    reach = _REACH * max(max(high, 0.0) - min(low, 0.0), _REACH)
    return max(low - reach, -LARGEST_VALUE), min(high + reach, LARGEST_VALUE)
