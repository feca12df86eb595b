"""Grids with a learned scale (LSQ) and a learned zero point (LSQ+).

    y = (clip(rint(x / s) + z, qmin, qmax) - z) s
    dy/dx = 1 inside the range, 0 outside
    dy/ds = rint(x / s) - x / s inside the range, qmin - z or qmax - z outside
    dy/dz = 0 inside the range, -s outside

Parameters are relative, so that one learning rate suits grids of any size: s = s0 ratio, and z is the code nearest to
qmin + zero_share (qmax - qmin). Their gradients are (g / s0) dL/ds and -(g / s) sum(dL/dy outside) / (qmax - qmin): one
step of plain gradient descent moves s as in LSQ and the real offset -z s as in LSQ+, and under Adam, which does not see
the size of gradients, the learning rate is a share of the scale and of the range.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fewbits.errors import SpecError
from fewbits.numerics.affine import SMALLEST_SCALE, broadcast_grid
from fewbits.runtime.torch_quantize import Quantizer
from fewbits.spec.dtypes import PerBlock
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Role

FARTHEST = 1e4
"""Factor by which a scale may grow or shrink, at most: it stays positive, and only diverging training gets there."""
_MOST_BITS = 16  # codes of more bits than this do not fit a float32
_FEW_STEPS = 256  # of grids of 8 bits and less
_LARGEST_SCALE = float(np.finfo(np.float32).max)
_Real = Any  # a number, or a tensor like the scale


class LearnedQuantizer(Quantizer):
    """One grid as a module whose scale is a parameter, and whose zero point is one where the grid is asymmetric.

    What comes out has the bits of `numerics.affine.fake_quantize` with `encoding()`. The zero point stays where the
    grid is symmetric, and where it is the lowest or highest code: such a range ends at zero for a reason, as behind a
    Relu.

    Args:
        encoding: the grid to start from, per tensor or per channel, of 16 bits at most.
        shape: of the tensor it is for; needed per channel.
        role: says how many elements share a scale: all of a weight or constant, those of one sample of an activation.
        learns: False keeps the grid as it is, without parameters.

    Attributes:
        ratio: scale over start, in the layout of the scale; None where nothing is learned.
        zero_share: where the zero point lies among the codes, from 0 to 1, in that layout; None where it stays.

    Raises:
        SpecError: the grid is per block, or has more than 16 bits.
    Source: Esser et al. 2020, "Learned Step Size Quantization", eq. 1-3 and section 2.2 (g = 1 / sqrt(N qmax));
        Bhalgat et al. 2020, "LSQ+", eq. 4-5.
    """

    ratio: nn.Parameter | None
    zero_share: nn.Parameter | None
    start_scale: torch.Tensor
    start_zero_point: torch.Tensor

    def __init__(
        self,
        encoding: Encoding,
        shape: tuple[int, ...] = (),
        *,
        role: Role = Role.ACTIVATION,
        learns: bool = True,
    ) -> None:
        super().__init__()
        spec = encoding.spec
        if isinstance(spec.granularity, PerBlock) or spec.dtype.bits > _MOST_BITS:
            what = "per-block scales" if isinstance(spec.granularity, PerBlock) else f"{spec.dtype.value} codes"
            raise SpecError(
                f"A grid with {what} cannot be learned: training knows scales per tensor and per channel, and at "
                f"most {_MOST_BITS} bits."
            )
        scale, zero_point = broadcast_grid(shape, encoding)
        self.spec = spec
        self.per_sample = role is Role.ACTIVATION
        self._shape = encoding.scale.shape
        self.register_buffer("start_scale", torch.from_numpy(np.array(scale, np.float32)))
        self.register_buffer("start_zero_point", torch.from_numpy(np.array(zero_point, np.float32)))
        moves = learns and not spec.is_symmetric and bool(((zero_point > spec.qmin) & (zero_point < spec.qmax)).any())
        share = np.array((zero_point - spec.qmin) / (spec.qmax - spec.qmin), np.float32)
        self.ratio = nn.Parameter(torch.ones(scale.shape)) if learns else None
        self.zero_share = nn.Parameter(torch.from_numpy(share)) if moves else None

    @property
    def scale(self) -> torch.Tensor:
        """The scale now: positive float32, in a layout that broadcasts against the tensor."""
        if self.ratio is None:
            return self.start_scale
        ratio = self.ratio.detach().clamp(1 / FARTHEST, FARTHEST)
        return ratio.mul_(self.start_scale).clamp_(SMALLEST_SCALE, _LARGEST_SCALE)

    @property
    def zero_point(self) -> torch.Tensor:
        """The zero point now: a code, as float32, in the layout of the scale."""
        if self.zero_share is None:
            return self.start_zero_point
        qmin, qmax = self.spec.qmin, self.spec.qmax
        return (self.zero_share.detach() * (qmax - qmin)).add_(qmin).round_().clamp_(qmin, qmax)

    def encoding(self) -> Encoding:
        """Return the grid as it is now.

        Raises:
            SpecError: a parameter became NaN.
        """
        scale, zero_point = (v.cpu().numpy().reshape(self._shape) for v in (self.scale, self.zero_point))
        if np.isnan(scale).any() or np.isnan(zero_point).any():
            raise SpecError("A learned scale or zero point became NaN: train with a lower learning rate.")
        return Encoding(self.spec, np.array(scale), np.asarray(zero_point.astype(np.int64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` as the grid holds it, in the type of `x`; the tensor itself while switched off."""
        return self._learned(x) if self.is_on else x

    def rectified(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return relu(x) as the grid holds it, or None while switched off or where the zero point is learned.

        Bits and gradients are those of the two in turn: codes below that of zero are not used, values below zero have
        no gradient, and the scale gets none from them.
        """
        return self._learned(x, is_rectified=True) if self.is_on and self.zero_share is None else None

    def _learned(self, x: torch.Tensor, *, is_rectified: bool = False) -> torch.Tensor:
        found: torch.Tensor = _Learned.apply(  # type: ignore[no-untyped-call]
            x, self.ratio, self.zero_share, self._now(x, is_rectified=is_rectified)
        )
        return found

    def _now(self, x: torch.Tensor, *, is_rectified: bool) -> "_Grid":
        spec, scale, zero_point = self.spec, self.scale, self.zero_point
        is_number = scale.ndim == 0 and scale.device.type == "cpu"
        zero: _Real = float(zero_point) if is_number else zero_point
        elements = x.numel() / max(len(x), 1) if self.per_sample and x.ndim else x.numel() / scale.numel()
        return _Grid(
            scale=scale,
            start=float(self.start_scale) if is_number else self.start_scale,
            low=zero * 0.0 if is_rectified else spec.qmin - zero,  # no zero point is below the lowest code
            high=spec.qmax - zero,
            share=1 / math.sqrt(max(elements, 1) * spec.qmax),
            steps=spec.qmax - spec.qmin,
            is_number=is_number,
            is_rectified=is_rectified,
        )


@dataclass(frozen=True, slots=True)
class _Grid:
    """A grid at one moment.

    Attributes:
        scale: in a layout that broadcasts.
        start: scale that the ratio counts from.
        low, high: lowest and highest code, less the zero point; after a Relu, the lowest is that of zero.
        share: factor g of the gradients of scale and zero point.
        steps: highest less lowest code.
        is_number: whether `start`, `low` and `high` are numbers instead of tensors like `scale`: faster where there is
            no device to wait for.
        is_rectified: whether a Relu comes first.
    """

    scale: torch.Tensor
    start: _Real
    low: _Real
    high: _Real
    share: float
    steps: int
    is_number: bool
    is_rectified: bool

    def held(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` as the grid holds it, in float32."""
        y = torch.div(x.float(), self.scale).round_().clamp_(self.low, self.high)
        if self.is_number:  # 0 + s y in one pass; -0.0 becomes the 0.0 that a code stands for
            return torch.add(torch.zeros(()), y, alpha=float(self.scale), out=y)
        return y.add_(0.0).mul_(self.scale)

    def ends(self) -> tuple[_Real, _Real]:
        """Return the ends between which values have a gradient: half a step outside the range, zero after a Relu."""
        scale: _Real = float(self.scale) if self.is_number else self.scale
        return (self.low if self.is_rectified else self.low - 0.5) * scale, (self.high + 0.5) * scale


class _Learned(torch.autograd.Function):
    """Everything at once, in few passes over memory; keeps only `x` and `y`, which the neighbours keep anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, ratio: torch.Tensor | None, zero_share: torch.Tensor | None, grid: _Grid
    ) -> torch.Tensor:
        y = grid.held(x).to(x.dtype)
        ctx.save_for_backward(x, y)
        ctx.grid = grid
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grid: _Grid = ctx.grid
        x, y = ctx.saved_tensors
        if x.dtype != torch.float32:  # under autocast `y` is rounded too coarsely to tell its distance from `x`
            x = x.float()
            y = grid.held(x)
        given = _like(gradients[0], x)
        inside = _inside(given, x, *grid.ends())
        for_ratio = for_zero = None
        if ctx.needs_input_grad[1]:
            for_ratio = _along_scale(given, inside, (x, y), grid) / grid.scale * (grid.share / grid.start)
        if ctx.needs_input_grad[2]:
            outside = given.sum_to_size(grid.scale.shape) - inside.sum_to_size(grid.scale.shape)
            for_zero = outside / grid.scale * (-grid.share / grid.steps)
        for_x = inside.to(gradients[0].dtype) if ctx.needs_input_grad[0] else None
        return for_x, for_ratio, for_zero, None


def _inside(given: torch.Tensor, x: torch.Tensor, low: _Real, high: _Real) -> torch.Tensor:
    """Return the gradient where `x` is in the range, and 0 elsewhere."""
    if isinstance(low, torch.Tensor):
        return torch.where((x > low) & (x < high), given, 0.0)
    found: torch.Tensor = torch.ops.aten.hardtanh_backward(given, x, low, high)  # in a tenth of the time of `where`
    return found


def _along_scale(
    given: torch.Tensor, inside: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor], grid: _Grid
) -> torch.Tensor:
    """Return s dL/ds: the sum of (y - x) dL/dy inside the range and of y dL/dy outside, in the layout of the scale."""
    x, y = pair
    if grid.steps <= _FEW_STEPS:
        if grid.is_number:
            total = _dot(given, y) - _dot(inside, x)
        else:
            total = (given * y).addcmul_(inside, x, value=-1).sum_to_size(grid.scale.shape)
        if math.isfinite(total if grid.is_number else total.sum()):  # an infinite `x` outside makes it NaN
            return total
    error = y - x.clamp(*grid.ends())  # differences lose digits where they are taken last and steps are many
    return (inside * error + (given - inside) * y).sum_to_size(grid.scale.shape)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the sum of a * b over all elements."""
    if a.stride() == b.stride() and _is_dense(a):
        return torch.dot(*(v.as_strided((v.numel(),), (1,)) for v in (a, b)))
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _is_dense(value: torch.Tensor) -> bool:
    order = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return value.is_contiguous() or value.is_contiguous(memory_format=order)


def _like(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient in float32 and in the order of memory of `x`."""
    same = gradient.dtype == x.dtype and gradient.stride() == x.stride()
    return gradient if same else torch.empty_like(x).copy_(gradient)
