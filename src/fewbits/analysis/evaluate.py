"""Score a model on data, and say what a second score lost against the first."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.analysis.scores import Metric, Predict, paired_interval
from fewbits.errors import MetricError
from fewbits.runtime.data.types import Dataset
from fewbits.runtime.progress import Progress

SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A score and how it came about.

    Attributes:
        value: in the metric's unit.
        metric: its name.
        unit: `%`, `dB` or nothing.
        higher_is_better: direction.
        samples: how many were scored; a user's own function counts what it fed.
        seconds: wall time.
        per_sample: values whose mean is `value`; None where the metric is no mean over samples.
    """

    value: float
    metric: str
    unit: str
    higher_is_better: bool
    samples: int
    seconds: float
    per_sample: npt.NDArray[np.float64] | None = None

    def __str__(self) -> str:
        return f"{self.value:.4g}{' ' * bool(self.unit)}{self.unit}"


@dataclass(frozen=True, slots=True)
class Drop:
    """What a model lost against float, in the metric's own direction: positive is worse.

    Attributes:
        value: in the metric's unit.
        interval: 95 % bootstrap interval over samples drawn in pairs; None where scores have no values per sample.
    """

    value: float
    interval: tuple[float, float] | None = None


@dataclass(slots=True)
class _Counter:
    progress: Progress | None
    samples: int = 0

    def advance(self, samples: int) -> None:
        self.samples += samples
        if self.progress is not None:
            self.progress.advance(samples)


def evaluate(
    predict: Predict,
    data: Dataset,
    metric: Metric,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    reference: Predict | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Return the score of a model.

    Args:
        predict: runs the model.
        data: what to score on.
        metric: from `parse_metric` or `default_metric`.
        limit: samples at most.
        batch_size: samples per call.
        reference: the float model, for metrics that compare with it.
        progress: told the number of samples after each batch.

    Raises:
        MetricError: labels or the float model are missing, or outputs do not suit the metric.
    """
    require_labels(metric, data)
    counter, begin = _Counter(progress), time.perf_counter()
    score = metric.score(predict, data, limit=limit, batch_size=batch_size, reference=reference, progress=counter)
    seconds = time.perf_counter() - begin
    return Evaluation(
        score.value, metric.name, metric.unit, metric.higher_is_better, counter.samples, seconds, score.per_sample
    )


def require_labels(metric: Metric, data: Dataset) -> None:
    """Refuse a metric that needs labels on data without, before any model runs.

    Raises:
        MetricError: the data have no labels.
    """
    if metric.needs_labels and not data.has_labels:
        raise MetricError(
            f"Metric {metric.name!r} needs labels, {data.name!r} has none: add labels, give labelled data with "
            f"--eval-data, or choose sqnr or agreement, which compare with the float model."
        )


def drop(reference: Evaluation, test: Evaluation) -> Drop:
    """Return what `test` lost against `reference`; positive is worse whatever the metric's direction."""
    sign = 1.0 if reference.higher_is_better else -1.0
    value = sign * (reference.value - test.value)
    left, right = reference.per_sample, test.per_sample
    if left is None or right is None or left.shape != right.shape or left.size < 2:
        return Drop(value)
    low, high = sorted(sign * end for end in paired_interval(left, right, rng=np.random.default_rng(SEED)))
    return Drop(value, (low, high))
