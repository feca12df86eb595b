"""Choosing elements by their values."""

from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import needed, of_one, optional, positive, scalar
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator, Outputs


def top_k(call: Call, inputs: Inputs) -> Outputs:
    """Return the k largest or smallest along an axis, and their places; of equals the first. Source: ONNX TopK-11."""
    x = needed(call, inputs)
    k = call.attributes["k"] if call.opset < 10 else int(scalar(needed(call, inputs, 1)))
    axis = positive(call, call.attributes.get("axis", -1), x.ndim)
    values, places = torch.sort(x, stable=True, dim=axis, descending=bool(call.attributes.get("largest", 1)))
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


def compress(call: Call, inputs: Inputs) -> torch.Tensor:
    """Take the slices, or elements, where a condition holds. Source: ONNX Compress-11."""
    x, condition = needed(call, inputs), needed(call, inputs, 1)
    places = condition.to(x.device).nonzero().reshape(-1)
    if "axis" not in call.attributes:
        return x.reshape(-1).index_select(0, places)
    return x.index_select(positive(call, call.attributes["axis"], x.ndim), places)


def reverse_sequence(call: Call, inputs: Inputs) -> torch.Tensor:
    """Turn around the first elements of every sequence, as many as it is long. Source: ONNX ReverseSequence-10."""
    x, lengths = needed(call, inputs), needed(call, inputs, 1)
    time, batch = call.attributes.get("time_axis", 0), call.attributes.get("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths.to(x.device)[:, None]
    places = torch.where(steps < ends, ends - 1 - steps, steps)  # [batch, time]
    places = places if batch < time else places.t()
    places = places.reshape(*places.shape, *(1 for _ in range(x.ndim - 2)))
    return torch.gather(x, time, places.expand(x.shape))


def non_max_suppression(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return (batch, class, box) of boxes that overlap no better one of their class. Source: ONNX NonMaxSuppression-11.

    Boxes [N, B, 4], scores [N, C, B]; result int64 [selected, 3].
    """
    boxes, scores = needed(call, inputs), needed(call, inputs, 1)
    limits = [optional(inputs, position) for position in (2, 3, 4)]
    most, overlap, least = (None if limit is None else scalar(limit) for limit in limits)
    corners = _corners(boxes, is_centre=bool(call.attributes.get("center_point_box", 0)))
    found = []
    for batch, klass in torch.cartesian_prod(torch.arange(scores.shape[0]), torch.arange(scores.shape[1])).tolist():
        chosen = _greedy(corners[batch], scores[batch, klass], int(most or 0), float(overlap or 0.0), least)
        found += [[batch, klass, box] for box in chosen]
    return torch.tensor(found, dtype=torch.int64, device=scores.device).reshape(-1, 3)


def _corners(boxes: torch.Tensor, *, is_centre: bool) -> torch.Tensor:
    """Return boxes as low and high corners [..., 4]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if is_centre:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _greedy(boxes: torch.Tensor, scores: torch.Tensor, most: int, overlap: float, least: float | None) -> list[int]:
    """Return the boxes [B, 4] that are kept, best first."""
    order = torch.sort(scores, stable=True, descending=True).indices
    order = order if least is None else order[scores[order] > least]
    kept: list[int] = []
    while order.numel() and len(kept) < most:
        best, others = order[0], order[1:]
        kept.append(int(best))
        order = others[_overlaps(boxes[best], boxes[others]) <= overlap]
    return kept


def _overlaps(box: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return intersection over union of one box [4] with others [B, 4]."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    shared = sides.prod(-1)
    union = (box[2:] - box[:2]).prod(-1) + (others[:, 2:] - others[:, :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


OPERATORS: Mapping[str, Operator] = {
    "TopK": top_k,
    "Compress": compress,
    "ReverseSequence": reverse_sequence,
    "NonZero": of_one(lambda x: torch.nonzero(x).t()),
    "NonMaxSuppression": non_max_suppression,
}
