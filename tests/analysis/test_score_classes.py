import numpy as np
import pytest
from score_models import LOGITS, echo, nan_outputs, open_as, scored

from fewbits.analysis.scores import parse_metric
from fewbits.errors import MetricError


@pytest.mark.parametrize(
    ("name", "labels", "hits"),
    [("top1", [1, 1, 5, 0], [100, 0, 100, 0]), ("top5", [3, 5, 0, 1], [100, 0, 0, 100])],
)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_top_k_is_percent_of_hits(name, labels, hits, batch_size):
    score = scored(name, LOGITS, labels, batch_size=batch_size)
    assert score.value == np.mean(hits)
    assert score.per_sample.tolist() == hits


def test_top_k_gives_ties_to_the_lower_index_as_argmax_does():
    assert scored("top1", np.zeros((3, 4)), [0, 1, 3]).per_sample.tolist() == [100, 0, 0]
    assert scored("top5", np.zeros((2, 8)), [4, 5]).per_sample.tolist() == [100, 0]


def test_top_1_of_maps_is_the_mean_over_positions():
    logits = np.zeros((1, 3, 2, 2))
    logits[0, 2] = 1
    logits[0, 1, 0, 0] = 2
    score = scored("top1", logits, [[[1, 2], [2, 0]]])
    assert score.per_sample.tolist() == [75]
    assert scored("top1", logits.transpose(0, 2, 3, 1), [[[1, 2], [2, 0]]]).value == 75
    assert scored("top1", logits, [[[[1, 2], [2, 0]]]]).value == 75


@pytest.mark.parametrize("shape", [(4, 6, 1, 1), (4, 1, 1, 6), (4, 6, 1)])
def test_top_1_ignores_dimensions_of_one(shape):
    assert scored("top1", LOGITS.reshape(shape), [1, 0, 5, 1]).value == 100
    assert scored("top1", LOGITS, [[1], [0], [5], [1]]).value == 100


def test_top_1_of_a_model_without_batch_axis():
    data = open_as({"x": LOGITS, "labels": [1, 0, 5, 1]}, (6,))
    assert parse_metric("top1").score(echo, data).value == 100


def test_class_metrics_count_nan_as_wrong():
    data = open_as({"x": LOGITS, "labels": [1, 0, 5, 1]})
    assert parse_metric("top1").score(nan_outputs, data).per_sample.tolist() == [100, 0, 100, 100]
    assert parse_metric("agreement").score(nan_outputs, data, reference=echo).value == 75
    assert parse_metric("agreement").score(echo, data, reference=nan_outputs).value == 75


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([1, 2, 6, 0], "Metric 'top1': the label 6 is no class, they are 0 to 5"),
        ([1, 2, -1, 0], "the label -1 is no class"),
        ([1.0, 2.0, 3.0, 0.0], "needs integer class indices as labels, they are float64"),
        (
            np.zeros((4, 2), int),
            r"the output has shape \[1, 6\], the labels \[1, 2\]. Name another .* top1@OUTPUT",
        ),
    ],
)
def test_top_1_refuses_other_labels(labels, sentence):
    with pytest.raises(MetricError, match=sentence):
        scored("top1", LOGITS, labels)


def test_agreement_is_percent_of_equal_decisions():
    data = open_as({"x": LOGITS})
    score = parse_metric("agreement").score(lambda f: {"y": -f["x"]}, data, reference=echo)
    assert score.per_sample.tolist() == [0, 0, 0, 0]
    half = parse_metric("agreement").score(
        lambda f: {"y": np.where(f["x"] > 5, -f["x"], f["x"])}, data, reference=echo, batch_size=4
    )
    assert half.per_sample.tolist() == [100, 0, 0, 100]


@pytest.mark.parametrize(("output", "shape"), [(np.zeros((4, 1)), r"\[1, 1\]"), (np.zeros(4), r"\[1\]")])
def test_agreement_refuses_outputs_without_classes(output, shape):
    with pytest.raises(MetricError, match=rf"at least 2 classes .* shape {shape}, .*: choose sqnr. Name"):
        scored("agreement", output, reference=echo)


def test_agreement_takes_two_classes():
    assert scored("agreement", [[0.0, 1.0], [1.0, 0.0]], reference=echo).value == 100


def test_miou_sums_one_confusion_matrix():
    # class 0: 2 hits of 4 in the union; class 1: 1 of 3; class 2 never occurs; one pixel is left out
    output = np.asarray([[[0, 0, 0], [1, 1, 1]]])
    labels = np.asarray([[[0, 0, 1], [1, 0, 255]]])
    logits = np.moveaxis(np.eye(3)[output], -1, 1)
    expected = 100 * np.mean([2 / 4, 1 / 3])
    for twice in (np.concatenate([logits, logits]), np.moveaxis(np.concatenate([logits, logits]), 1, -1)):
        score = scored("miou", twice, np.concatenate([labels, labels]))
        assert score.value == pytest.approx(expected)
        assert score.per_sample is None


def test_miou_takes_class_maps_of_growing_classes():
    output, labels = np.asarray([[[0, 0]], [[0, 4]]]), np.asarray([[[0, 1]], [[255, 4]]], np.uint8)
    data = open_as({"x": output, "labels": labels}, ("N", "H", "W"), dtype=np.int64)
    assert parse_metric("miou").score(echo, data).value == pytest.approx(100 * np.mean([1 / 2, 0, 1]))


def test_miou_takes_integer_logits():
    source = {"x": np.asarray([[[[5, 0]], [[4, 9]]]]), "labels": [[[0, 1]]]}
    assert parse_metric("miou").score(echo, open_as(source, ("N", 2, "H", "W"), dtype=np.int64)).value == 100


def test_miou_refuses_classes_that_are_none():
    with pytest.raises(MetricError, match=r"Metric 'miou': the label 3 is no class, they are 0 to 2"):
        scored("miou", np.zeros((1, 3, 1, 2)), [[[0, 3]]])
    data = open_as({"x": [[[0, -1]]], "labels": [[[0, 0]]]}, ("N", "H", "W"), dtype=np.int64)
    with pytest.raises(MetricError, match=r"the label -1 is no class, they are 0 or more"):
        parse_metric("miou").score(echo, data)


def test_miou_refuses_labels_that_are_all_left_out():
    with pytest.raises(MetricError, match=r"every label of 'the given arrays' is 255, left out"):
        scored("miou", np.zeros((1, 3, 1, 2)), [[[255, 255]]])
