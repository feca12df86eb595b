"""Cross-layer equalization: float graph in, functionally equal float graph with better balanced weights out.

For a boundary y = W2 f(W1 x + b1) with f(x / s) = f(x) / s, the weights W1 / s, b1 / s and W2 s compute the same. How s
is chosen is said in `cle_scales.py`, which boundaries there are in `chains.py`.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.passes import dead_code
from fewbits.graph.passes.base import FloatArray, constant
from fewbits.graph.shapes import infer_shapes
from fewbits.improvement.bounds import divide_by, replace_clip, rewrite_bound
from fewbits.improvement.chains import Pair, find_pairs
from fewbits.improvement.cle_scales import Boundary, Evened, Window, even_out
from fewbits.improvement.layer_blocks import blocks_of, divide_outputs, multiply_inputs
from fewbits.improvement.result import Improved

Clips = Literal["exact", "decline", "replace"]
_ALIKE = 1e-6


def equalize(model: ir.Model, *, clips: Clips = "exact", limit: float = 1e3, bound_limit: float = 8.0) -> Improved:
    """Return `model` with weights whose ranges are balanced channel by channel; it computes the same.

    Args:
        model: a prepared float graph; left as it is.
        clips: what to do where a Clip of 0 to h stands between two layers. "exact": it becomes a Relu and a Min with
            one bound per channel. "decline": the two are left alone. "replace": it becomes a Relu, which changes the
            function above h; the notes name each.
        limit: every scale lies in [1 / limit, limit].
        bound_limit: a Min or Max, or a Clip made one, whose positive bound was one for all channels gets bounds within
            this factor of it, since they share one grid; bounds that differ already stay between their extremes.

    Returns:
        `errors` has for the first layer of each pair 1 - mean of the shares of the weight range that a channel uses in
        the two layers (`cle_scales.py`).

    Raises:
        SpecError: an option has no such value.
        ModelError: the shapes of the graph contradict each other.
    Source: Nagel et al. 2019, Data-Free Quantization through Weight Equalization and Bias Correction, section 4.1.
    """
    _check_options(clips, limit=limit, bound_limit=bound_limit)
    work = model.clone()
    infer_shapes(work)
    pairs, declined = _pairs(work.graph, clips)
    windows = [_window(pair, clips, float(np.log(limit)), float(np.log(bound_limit))) for pair in pairs]
    results = even_out(_matrices(pairs), [_boundary(pair) for pair in pairs], windows)
    moved = [(pair, row.scale) for pair, row in zip(pairs, results, strict=True) if np.any(row.scale != 1)]
    names = {str(layer.name) for pair, _ in moved for layer in (pair.first, pair.second)}
    for pair, scale in moved:
        _apply(work, pair, scale, clips)
    if any(pair.clips for pair, _ in moved):
        dead_code.run(work)
        infer_shapes(work)
    changed, notes = tuple(str(node.name) for node in work.graph if node.name in names), _notes(moved, clips)
    return Improved(work, changed=changed, declined=declined, errors=_errors(pairs, results), notes=notes)


def _check_options(clips: str, **limits: float) -> None:
    if clips not in get_args(Clips):
        raise SpecError(f"clips must be one of {', '.join(get_args(Clips))}, not {clips!r}.")
    for word, value in limits.items():
        if not value >= 1:
            raise SpecError(f"{word} must be at least 1, not {value!r}: it bounds factors from 1 / {word} to {word}.")


def _pairs(graph: ir.Graph, clips: Clips) -> tuple[tuple[Pair, ...], dict[str, str]]:
    pairs, skipped = find_pairs(graph)
    declined = {item.name: item.reason for item in skipped}
    if clips == "decline":
        declined.update({p.name: f"Clip {p.clips[0].node.name!r} bounds all channels alike" for p in pairs if p.clips})
        pairs = tuple(pair for pair in pairs if not pair.clips)
    return pairs, declined


def _boundary(pair: Pair) -> Boundary:
    return Boundary(str(pair.first.name), str(pair.second.name), pair.repeat)


def _window(pair: Pair, clips: Clips, most: float, reach: float) -> Window:
    """Return lowest and highest log s of each channel; no bound is carried out of the reach of the others."""
    low, high = np.full(pair.channels, -most), np.full(pair.channels, most)
    for bound in pair.bounds:
        values = constant(bound.node.inputs[bound.index])
        assert values is not None
        if (
            bound.node.op_type == "Add"
            or (bound.node.op_type == "Clip" and clips == "replace")
            or not (values > 0).all()
        ):
            continue
        logs = np.broadcast_to(np.log(values).reshape(-1), (pair.channels * bound.place.repeat,))
        ends = (logs.min() - reach, logs.max() + reach) if np.ptp(logs) < _ALIKE else (logs.min(), logs.max())
        room = logs.reshape(pair.channels, -1)
        low, high = np.maximum(low, (room - ends[1]).max(axis=1)), np.minimum(high, (room - ends[0]).min(axis=1))
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def _matrices(pairs: Sequence[Pair]) -> dict[str, FloatArray]:
    layers = dict.fromkeys(layer for pair in pairs for layer in (pair.first, pair.second))
    return {str(layer.name): np.abs(blocks_of(layer)).max(axis=3, initial=0.0) for layer in layers}


def _errors(pairs: Sequence[Pair], results: Sequence[Evened]) -> dict[str, tuple[float, float]]:
    return {pair.name: (row.before, row.after) for pair, row in zip(pairs, results, strict=True)}


def _apply(model: ir.Model, pair: Pair, scale: FloatArray, clips: Clips) -> None:
    for bound in pair.bounds:
        if bound.node.op_type == "Clip" and clips == "replace":
            replace_clip(model, bound.node)
        else:
            rewrite_bound(model, bound, divide_by(scale, bound))
    divide_outputs(model, pair.first, scale)
    multiply_inputs(model, pair.second, np.repeat(scale, pair.repeat))


def _notes(moved: Sequence[tuple[Pair, FloatArray]], clips: Clips) -> tuple[str, ...]:
    names = [repr(str(bound.node.name)) for pair, _ in moved for bound in pair.clips]
    if not names:
        return ()
    count = f"{len(names)} Clip{'s' if len(names) > 1 else ''}"
    if clips == "replace":
        return (f"{count} became Relu, which changes the function above their bounds: {', '.join(names)}.",)
    return (f"{count} became Relu and Min with one bound per channel, which is the same function.",)
