"""Reductions over axes, and running sums."""

from collections.abc import Callable, Mapping, Sequence

import torch

from fewbits.runtime.torch_operators.arguments import ints_at, needed, positive, scalar
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator

Reduce = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]
"""(tensor, one axis or more) -> reduced, the axes kept with one element."""


def _reduction(reduce: Reduce, *, until: int = 18, is_real: bool = False) -> Operator:
    """Return the operator of a reduction; `axes` is an attribute before opset `until`, an input since.

    Args:
        reduce: how.
        until: first opset with axes as input.
        is_real: integers are reduced as real numbers and cut off.
    """

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        x = needed(call, inputs)
        axes = ints_at(call, inputs, 1, "axes", until=until)
        values = x.to(torch.float64) if is_real and not x.is_floating_point() else x
        if (not axes and call.attributes.get("noop_with_empty_axes", 0)) or x.ndim == 0:
            return reduce(values.unsqueeze(-1), (values.ndim,)).squeeze(-1).to(x.dtype)
        dims = tuple(sorted({positive(call, axis, x.ndim) for axis in axes or range(x.ndim)}))
        reduced = reduce(values, dims).to(x.dtype)
        return reduced if call.attributes.get("keepdims", 1) else _without(reduced, dims)

    return operator


def _without(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    return x.reshape([n for axis, n in enumerate(x.shape) if axis not in dims])


def _sum(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return x.sum(dims, keepdim=True, dtype=x.dtype)


def _product(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    for dim in dims:
        x = x.prod(dim, keepdim=True, dtype=x.dtype)
    return x


def _extreme(x: torch.Tensor, dims: tuple[int, ...], *, is_largest: bool) -> torch.Tensor:
    """Return the extreme; of nothing, the value that leaves every other as it is."""
    if all(x.shape[dim] for dim in dims):
        return x.amax(dims, keepdim=True) if is_largest else x.amin(dims, keepdim=True)
    least, most = _limits(x.dtype)
    shape = [1 if axis in dims else n for axis, n in enumerate(x.shape)]
    return x.new_full(shape, least if is_largest else most)


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and the largest value of a type."""
    if dtype.is_floating_point:
        return -torch.inf, torch.inf
    return (False, True) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _arg(*, is_largest: bool) -> Operator:
    """Return ArgMax or ArgMin."""

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        x = needed(call, inputs)
        axis = positive(call, call.attributes.get("axis", 0), x.ndim)
        is_last = bool(call.attributes.get("select_last_index", 0))
        searched = x.flip(axis) if is_last else x
        find = torch.argmax if is_largest else torch.argmin
        found = find(searched, axis, keepdim=bool(call.attributes.get("keepdims", 1)))
        return x.shape[axis] - 1 - found if is_last else found

    return operator


def _running(accumulate: Callable[..., torch.Tensor], neutral: int) -> Operator:
    """Return a running sum or product: `exclusive` leaves out the element itself, `reverse` runs from the end."""

    def operator(call: Call, inputs: Inputs) -> torch.Tensor:
        x = needed(call, inputs)
        axis = positive(call, int(scalar(needed(call, inputs, 1))), x.ndim)
        is_reverse = bool(call.attributes.get("reverse", 0))
        values = x.flip(axis) if is_reverse else x
        if call.attributes.get("exclusive", 0):
            first = torch.full_like(values.narrow(axis, 0, 1), neutral)
            values = torch.cat([first, values.narrow(axis, 0, values.shape[axis] - 1)], axis)
        found = accumulate(values, axis, dtype=x.dtype)
        return found.flip(axis) if is_reverse else found

    return operator


OPERATORS: Mapping[str, Operator] = {
    "ReduceSum": _reduction(_sum, until=13),
    "ReduceMean": _reduction(lambda x, dims: x.mean(dims, keepdim=True), is_real=True),
    "ReduceMax": _reduction(lambda x, dims: _extreme(x, dims, is_largest=True)),
    "ReduceMin": _reduction(lambda x, dims: _extreme(x, dims, is_largest=False)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, dims: _sum(x.abs(), dims)),
    "ReduceL2": _reduction(lambda x, dims: torch.linalg.vector_norm(x, 2, dims, keepdim=True), is_real=True),
    "ReduceSumSquare": _reduction(lambda x, dims: _sum(x * x, dims)),
    "ReduceLogSum": _reduction(lambda x, dims: _sum(x, dims).log(), is_real=True),
    "ReduceLogSumExp": _reduction(lambda x, dims: torch.logsumexp(x, dims, keepdim=True), is_real=True),
    "ArgMax": _arg(is_largest=True),
    "ArgMin": _arg(is_largest=False),
    "CumSum": _running(torch.cumsum, 0),
    "CumProd": _running(torch.cumprod, 1),
}
