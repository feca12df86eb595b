"""Attention and rotary position embeddings."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch.nn import functional

from fewbits.runtime.torch_operators.arguments import needed, optional
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator, Outputs
from fewbits.runtime.torch_operators.casting import dtype_of


def attention(call: Call, inputs: Inputs) -> Outputs:
    """Return softmax(Q K' scale + bias) V, and the keys, values and scores where wanted. Source: ONNX Attention-25.

    Q, K and V are [batch, heads, tokens, size] or [batch, tokens, heads x size].
    """
    q, k, v = (_heads(call, needed(call, inputs, place), place) for place in range(3))
    past = [optional(inputs, 4), optional(inputs, 5)]
    keys, values = (new if old is None else torch.cat([old, new], 2) for old, new in zip(past, (k, v), strict=True))
    groups = q.shape[1] // keys.shape[1]
    scale = call.attributes.get("scale", 1.0 / sqrt(q.shape[-1]))
    raw = (q * sqrt(scale)) @ (keys.repeat_interleave(groups, 1) * sqrt(scale)).transpose(2, 3)
    cap = call.attributes.get("softcap", 0.0)
    capped = cap * torch.tanh(raw / cap) if cap else raw
    bias = _bias(call, inputs, q, keys.shape[2], 0 if past[0] is None else past[0].shape[2])
    biased = capped + bias
    wide = biased.to(dtype_of(call, "softmax_precision")) if "softmax_precision" in call.attributes else biased
    is_blind = bias.amax(-1, keepdim=True) == -torch.inf  # a query that may see no key gives zeros
    shares = torch.softmax(wide, -1).masked_fill(is_blind, 0.0).to(q.dtype)
    y = shares @ values.repeat_interleave(groups, 1)
    if needed(call, inputs).ndim == 3:
        y = y.transpose(1, 2).flatten(2)
    scores = (raw, capped, biased, shares)[call.attributes.get("qk_matmul_output_mode", 0)]
    return (y, keys, values, scores)[: len(call.outputs)]


def _heads(call: Call, x: torch.Tensor, place: int) -> torch.Tensor:
    """Return [batch, heads, tokens, size]."""
    if x.ndim == 4:
        return x
    heads = call.attributes["kv_num_heads" if place else "q_num_heads"]
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(call: Call, inputs: Inputs, q: torch.Tensor, tokens: int, past: int) -> torch.Tensor:
    """Return what is added to the scores [..., queries, tokens]: the mask, and -inf where a query sees no key."""
    mask, lengths = optional(inputs, 3), optional(inputs, 6)
    hidden = ~_visible(call, q, tokens, past, lengths)
    bias = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, -torch.inf)
    if mask is None:
        return bias
    mask = mask.to(q.device)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    return bias + functional.pad(mask, [0, tokens - mask.shape[-1]], value=-torch.inf)


def _visible(call: Call, q: torch.Tensor, tokens: int, past: int, lengths: torch.Tensor | None) -> torch.Tensor:
    """Say which keys every query may see by its position: [batch or 1, 1, queries, tokens]."""
    key = torch.arange(tokens, device=q.device)
    query = torch.arange(q.shape[2], device=q.device)[:, None] + past
    seen = torch.ones((1, 1, q.shape[2], tokens), dtype=torch.bool, device=q.device)
    if lengths is not None:
        ends = lengths.to(q.device).reshape(-1, 1, 1, 1)
        query = query if past else query + ends - q.shape[2]
        seen = seen & (key < ends)
    if call.attributes.get("is_causal", 0):
        seen = seen & (key <= query)
    left, right = call.attributes.get("left_window_size", -1), call.attributes.get("right_window_size", -1)
    seen = seen & (key >= query - left) if left >= 0 else seen
    return seen & (key <= query + right) if right >= 0 else seen


def rotary_embedding(call: Call, inputs: Inputs) -> torch.Tensor:
    """Turn pairs of elements by angles that grow with the position. Source: ONNX RotaryEmbedding-23.

    x is [batch, heads, tokens, size] or [batch, tokens, heads x size].
    """
    x, places = needed(call, inputs), optional(inputs, 3)
    cosine, sine = needed(call, inputs, 1).to(x.device), needed(call, inputs, 2).to(x.device)
    if places is not None:
        cosine, sine = cosine[places.to(x.device)], sine[places.to(x.device)]
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    tokens = x.transpose(1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], call.attributes["num_heads"], -1)
    size = call.attributes.get("rotary_embedding_dim", 0) or tokens.shape[-1]
    turned, rest = tokens[..., :size], tokens[..., size:]
    is_interleaved = bool(call.attributes.get("interleaved", 0))
    first, second = (turned[..., ::2], turned[..., 1::2]) if is_interleaved else turned.chunk(2, -1)
    real, imaginary = cosine * first - sine * second, sine * first + cosine * second
    found = torch.stack([real, imaginary], -1).flatten(-2) if is_interleaved else torch.cat([real, imaginary], -1)
    y = torch.cat([found, rest], -1)
    return y.transpose(1, 2) if x.ndim == 4 else y.reshape(x.shape)


OPERATORS: Mapping[str, Operator] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
