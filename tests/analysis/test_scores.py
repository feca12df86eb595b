import numpy as np
import pytest
from score_models import LOGITS, open_as, scored

from fewbits.analysis.scores import METRICS, Metric, UserMetric, default_metric, parse_metric
from fewbits.errors import MetricError, SpecError
from fewbits.runtime.data import InputInfo
from fewbits.runtime.progress import NullProgress


@pytest.mark.parametrize("name", ["top1", "top5", "miou", "mse", "psnr"])
def test_metrics_with_labels_refuse_data_without(name):
    with pytest.raises(MetricError, match=rf"Metric '{name}' needs labels, 'the given arrays' has none: add"):
        scored(name, LOGITS)
    assert parse_metric(name).needs_labels


@pytest.mark.parametrize("name", ["sqnr", "agreement"])
def test_metrics_against_float_refuse_to_run_without(name):
    with pytest.raises(MetricError, match=rf"Metric '{name}' compares with the float model: give its predict"):
        scored(name, LOGITS)
    assert parse_metric(name).needs_float


def two_outputs(feeds):
    return {"first": -feeds["x"], "logits": feeds["x"]}


def test_a_metric_picks_its_output():
    data = open_as({"x": LOGITS, "labels": [1, 0, 5, 1]})
    assert parse_metric("top1").score(two_outputs, data).value == 0
    metric = parse_metric("top1@logits")
    assert (metric.name, metric.score(two_outputs, data).value) == ("top1@logits", 100)
    with pytest.raises(MetricError, match=r"wants the output 'gone', the model has 'first', 'logits': name one"):
        parse_metric("top1@gone").score(two_outputs, data)


def test_scores_take_limit_and_report_progress():
    class Counter:
        samples = 0

        def advance(self, samples: int) -> None:
            self.samples += samples

    counter = Counter()
    score = scored("top1", LOGITS, [1, 0, 5, 1], limit=3, batch_size=2, progress=counter)
    assert (len(score.per_sample), counter.samples) == (3, 3)
    NullProgress().advance(1)


@pytest.mark.parametrize("text", ["top", "accuracy", "Top1", "top1@", "sqrn@y"])
def test_parse_metric_refuses_unknown_names(text):
    hint = {"accuracy": ""}.get(text, r" \(did you mean '(top1|top5|sqnr)'\?\)")
    with pytest.raises(
        SpecError, match=rf"There is no metric '{text}'{hint}: choose one of top1, top5, miou, psnr, mse, per"
    ):
        parse_metric(text)


def test_parse_metric_refuses_another_direction():
    assert parse_metric("mse", higher_is_better=False) is METRICS["mse"]
    with pytest.raises(SpecError, match=r"Metric 'mse' is better when lower: leave its direction out"):
        parse_metric("mse", higher_is_better=True)
    with pytest.raises(SpecError, match=r"Metric 'top1' is better when higher"):
        parse_metric("top1", higher_is_better=False)


def test_units_are_named():
    assert {name: metric.unit for name, metric in METRICS.items()} == {
        "top1": "%",
        "top5": "%",
        "miou": "%",
        "psnr": "dB",
        "mse": "",
        "perplexity": "",
        "sqnr": "dB",
        "agreement": "%",
    }


# What the user did not name


FLOATS, INTS = np.zeros((4, 2), np.float32), np.arange(4)


@pytest.mark.parametrize(
    ("labels", "shapes", "expected"),
    [
        (INTS, [("N", 10)], "top1"),
        (INTS, [("N", "C")], "top1"),
        (INTS, [("N", 10, 1, 1), ("N", 3)], "top1"),
        (INTS, [("N", 1)], "sqnr"),
        (INTS, [("N", 10, 7, 7)], "sqnr"),
        (INTS * 1.0, [("N", 10)], "sqnr"),
        (INTS[:, None], [("N", 10)], "sqnr"),
        (None, [("N", 10)], "agreement"),
        (None, [("N", 10), ("N", 3)], "sqnr"),
        (None, [("N", "C")], "sqnr"),
        (None, [("N", 1)], "sqnr"),
        (None, [("N", 10, 7, 7)], "sqnr"),
        (None, [(10,)], "sqnr"),
    ],
)
def test_default_metric(labels, shapes, expected):
    source = {"x": FLOATS} if labels is None else {"x": FLOATS, "labels": labels}
    outputs = [InputInfo(f"y{index}", np.dtype(np.float32), shape) for index, shape in enumerate(shapes)]
    assert default_metric(open_as(source), outputs).name == expected


def test_default_metric_knows_that_integers_are_no_scores():
    outputs = [InputInfo("y", np.dtype(np.int64), ("N", 10))]
    assert default_metric(open_as({"x": FLOATS, "labels": INTS}), outputs).name == "sqnr"


def test_every_metric_keeps_the_contract():
    metrics: list[Metric] = [*METRICS.values(), UserMetric("f", lambda predict: 1.0)]
    for metric in metrics:
        assert isinstance(metric.name, str)
        assert isinstance(metric.higher_is_better, bool)
        assert isinstance(metric.unit, str)
        assert callable(metric.score)
