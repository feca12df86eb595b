"""Geometry of sliding windows: what convolutions and pools have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import lacks
from fewbits.runtime.torch_operators.call import Call


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows over the spatial axes of [N, C, D1, D2, ...]; one entry per axis.

    Attributes:
        sizes: of the input.
        kernel: elements of a window.
        strides: elements between windows.
        dilations: elements between those of a window.
        before: padding in front.
        after: padding at the end.
    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Elements from a window's first to its last, both counted."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def is_symmetric(self) -> bool:
        """Whether both ends are padded alike, by none or more."""
        return self.before == self.after and min(self.before, default=0) >= 0

    def counts(self, *, is_ceil: bool) -> tuple[int, ...]:
        """Return how many windows there are; with `is_ceil` the last may reach over the end, but not begin there."""
        found = []
        for axis, extent in enumerate(self.extents):
            size, stride = self.sizes[axis] + self.before[axis], self.strides[axis]
            free = size + self.after[axis] - extent
            count = (math.ceil(free / stride) if is_ceil else free // stride) + 1
            found.append(count - 1 if is_ceil and (count - 1) * stride >= size else count)
        return tuple(found)

    def pad(self, x: torch.Tensor, value: float, counts: Sequence[int] | None = None) -> torch.Tensor:
        """Return `x` padded, or cut, at the end such that exactly `counts` windows fit; by `after` without them."""
        if counts is None:
            after = self.after
        else:
            reach = [(c - 1) * s + e for c, s, e in zip(counts, self.strides, self.extents, strict=True)]
            after = tuple(r - n - b for r, n, b in zip(reach, self.sizes, self.before, strict=True))
        return pad_ends(x, self.before, after, value)


def pad_ends(x: torch.Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """Return `x` with its last axes padded by constants; negative amounts cut off."""
    if not any(before) and not any(after):
        return x
    return functional.pad(
        x, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair], value=value
    )


def windows_of(call: Call, x: torch.Tensor, kernel: Sequence[int]) -> Windows:
    """Return the windows that a node's attributes (strides, dilations, pads, auto_pad) lay over `x`.

    Raises:
        ModelError: `x` has not one, two or three spatial axes.
    """
    sizes, rank = tuple(x.shape[2:]), x.ndim - 2
    if rank not in (1, 2, 3):
        raise lacks(call, f"inputs of {x.ndim} axes (3 to 5)")
    strides = tuple(call.attributes.get("strides", (1,) * rank))
    dilations = tuple(call.attributes.get("dilations", (1,) * rank))
    pads = tuple(call.attributes.get("pads", (0,) * (2 * rank)))
    before, after = pads[:rank], pads[rank:]
    mode = call.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        before = after = (0,) * rank
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        steps = [(math.ceil(n / s) - 1) * s for n, s in zip(sizes, strides, strict=True)]
        before, after = halves([max(s + e - n, 0) for s, e, n in zip(steps, extents, sizes, strict=True)], mode)
    return Windows(sizes, tuple(kernel), strides, dilations, before, after)


def halves(totals: Sequence[int], mode: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding before and after: SAME_UPPER has the odd element at the end, all others in front."""
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (small, large) if mode == "SAME_UPPER" else (large, small)
