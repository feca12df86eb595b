"""A Clip that is fused with its layer, in front of a grid that is narrower than its container: one Clip, same bits."""

from collections import Counter

import numpy as np
import pytest
from qdq_models import FAITHFUL, model, normal, quantized, session

from fewbits.numerics.affine import fake_quantize

BOUNDS = {"relu6": (0.0, 6.0), "inside": (0.3, 1.1), "open": (-0.7, None), "above": (None, 0.9), "far": (-50.0, 50.0)}
TEXT = (
    "net (float[1,4,6,6] x) => (float y) "
    "{{ c = Conv<pads=[1,1,1,1]>(x, w, b) {clip} y = AveragePool<kernel_shape=[2,2]>(k) }}"
)


def clipped(bounds: str):
    """Return a Conv, a Clip and a pool, and the bounds."""
    low, high = BOUNDS[bounds]
    ends = {name: np.float32(end) for name, end in (("low", low), ("high", high)) if end is not None}
    names = ("low" if low is not None else "", "high" if high is not None else "")
    call = f"k = Clip(c, {', '.join(names)})".replace(", )", ")") if any(names) else "k = Clip(c)"
    return model(TEXT.format(clip=call), w=normal(5, 4, 3, 3), b=normal(5, seed=1), **ends), (low, high)


@pytest.mark.parametrize("policy", FAITHFUL)
@pytest.mark.parametrize("bounds", BOUNDS)
def test_bits_are_those_of_clipping_first(bounds, policy):
    graph, (low, high) = clipped(bounds)
    made = quantized(graph, {"x": normal(1, 4, 6, 6, scale=3.0)}, "w8a4")
    copy = made.quantized.clone()
    names = {str(v.name): v for node in copy.graph for v in node.outputs}
    (raw,) = [node.inputs[0] for node in copy.graph if node.outputs[0].name == "k_q"]
    copy.graph.outputs.extend([raw, names["k_clipped_dq"]])
    found = session(copy, policy)(made.feeds)
    layer = found[str(raw.name)]
    wanted = fake_quantize(np.clip(layer, low, high), made.encoding("k"))
    assert np.array_equal(found["k_clipped_dq"], wanted)
    assert len(np.unique(wanted)) > 3


def test_one_clip_is_left():
    graph, _ = clipped("relu6")
    made = quantized(graph, {"x": normal(1, 4, 6, 6, scale=3.0)}, "w8a4")
    clips = [node for node in made.quantized.graph if node.op_type == "Clip"]
    assert Counter(str(node.outputs[0].name).split("_")[0] for node in clips) == {"x": 1, "k": 1, "y": 1}


def test_a_clip_with_a_grid_of_its_own_input_stays():
    graph = model(
        "net (float[1,4,6,6] x) => (float y) { k = Clip(x, low, high) y = AveragePool<kernel_shape=[2,2]>(k) }",
        low=np.float32(0), high=np.float32(1),
    )  # fmt: skip
    made = quantized(graph, {"x": normal(1, 4, 6, 6)}, "w8a4")
    assert "k" in {str(node.outputs[0].name) for node in made.quantized.graph if node.op_type == "Clip"}
