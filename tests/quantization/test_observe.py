import numpy as np
import pytest
from model_zoo import ZOO
from qdq_models import Made, model, normal, quantized, statistics, watched

from fewbits.errors import DataError
from fewbits.quantization.infinities import MASK, without_infinities
from fewbits.quantization.observe import observe, seen_by_softmax, watchlist
from fewbits.spec.target import load_target

V73 = load_target("qnn-htp-v73")


def batches(feeds, size):
    count = len(next(iter(feeds.values())))
    for i in range(0, count, size):
        part = {name: array[i : i + size] for name, array in feeds.items()}
        yield part, len(next(iter(part.values())))


def seen(graph, feeds, size):
    watch = watchlist(graph.graph, V73)
    return observe(watched(graph, watch.names).run, watch, batches(feeds, size))


@pytest.mark.parametrize("name", ["attention", "residual", "concat", "depthwise"])
def test_statistics_do_not_depend_on_the_batch_size(name):
    graph, feeds = ZOO[name]()
    one, all_at_once, uneven = (seen(graph, feeds, size) for size in (1, 8, 3))
    for other in (all_at_once, uneven):
        assert one.samples == other.samples == 8
        assert one.histograms.keys() == other.histograms.keys()
        for tensor in ("x", *feeds):
            assert one.histograms[tensor] == other.histograms[tensor]
        for tensor, histogram in one.histograms.items():
            # computed tensors differ in the last bits: ORT's kernels block by batch
            assert histogram.high == pytest.approx(other.histograms[tensor].high, rel=1e-5)
            assert histogram.count == other.histograms[tensor].count
        for node, moment in one.moments.items():
            assert moment.rows == other.moments[node].rows
            np.testing.assert_allclose(moment.mean(), other.moments[node].mean(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moment.matrix(), other.moments[node].matrix(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [2, 7, 40])
def test_which_samples_are_counted_does_not_depend_on_the_batch_size(size):
    graph = ZOO["gemm"]()[0]
    feeds = {"x": normal(40, 6)}
    one, other = seen(graph, feeds, 1), seen(graph, feeds, size)
    assert one.histograms["x"] == other.histograms["x"]
    assert one.moments["h"].rows == other.moments["h"].rows
    np.testing.assert_allclose(one.moments["h"].mean(), other.moments["h"].mean(), rtol=1e-5, atol=1e-6)
    assert one.histograms["x"].low == feeds["x"].min()  # every sample counts for the range
    assert one.histograms["x"].high == feeds["x"].max()


def test_large_tensors_are_counted_with_a_stride_per_sample():
    graph = model("g (float[N, 3, 160, 160] x) => (float y) { y = Relu (x) }")
    feeds = {"x": normal(4, 3, 160, 160)}
    one, four = seen(graph, feeds, 1), seen(graph, feeds, 4)
    assert one.histograms["x"] == four.histograms["x"]
    assert one.histograms["x"].count < 4 * (1 << 14)
    assert one.histograms["x"].high == feeds["x"].max()
    assert one.histograms["x"].counts[-1] >= 1  # an outlier between the strides has a price


def test_samples_folded_with_heads_are_counted_per_sample():
    graph = model(
        "g (float[N, 2, 20000] x) => (float y) { f = Reshape (x, rows) a = Abs (f) y = Relu (a) }",
        rows=np.int64([-1, 20000]),
    )  # fmt: skip
    feeds = {"x": normal(4, 2, 20000)}
    assert seen(graph, feeds, 1).histograms["a"] == seen(graph, feeds, 4).histograms["a"]


def test_float_model_runs_once_per_batch():
    graph, feeds = ZOO["attention"]()
    watch, calls = watchlist(graph.graph, V73), []
    runner = watched(graph, watch.names)

    def run(names, part):
        calls.append(len(part["x"]))
        return runner.run(names, part)

    told = []

    class Told:
        def advance(self, samples):
            told.append(samples)

    observe(run, watch, batches(feeds, 3), progress=Told())
    assert calls == told == [3, 3, 2]


def test_pass_through_tensors_and_insides_of_groups_are_not_watched():
    graph, feeds = ZOO["maxpool_flatten"]()
    watch = watchlist(graph.graph, V73)
    assert watch.tensors == ("x", "r")
    assert watch.aliases == {"m": "r", "y": "r"}
    stats = statistics(graph, feeds)
    assert stats.histogram("y") is stats.histograms["r"]
    assert stats.histogram("nothing") is None


def test_group_whose_follower_shrinks_is_watched_inside():
    assert "c" in watchlist(ZOO["conv_leaky"]()[0].graph, V73).tensors
    assert "c" not in watchlist(ZOO["conv_clip"]()[0].graph, V73).tensors


@pytest.mark.parametrize("low", [-10000.0, -np.inf, np.finfo(np.float32).min])
def test_mask_before_a_softmax_does_not_stretch_its_grid(low):
    text = "g (float[N, 2, 6] x, float[N, 1, 6] m) => (float y) { s = Add (x, m) y = Softmax (s) }"
    mask = np.where(np.arange(6) < 4, 0, low).astype(np.float32)
    made = quantized(model(text), {"x": normal(8, 2, 6), "m": np.tile(mask, (8, 1, 1))})
    assert made.encoding("s").range[0] > -25
    wanted, given = made.float_run()["y"], made.run()["y"]
    assert given[..., 4:].max() <= 1 / 255
    np.testing.assert_allclose(given, wanted, atol=0.04)  # scores in steps of 0.1, probabilities in steps of 1/255


def test_softmax_inputs_that_something_else_reads_keep_their_range():
    graph = model("g (float[N, 6] x) => (float y, float z) { s = Neg (x) y = Softmax (s) z = Relu (s) }")
    assert not watchlist(graph.graph, V73).softmax_axes


def test_seen_by_softmax_raises_what_vanishes_and_zeroes_masked_rows():
    x = np.float32([[3, 1, -10000], [-np.inf, -np.inf, -np.inf], [-20000, -20001, -20002]])
    seen_x = seen_by_softmax(x, -1)
    np.testing.assert_allclose(seen_x[0], [3, 1, 3 - 8 - np.log(3)], rtol=1e-6)
    assert not seen_x[1:].any()
    assert seen_by_softmax(np.zeros((2, 0), np.float32), 1).shape == (2, 0)
    np.testing.assert_array_equal(seen_by_softmax(x.T, 0), seen_x.T)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error_that_names_tensor_and_samples(bad):
    graph, feeds = ZOO["gemm"]()
    x = feeds["x"].copy()
    x[5, 2] = bad
    with pytest.raises(DataError, match=r"Tensor 'x' of the float model becomes NaN or Inf within samples 4 to 7"):
        seen(graph, {"x": x}, 4)


def test_no_sample_is_an_error():
    graph, _ = ZOO["gemm"]()
    with pytest.raises(DataError, match="hold no sample"):
        observe(watched(graph, ()).run, watchlist(graph.graph, V73), [])


def test_without_infinities_takes_masks_for_the_largest_float16():
    mask = np.float32([0, -np.inf, 0])
    np.testing.assert_array_equal(without_infinities(mask), [0, -MASK, 0])
    np.testing.assert_array_equal(without_infinities(np.float32([np.inf])), [MASK])
    slopes = np.float32([-8, 0, -np.inf])
    np.testing.assert_array_equal(without_infinities(slopes), [-8, 0, -8 - 4 * 8])
    plain = normal(3)
    assert without_infinities(plain) is plain


@pytest.mark.parametrize("size", [1, 3, 8])
def test_masked_scores_keep_a_code_for_the_mask(size):
    """A Softmax that is written out: nothing says that its input is one."""
    text = """g (float[N, 6] x, float[N, 6] m) => (float y) {
        s = Add (x, m) t = ReduceMax <keepdims = 1> (s, a) d = Sub (s, t) e = Exp (d)
        n = ReduceSum <keepdims = 1> (e, a) y = Div (e, n) }"""
    graph, x = model(text, a=np.int64([1])), normal(8, 6)
    mask = np.tile(np.float32([0.5, 0, -0.5, 0, -np.inf, -np.inf]), (8, 1))
    mask[3] = -np.inf
    mask[3, 0] = 1
    found = seen(graph, {"x": x, "m": mask}, size).histograms["m"]
    assert (found.low, found.high) == (-0.5 - 4 * 4, 1)
    made = quantized(graph, {"x": x, "m": mask})
    given = made.run()["y"]
    assert given[:, 4:].max() == 0
    np.testing.assert_allclose(given, made.float_run()["y"], atol=0.06)


def test_model_with_nothing_to_watch():
    made: Made = quantized(*ZOO["no_float"]())
    assert made.stats.samples == 8


RECTIFIED = """
g (float[N, 6] x) => (float[N, 2] z)
<float[6, 2] w = {1,0, 0,1, 0,0, 0,0, 0,0, 0,0}, float[2] b = {3, 3}>
{ y = Relu(x) z = Gemm(y, w, b) }
"""


def test_minimum_of_a_rectified_tensor_is_taken_as_zero():
    graph = model(RECTIFIED)
    watch = watchlist(graph.graph, load_target("ort-cpu"))
    assert watch.nonnegative == {"y"}
    x = np.random.default_rng(0).uniform(1, 2, (5, 6)).astype(np.float32)
    found = observe(lambda names, feeds: {n: np.maximum(x, 0) for n in names}, watch, [({"x": x}, 5)])
    assert (found.histograms["y"].low, found.histograms["y"].high) == (0.0, float(x.max()))
    assert found.histograms["x"].low == float(x.min())


def test_gemm_with_one_row_per_sample_looks_at_every_sample():
    graph = model(RECTIFIED)
    watch = watchlist(graph.graph, load_target("ort-cpu"))
    rows = np.random.default_rng(1).standard_normal((100, 6)).astype(np.float32)
    feeds = [({"x": rows[i : i + 10]}, 10) for i in range(0, 100, 10)]
    found = observe(lambda names, given: dict.fromkeys(names, np.maximum(given["x"], 0)), watch, feeds)
    assert found.moments[watch.layers[0].node].rows == 100
