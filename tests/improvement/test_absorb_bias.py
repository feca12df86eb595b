import re

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.errors import DataError, SpecError
from fewbits.graph.save import to_bytes
from fewbits.improvement.absorb_bias import absorb_bias, lows_to_observe
from fewbits.improvement.channel_ranges import channel_ranges, lows_of, tensors_to_observe
from fewbits.improvement.equalize import equalize
from fewbits.runtime.session import open_session
from fewbits.workflow.sessions import with_outputs
from networks import SAME_DB, SHAPES, graph, least_db, network, normal, ops, outputs, plausible, weight

IMAGE = {"x": normal(4, 3, 8, 8, seed=9)}
HIGH = np.float32([9, 0, 7, -9, 12, 20])


def observed(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = tensors_to_observe(model)
    runner = open_session(to_bytes(with_outputs(model, tuple(wanted))))
    size = len(next(iter(feeds.values())))
    return lows_of(channel_ranges(runner.run, wanted, [(feeds, size)], wanted))


def absorbed(model: ir.Model, feeds: dict[str, np.ndarray], changed: tuple[str, ...] = ("a", "b")):
    """Absorb, and check what holds for any model."""
    given, lows = to_bytes(model), observed(model, feeds)
    result = absorb_bias(model, lows)
    assert to_bytes(model) == given
    assert result.changed == changed
    assert least_db(model, result.model, feeds) >= SAME_DB
    again = absorb_bias(result.model, observed(result.model, feeds))
    assert all(before < 1e-5 for before, _ in again.errors.values())
    return result, lows


def convs(between: str, second: str = "y = Conv (r, v, d)", **arrays: np.ndarray) -> ir.Model:
    constants = {"w": normal(6, 3, 3, 3, seed=1) * 0.2, "b": HIGH, "v": normal(4, 6, 3, 3, seed=2),
                 "d": normal(4, seed=3), **arrays}  # fmt: skip
    inputs = "".join(f", float[{','.join(map(str, np.shape(a)))}] {name}" for name, a in constants.items())
    text = f"g (float[n,3,8,8] x{inputs}) => (float y) {{ [a] c = Conv (x, w, b) {between} [b] {second} }}"
    return graph(text, **constants)


@pytest.mark.parametrize(
    "between",
    ["r = Relu (c)", "r = LeakyRelu (c)", "r = PRelu (c, s)", "p = Relu (c) r = Min (p, k)",
     "p = Relu (c) r = AveragePool <kernel_shape = [2,2]> (p)", "p = Add (c, k) r = Relu (p)",
     "p = Relu (c) r = MaxPool <kernel_shape = [2,2], pads = [1,1,1,1]> (p)", "r = Clip (c, zero)"],
)  # fmt: skip
def test_absorb_bias_keeps_the_function(between):
    model = convs(
        between, s=np.float32([-0.5]), k=np.float32([8, 8, 7, 9, 11, 25]).reshape(6, 1, 1), zero=np.float32(0)
    )
    result, lows = absorbed(model, IMAGE)
    (low,) = lows.values()
    bias = result.model.graph[0].inputs[2].const_value.numpy()
    np.testing.assert_allclose(bias, HIGH - np.maximum(low, 0), rtol=1e-5)
    assert (np.maximum(low, 0) > 0).sum() >= 4 - (between.count("Add") == 0)
    assert result.errors == {"a": (pytest.approx(np.maximum(low, 0).mean(), rel=1e-6), 0.0)}
    np.testing.assert_array_equal(weight(result.model, "a"), weight(model, "a"))
    assert "stay above the minima" in result.notes[0]


def test_absorb_bias_lowers_the_range_of_the_activation():
    result, _ = absorbed(convs("r = Relu (c)"), IMAGE)
    before, after = (outputs(with_outputs(m, ("r",)), IMAGE)["r"] for m in (convs("r = Relu (c)"), result.model))
    assert after.max() < 0.5 * before.max()


@pytest.mark.parametrize(
    ("first", "second", "feeds", "expected"),
    [
        ("Conv (x, w)", "Conv (r, v)", IMAGE, ["Conv", "Relu", "Conv"]),
        ("Conv <group = 1> (x, w)", "Conv <group = 3> (r, u)", IMAGE, ["Conv", "Relu", "Conv"]),
    ],
)
def test_absorb_bias_adds_a_bias_where_there_is_none(first, second, feeds, expected):
    text = f"""g (float[n,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v, float[3,2,1,1] u) => (float y) {{
        [a] c = {first} r = Relu (c) [b] y = {second} }}"""
    w = np.abs(normal(6, 3, 1, 1))
    model = graph(text, w=w, v=normal(4, 6, 1, 1, seed=1), u=normal(3, 2, 1, 1, seed=2))
    result, _ = absorbed(model, {"x": np.abs(feeds["x"])})
    assert ops(result.model) == expected
    assert len(result.model.graph[0].inputs) == len(result.model.graph[2].inputs) == 3


@pytest.mark.parametrize(("dims", "expected"), [("n,3", ["Gemm", "Relu", "Gemm"]),
                                                ("n,5,3", ["MatMul", "Add", "Relu", "MatMul", "Add"])])  # fmt: skip
def test_absorb_bias_into_matmul(dims, expected):
    text = f"""g (float[{dims}] x, float[3,6] w, float[6,4] v) => (float y) {{
        [a] c = MatMul (x, w) r = Relu (c) [b] y = MatMul (r, v) }}"""
    model = graph(text, w=np.abs(normal(3, 6)), v=normal(6, 4, seed=1))
    feeds = {"x": np.abs(normal(*(7 if dim == "n" else int(dim) for dim in dims.split(",")), seed=2)) + 1}
    result, _ = absorbed(model, feeds)
    assert ops(result.model) == expected
    names = [value.name for node in result.model.graph for value in node.outputs]
    assert len(set(names)) == len(names)


def test_absorb_bias_into_gemm_behind_flatten():
    text = """g (float[n,3,4,4] x, float[6,3,1,1] w, float[6] b, float[96,4] v, float[4] d) => (float y) {
        [a] c = Conv (x, w, b) f = Flatten (c) r = Relu (f) [b] y = Gemm <alpha = 0.5, beta = 3.0> (r, v, d) }"""
    model = graph(text, w=normal(6, 3, 1, 1) * 0.3, b=HIGH, v=normal(96, 4, seed=1), d=normal(4))
    _, lows = absorbed(model, {"x": normal(4, 3, 4, 4, seed=2)})
    assert lows["f"].shape == (96,)


def test_absorb_bias_takes_the_bounds_of_an_equalized_clip_along():
    v = normal(4, 6, 3, 3) * np.float32([0.1, 3, 8, 1, 0.2, 5]).reshape(1, 6, 1, 1)
    model = convs("r = Clip (c, zero, ten)", v=v, zero=np.float32(0), ten=np.float32(10))
    assert "bounds all channels alike" in absorb_bias(model, {}).declined["a"]
    even = equalize(model).model
    assert ops(even) == ["Conv", "Relu", "Min", "Conv"]
    result, _ = absorbed(even, IMAGE)
    assert least_db(model, result.model, IMAGE) >= SAME_DB


@pytest.mark.parametrize(
    ("between", "second", "reason"),
    [
        ("r = Relu (c)", "y = Conv <pads = [1,1,1,1]> (r, v, d)", "next layer 'b' pads with zeros"),
        ("r = Relu (c)", 'y = Conv <auto_pad = "SAME_UPPER"> (r, v, d)', "next layer 'b' pads with zeros"),
        ("r = Relu (c)", "y = ConvTranspose (r, u)", "is a ConvTranspose"),
        ("p = Relu (c) r = Mul (p, d2)", "y = Conv (r, v, d)", "would scale what is moved"),
        ("r = Identity (c)", "y = Conv (r, v, d)", "no Relu stands between"),
        (
            "p = Relu (c) r = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1]> (p)",
            "y = Conv (r, v, d)",
            "padding too",
        ),
        ("r = Relu (c)", "z = Conv (r, v, d) e = Sigmoid (r) [k] y = Conv (e, v2)", "read by 2 inputs"),
    ],
)
def test_absorb_bias_names_what_it_declines(between, second, reason):
    model = convs(between, second, u=normal(6, 4, 3, 3), v2=normal(4, 6, 3, 3), d2=np.float32([2]))
    result = absorb_bias(model, observed(model, IMAGE))
    assert result.changed == ()
    assert result.notes == ()
    assert re.search(reason, result.declined["a"]), result.declined["a"]
    assert lows_to_observe(model) == {}


def test_absorb_bias_declines_what_was_not_observed_or_is_low():
    model = convs("r = Relu (c)")
    assert lows_to_observe(model) == {"c": 1}
    assert "the minimum of 'c' was not observed" in absorb_bias(model, {}).declined["a"]
    assert "no channel of 'c' is always above zero" in absorb_bias(model, {"c": -HIGH.clip(0)}).declined["a"]
    with pytest.raises(SpecError, match=r"minima of 'c' have the shape \[3\]: it needs one value for each of 6"):
        absorb_bias(model, {"c": np.zeros(3)})


def test_channel_ranges_are_those_of_all_batches():
    x = normal(10, 3, 4, seed=1)
    batches = [({"x": x[:4]}, 4), ({"x": x[4:]}, 6)]
    ranges = channel_ranges(lambda names, feeds: {"y": feeds["x"] * 2}, ["x", "y"], iter(batches), {"x": 1, "y": 2})
    np.testing.assert_array_equal(ranges["x"], (x.min(axis=(0, 2)), x.max(axis=(0, 2))))
    np.testing.assert_array_equal(ranges["y"], (2 * x.min(axis=(0, 1)), 2 * x.max(axis=(0, 1))))


def test_channel_ranges_name_tensor_and_sample_of_a_nan():
    x = normal(4, 3)
    bad = np.where(x == x.max(), np.float32("nan"), x)
    with pytest.raises(DataError, match="Tensor 'x' of the float model becomes NaN or Inf within samples 4 to 7"):
        channel_ranges(lambda names, feeds: {}, ["x"], [({"x": x}, 4), ({"x": bad}, 4)], {"x": 1})
    with pytest.raises(DataError, match="hold no sample"):
        channel_ranges(lambda names, feeds: {}, ["x"], [], {"x": 1})


@pytest.mark.assets
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("first", [False, True])
def test_absorb_bias_real_networks(name, first):
    model = equalize(network(name)).model if first else network(name)
    feeds = plausible(name)
    result = absorb_bias(model, observed(model, feeds))
    assert least_db(model, result.model, feeds) >= SAME_DB
    assert all(result.declined.values())
    assert bool(result.changed) == (name == "fastestdet_coco" or (first and "mobilenet" in name))
