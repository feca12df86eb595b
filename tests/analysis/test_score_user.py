import math

import numpy as np
import pytest
from score_models import echo, open_as

from fewbits.analysis.scores import parse_metric
from fewbits.errors import DataError, MetricError, ModelError, SpecError
from fewbits.runtime.data.userfile import split_user_spec

USER_FILE = """
def accuracy(predict):
    outputs = predict({"x": [[1.0, 2.0]]})
    return outputs["y"].sum()

def error(predict): return 0.5

def marked(predict): return 0.5
marked.higher_is_better = False

def wrong(predict):
    return predict({"x": None.size})

def two(predict, data): ...

def neighbour(predict):
    import beside
    return beside.VALUE
"""


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "beside.py").write_text("VALUE = 7")
    return str(tmp_path / "mine.py")


EMPTY = open_as([])


def test_user_metric_gets_predict_and_returns_its_number(user_file):
    metric = parse_metric(f"{user_file}:accuracy")
    assert (metric.name, metric.higher_is_better, metric.needs_labels, metric.needs_float) == (
        f"{user_file}:accuracy",
        True,
        False,
        False,
    )
    score = metric.score(echo, EMPTY)
    assert (score.value, score.per_sample) == (3.0, None)
    assert parse_metric(f"{user_file}:neighbour").score(echo, EMPTY).value == 7


def test_user_metric_may_feed_tensors_and_moves_the_progress():
    class Tensor:
        def detach(self):
            return self

        cpu = detach

        def numpy(self):
            return np.ones((5, 2))

    advanced = []
    progress = type("Bar", (), {"advance": lambda _, samples: advanced.append(samples)})()
    metric = parse_metric(lambda predict: predict({"x": Tensor()})["y"].sum())
    assert metric.score(echo, EMPTY, progress=progress).value == 10
    assert advanced == [5]


def test_user_metric_direction(user_file):
    assert not parse_metric(f"{user_file}:error", higher_is_better=False).higher_is_better
    assert parse_metric(f"{user_file}:error", higher_is_better=True).higher_is_better
    assert not parse_metric(f"{user_file}:marked").higher_is_better
    assert not parse_metric(f"{user_file}:accuracy", higher_is_better=False).higher_is_better
    with pytest.raises(SpecError, match=r"error' sounds as if lower were better, .*: pass --lower-is-better or"):
        parse_metric(f"{user_file}:error")


def test_user_metric_that_fails_is_named_with_file_and_line(user_file):
    with pytest.raises(MetricError, match=r"mine.py:wrong' failed at .*mine.py:12: AttributeError: 'NoneType'"):
        parse_metric(f"{user_file}:wrong").score(echo, EMPTY)


def test_user_metric_is_named_by_its_own_line_when_the_library_fails_below():
    # split_user_spec wants text: what fails is in fewbits, what the user can mend is here
    with pytest.raises(MetricError, match=r"failed at .*test_score_user.py:\d+: AttributeError"):
        parse_metric(lambda predict: predict({"x": 1.0})).score(split_user_spec, EMPTY)


def test_user_metric_may_feed_scalars_and_nothing():
    advanced = []
    progress = type("Bar", (), {"advance": lambda _, samples: advanced.append(samples)})()
    metric = parse_metric(lambda predict: len(predict({"x": 1.0})) + len(predict({})))
    assert metric.score(lambda feeds: feeds, EMPTY, progress=progress).value == 1
    assert advanced == [1, 1]


def test_user_metric_passes_the_models_own_errors():
    def broken(feeds):
        raise ModelError("the model's own words")

    with pytest.raises(ModelError, match=r"^the model's own words$"):
        parse_metric(lambda predict: predict({})).score(broken, EMPTY)


def test_user_metric_refuses_feeds_that_are_no_arrays():
    with pytest.raises(DataError, match=r"input 'x': a value of type object does not become an array"):
        parse_metric(lambda predict: predict({"x": object()})).score(echo, EMPTY)


@pytest.mark.parametrize("returned", [None, "0.5", "nan", float("nan"), [1, 2], np.ones(2), {}])
def test_user_metric_must_return_a_number(returned):
    with pytest.raises(MetricError, match=r"\(.*test_score_user.py:\d+\) returned .*: it must return a number"):
        parse_metric(lambda predict: returned).score(echo, EMPTY)


@pytest.mark.parametrize("returned", [1, 0.5, np.float32(0.5), np.asarray(0.5), True, math.inf])
def test_user_metric_may_return_any_number(returned):
    assert parse_metric(lambda predict: returned).score(echo, EMPTY).value == float(returned)


def test_user_metric_takes_predict_alone(user_file):
    with pytest.raises(MetricError, match=r"two' must take predict alone, but it needs 'predict', 'data'"):
        parse_metric(f"{user_file}:two")
    with pytest.raises(MetricError, match=r"has no function 'gone': it has accuracy, error, marked"):
        parse_metric(f"{user_file}:gone")
