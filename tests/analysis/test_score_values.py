import math

import numpy as np
import pytest
from score_models import LOGITS, echo, nan_outputs, open_as, scored

from fewbits.analysis.scores import parse_metric
from fewbits.errors import MetricError
from fewbits.runtime.data import InputInfo, open_data


def test_mse_is_the_mean_of_sample_means():
    score = scored("mse", [[1.0, 2], [3, 4]], [[1.0, 4], [3, 4]])
    assert (score.value, score.per_sample.tolist()) == (1.0, [2.0, 0.0])
    assert not parse_metric("mse").higher_is_better


def test_mse_takes_labels_without_dimensions_of_one():
    assert scored("mse", [[1.0], [2.0]], [1, 3]).value == 0.5


def test_mse_refuses_other_shapes():
    with pytest.raises(MetricError, match=r"compares the output, shape \[1, 2\], with labels of shape \[1, 3\]"):
        scored("mse", [[1.0, 2]], [[1.0, 2, 3]])


def test_psnr_is_the_mean_over_images_in_db():
    target = np.zeros((3, 1, 2, 2))
    output = target + np.asarray([0.1, 0.01, 0])[:, None, None, None]
    score = scored("psnr", output, target, batch_size=2)
    np.testing.assert_allclose(score.per_sample, [20, 40, 100], rtol=1e-6)  # the feed is float32
    assert score.value == score.per_sample.mean()


def test_psnr_refuses_images_in_0_to_255():
    with pytest.raises(MetricError, match=r"takes images in 0..1, the labels reach from 0 to 255: divide them"):
        scored("psnr", [[0.0, 1]], [[0, 255]])


@pytest.mark.parametrize("name", ["mse", "psnr", "sqnr"])
def test_value_metrics_refuse_nan(name):
    data = open_as({"x": LOGITS, "labels": np.zeros_like(LOGITS)})
    with pytest.raises(MetricError, match=rf"Metric '{name}' cannot score the output: it holds NaN or infinity"):
        parse_metric(name).score(nan_outputs, data, reference=echo, batch_size=4)


def test_sqnr_pools_powers_over_samples():
    data = open_as({"x": [[3.0, 4], [0, 5]]})
    score = parse_metric("sqnr").score(lambda f: {"y": f["x"] + np.float32(0.5)}, data, reference=echo)
    assert score.value == pytest.approx(10 * math.log10(50 / 1))
    assert score.per_sample is None


def test_sqnr_is_finite():
    data = open_as({"x": [[3.0, 4]]})
    zero = open_as({"x": [[0.0, 0]]})
    assert parse_metric("sqnr").score(echo, data, reference=echo).value == 200
    assert parse_metric("sqnr").score(lambda f: {"y": f["x"] + 1}, zero, reference=echo).value == -200


def test_sqnr_refuses_other_shapes():
    with pytest.raises(MetricError, match=r"compares outputs of shape \[1, 1\] with the float model's, \[1, 6\]"):
        parse_metric("sqnr").score(lambda f: {"y": f["x"][:, :1]}, open_as({"x": LOGITS}), reference=echo)


TOKENS = np.asarray([[0, 1, 2], [1, 1, 0]])


def likelihoods(feeds):
    """Logits of the probabilities 1/2, 1/4, 1/4 for the tokens 0, 1, 2, at every position."""
    shape = (*next(iter(feeds.values())).shape, 3)
    return {"logits": np.broadcast_to(np.log([0.5, 0.25, 0.25]) + 7, shape)}


def test_perplexity_of_labels():
    data = open_as({"x": TOKENS, "labels": [[0, 0, 1], [2, -100, -100]]}, ("N", "S"), dtype=np.int64)
    score = parse_metric("perplexity").score(likelihoods, data)
    assert score.value == pytest.approx(2 ** ((1 + 1 + 2 + 2) / 4))
    assert score.per_sample is None
    assert not parse_metric("perplexity").higher_is_better


def test_perplexity_without_labels_predicts_the_next_token():
    data = open_as({"x": TOKENS}, ("N", "S"), dtype=np.int64)
    assert parse_metric("perplexity").score(likelihoods, data).value == pytest.approx(2 ** ((2 + 2 + 2 + 1) / 4))


def test_perplexity_leaves_out_masked_tokens_and_finds_the_tokens():
    names = ("attention_mask", "position_ids", "input_ids")
    inputs = tuple(InputInfo(name, np.dtype(np.int64), ("N", "S")) for name in names)
    mask = np.asarray([[1, 1, 0], [1, 0, 0]])
    feeds = {"attention_mask": mask, "position_ids": TOKENS * 0, "input_ids": np.asarray([[0, 1, 2], [0, 0, 0]])}
    assert parse_metric("perplexity").score(likelihoods, open_data(feeds, inputs=inputs)).value == pytest.approx(4)


def test_perplexity_of_the_impossible_is_infinite():
    data = open_as({"x": TOKENS}, ("N", "S"), dtype=np.int64)

    def certain(feeds):
        return {"logits": np.broadcast_to([0.0, -1e4, -np.inf], (*feeds["x"].shape, 3))}

    assert parse_metric("perplexity").score(certain, data).value == math.inf


@pytest.mark.parametrize(
    ("source", "dtype", "predict", "sentence"),
    [
        ({"x": TOKENS}, np.int64, echo, r"needs logits \[N, S, V\], the output has shape \[1, 3\]"),
        (
            {"x": TOKENS * 1.0},
            np.float32,
            likelihoods,
            r"or an integer input of shape \[1, 3\]; the feeds are 'x'",
        ),
        (
            {"x": TOKENS, "labels": [[1], [1]]},
            np.int64,
            likelihoods,
            r"labels \[1, 3\] of integers .* int64 \[1, 1\]",
        ),
        ({"x": TOKENS + 1}, np.int64, likelihoods, "the token 3 is outside the 3 of the logits"),
        ({"x": TOKENS[:, :1]}, np.int64, likelihoods, "found no token to predict in 'the given arrays'"),
        (
            {"x": TOKENS},
            np.int64,
            lambda f: {"y": np.full((*f["x"].shape, 3), np.nan)},
            "cannot score the output: it holds NaN",
        ),
    ],
)
def test_perplexity_refuses(source, dtype, predict, sentence):
    with pytest.raises(MetricError, match=sentence):
        parse_metric("perplexity").score(predict, open_as(source, ("N", "S"), dtype=dtype))


def test_metrics_of_numbers_refuse_text():
    def spoken(feeds):
        return {"y": np.full(len(feeds["x"]), "cat", object)}

    with pytest.raises(
        MetricError, match=r"'mse' scores numbers, and 'y' holds text. Name another output with mse@OUTPUT"
    ):
        parse_metric("mse").score(spoken, open_as({"x": LOGITS, "labels": LOGITS}))
