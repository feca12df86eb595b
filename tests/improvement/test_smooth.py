import re

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.errors import SpecError
from fewbits.graph.prepare import prepare
from fewbits.graph.save import to_bytes
from fewbits.improvement.channel_ranges import channel_ranges, tensors_to_observe, tops_of
from fewbits.improvement.smooth import smooth, tops_to_observe
from fewbits.runtime.session import open_session
from fewbits.workflow.sessions import with_outputs
from networks import SAME_DB, SHAPES, graph, least_db, network, normal, ops, outputs, plausible, weight

X = {"x": normal(2, 5, 8, seed=9)}
GAMMA = np.float32([1, 30, 0.1, 1, 1, 2, 0.5, 8])
PARTS = {
    "g": GAMMA,
    "h": normal(8, seed=1),
    "w": normal(8, 6, seed=2),
    "v": normal(8, 4, seed=3),
    "d": normal(4, seed=4),
}


def observed(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = tensors_to_observe(model)
    runner = open_session(to_bytes(with_outputs(model, tuple(wanted))))
    return tops_of(channel_ranges(runner.run, wanted, [(feeds, 1)], wanted))


def model_of(text: str, out: str = "float y, float z", **arrays: np.ndarray) -> ir.Model:
    constants = {**PARTS, **arrays}
    kinds = {np.dtype(np.int64): "int64", np.dtype(np.float32): "float"}
    inputs = "".join(
        f", {kinds[np.asarray(a).dtype]}[{','.join(map(str, np.shape(a)))}] {name}" for name, a in constants.items()
    )
    return graph(f"g (float[n,5,8] x{inputs}) => ({out}) {{ {text} }}", **constants)


NORMS = {
    "layer_norm": "[m] t = LayerNormalization (x, g, h)",
    "layer_norm_without_bias": "[m] t = LayerNormalization <axis = 2> (x, g)",
    "gamma": "s = Softsign (x) [m] t = Mul (s, g)",
    "gamma_first": "s = Softsign (x) [m] t = Mul (g, s)",
}
READERS = "[a] y = MatMul (t, w) [b] z = MatMul (t, v)"


def smoothed(model: ir.Model, changed: tuple[str, ...] = ("m", "a", "b"), **options):
    """Smooth, and check what holds for any model."""
    given = to_bytes(model)
    result = smooth(model, observed(model, X), **options)
    assert to_bytes(model) == given
    assert result.changed == changed
    assert least_db(model, result.model, X) >= SAME_DB
    assert all(after <= before + 1e-9 for before, after in result.errors.values())
    return result


@pytest.mark.parametrize("norm", NORMS)
def test_smooth_keeps_the_function(norm):
    model = model_of(f"{NORMS[norm]} {READERS}")
    result = smoothed(model)
    before, after = result.errors["m"]
    assert after < before - 0.05
    tops = observed(model, X)["t"]
    rows = np.abs(np.hstack([PARTS["w"], PARTS["v"]])).max(axis=1)
    scale = np.sqrt(tops / rows)
    np.testing.assert_allclose(observed(result.model, X)["t"], tops / scale, rtol=1e-5)
    np.testing.assert_allclose(weight(result.model, "a"), PARTS["w"] * scale[:, None], rtol=1e-5)
    again = smooth(result.model, observed(result.model, X))
    np.testing.assert_allclose(weight(again.model, "a"), weight(result.model, "a"), rtol=1e-4)


@pytest.mark.parametrize(("alpha", "moves"), [(0.0, "rows"), (0.5, "both"), (1.0, "tops")])
def test_smooth_alpha_shares_the_difficulty(alpha, moves):
    result = smoothed(model_of(f"{NORMS['layer_norm']} {READERS}"), alpha=alpha)
    tops = observed(result.model, X)["t"]
    rows = np.abs(np.hstack([weight(result.model, "a"), weight(result.model, "b")])).max(axis=1)
    assert (np.ptp(tops) < 1e-4) == (moves == "tops")
    assert (np.ptp(rows) < 1e-4) == (moves == "rows")


def test_smooth_rms_normalization_in_one_node():
    model = model_of(f"[m] t = LayerNormalization (x, g) {READERS}")
    node = model.graph[0]
    node.op_type = "RMSNormalization"
    model.opset_imports[""] = 23
    tops = {"t": np.abs(normal(8, seed=5)) + 0.1}
    result = smooth(model, tops)
    assert result.changed == ("m", "a", "b")
    scale = PARTS["g"] / result.model.graph[0].inputs[1].const_value.numpy()
    np.testing.assert_allclose(weight(result.model, "b"), PARTS["v"] * scale[:, None], rtol=1e-5)


def test_smooth_reaches_layers_past_reshapes():
    text = f"{NORMS['layer_norm']} r = Reshape (t, rows) [a] y = Gemm <transB = 1> (r, u, d) n = Shape (t) "
    text += "f = Flatten (t) [b] z = Gemm (f, wide)"
    model = model_of(text, rows=np.int64([-1, 8]), u=normal(4, 8, seed=6), wide=normal(40, 3, seed=7))
    result = smooth(model, observed(model, X))
    assert result.changed == ()
    assert "takes its channels apart" in result.declined["m"]
    text = text.split("f = Flatten")[0] + "[b] z = MatMul (t, v)"
    smoothed(model_of(text, rows=np.int64([-1, 8]), u=normal(4, 8, seed=6)))


def test_smooth_reaches_a_convolution_past_a_transpose():
    text = f"{NORMS['layer_norm']} p = Transpose <perm = [0,2,1]> (t) [a] y = Conv (p, k) [b] z = MatMul (t, v)"
    result = smoothed(model_of(text, k=normal(3, 8, 2, seed=6)))
    assert "a" in result.changed


def test_smooth_prepared_gemm():
    text = f"{NORMS['layer_norm']} [a] c = MatMul (t, v) y = Add (c, d) [b] z = MatMul (t, w)"
    model = prepare(model_of(text)).model
    assert ops(model).count("Gemm") == 1
    smoothed(model)


def test_smooth_copies_a_scale_that_others_read():
    text = f"{NORMS['layer_norm']} [a] y = MatMul (t, w) z = Add (x, g)"
    model = model_of(text)
    result = smoothed(model, ("m", "a"))
    np.testing.assert_array_equal(result.model.graph[-1].inputs[1].const_value.numpy(), GAMMA)


@pytest.mark.parametrize(
    ("text", "out", "reason"),
    [
        (f"{NORMS['layer_norm']} y = MatMul (t, w) z = Add (x, t)", "float y, float z", "Add .* reads it too"),
        (f"{NORMS['layer_norm']} y = MatMul (t, w)", "float y, float[n,5,8] t", "'t' is an output of the graph"),
        (f"{NORMS['layer_norm']} y = MatMul (t, w) z = MatMul (t, w)", "float y, float z", "weight 'w' is shared"),
        ("[m] t = LayerNormalization <axis = 1> (x, gg) y = MatMul (t, w)", "float y", "more than the last axis"),
        (f"{NORMS['gamma']} y = Sigmoid (t)", "float y", "Sigmoid .* reads it too"),
        ("q = Relu (g) [m] t = LayerNormalization (x, q) y = MatMul (t, w)", "float y", "is not a constant"),
    ],
)
def test_smooth_names_what_it_declines(text, out, reason):
    model = model_of(text, out, gg=normal(5, 8))
    result = smooth(model, observed(model, X))
    assert result.changed == ()
    assert re.search(reason, result.declined["m"]), result.declined["m"]
    assert least_db(model, result.model, X) > 200


def test_smooth_declines_what_was_not_observed_or_gets_worse():
    model = model_of(f"{NORMS['layer_norm']} {READERS}")
    assert tops_to_observe(model) == {"t": 2}
    assert "magnitudes of 't' were not observed" in smooth(model, {}).declined["m"]
    one = np.float32([1, 0, 0, 0, 0, 0, 0, 0])
    assert "would not get better" in smooth(model, {"t": one * 0.01}).declined["m"]
    with pytest.raises(SpecError, match=r"have the shape \[3\]: it needs one for each of 8 channels"):
        smooth(model, {"t": np.zeros(3)})
    with pytest.raises(SpecError, match="alpha must lie between 0 and 1, not 2"):
        smooth(model, {}, alpha=2)


def test_smooth_lowers_the_error_of_int8_activations():
    model = model_of(f"{NORMS['layer_norm']} {READERS}")
    result = smoothed(model)
    assert rounded_error(result.model) < 0.5 * rounded_error(model)


def rounded_error(model: ir.Model) -> float:
    """Return the relative error of y after rounding t and the weights to int8 with one scale each."""
    t = outputs(with_outputs(model, ("t",)), X)["t"]
    w = weight(model, "a")
    exact = t @ w
    step, unit = np.abs(t).max() / 127, np.abs(w).max() / 127
    rounded = (np.rint(t / step) * step) @ (np.rint(w / unit) * unit)
    return float(np.square(rounded - exact).sum() / np.square(exact).sum())


@pytest.mark.assets
@pytest.mark.parametrize("name", SHAPES)
def test_smooth_real_networks(name):
    model, feeds = network(name), plausible(name)
    given = to_bytes(model)
    result = smooth(model, observed(model, feeds))
    assert to_bytes(model) == given
    assert least_db(model, result.model, feeds) >= SAME_DB
    assert len(result.errors) == (11 if name == "stories260k" else 0)
    assert all(after <= before + 1e-9 for before, after in result.errors.values())
    if name == "kwt1_speechcommands":
        assert len(result.declined) == 24  # its residuals read what is normalized
