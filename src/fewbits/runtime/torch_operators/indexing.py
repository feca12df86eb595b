"""Reading parts of a tensor: slices, and elements by index."""

from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import ints, needed, optional, positive
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def slice_axes(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take start:end:step of axes, as Python slices do. Source: ONNX Slice-1 (attributes), Slice-13."""
    x = needed(call, inputs)
    starts, ends, axes, steps = _bounds(call, inputs)
    parts, backward = [slice(None)] * x.ndim, []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = positive(call, axis, x.ndim)
        if step > 0:
            parts[dim] = slice(start, end, step)
        else:
            backward.append((dim, range(*slice(start, end, step).indices(x.shape[dim]))))
    x = x[tuple(parts)]
    for dim, places in backward:
        x = x.index_select(dim, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _bounds(call: Call, inputs: Inputs) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return starts, ends, axes and steps."""
    if call.opset < 10:
        starts, ends = list(call.attributes["starts"]), list(call.attributes["ends"])
        return starts, ends, list(call.attributes.get("axes", range(len(starts)))), [1] * len(starts)
    starts, ends = ints(needed(call, inputs, 1)), ints(needed(call, inputs, 2))
    axes, steps = optional(inputs, 3), optional(inputs, 4)
    return (
        starts,
        ends,
        list(range(len(starts))) if axes is None else ints(axes),
        [1] * len(starts) if steps is None else ints(steps),
    )


def from_front(indices: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    """Return indices as int64 on `device`, negative ones counted from the front."""
    indices = indices.to(device, torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def gather(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take slices along an axis by index [I...]; the result has the axes of I in its place. Source: ONNX Gather-13."""
    x, indices = needed(call, inputs), needed(call, inputs, 1)
    axis = positive(call, call.attributes.get("axis", 0), x.ndim)
    if indices.ndim == 0 and indices.device.type == "cpu":
        return x.select(axis, int(indices))
    places = from_front(indices, x.shape[axis], x.device)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take single elements along an axis. Source: ONNX GatherElements-13."""
    x, indices = needed(call, inputs), needed(call, inputs, 1)
    axis = positive(call, call.attributes.get("axis", 0), x.ndim)
    return torch.gather(x, axis, from_front(indices, x.shape[axis], x.device))


def gather_nd(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take slices by indices [..., k] into the k axes after the batch. Source: ONNX GatherND-13."""
    x, indices = needed(call, inputs), needed(call, inputs, 1)
    batch = call.attributes.get("batch_dims", 0)
    places = []
    for axis in range(batch):
        own = torch.arange(x.shape[axis], device=x.device)
        places.append(own.reshape(-1, *(1 for _ in range(indices.ndim - 2 - axis))))
    for place, part in enumerate(indices.unbind(-1)):
        places.append(from_front(part, x.shape[batch + place], x.device))
    return x[tuple(places)]


OPERATORS: Mapping[str, Operator] = {
    "Slice": slice_axes,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
}
