"""One way of scoring, fixed once, so that float and quantized models are scored alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fewbits.analysis.evaluate import Evaluation, evaluate, require_labels
from fewbits.analysis.score_cache import DEFAULT_CEILING_BYTES
from fewbits.analysis.scores import CachedPredict, Metric, Predict, default_metric, parse_metric
from fewbits.runtime.data import Dataset, Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.progress import Progress
from fewbits.workflow.calibrate import batch_size_for
from fewbits.workflow.sessions import output_infos
from fewbits.workflow.subject import Subject

MetricLike = str | Callable[[Predict], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scoring:
    """How models are scored.

    Attributes:
        metric: the user's, or the one that suits the data.
        data: evaluation data.
        limit: samples at most.
        batch_size: samples per call.
        reference: the float model, as it was before anything improved it; its outputs are remembered.
        is_on_calibration_data: no other data were given.
    """

    metric: Metric
    data: Dataset
    limit: int | None
    batch_size: int
    reference: CachedPredict
    is_on_calibration_data: bool

    def score(self, predict: Predict, progress: Progress | None = None) -> Evaluation:
        """Return the score of a model."""
        return evaluate(
            predict,
            self.data,
            self.metric,
            limit=self.limit,
            batch_size=self.batch_size,
            reference=self.reference if self.metric.needs_float else None,
            progress=progress,
        )

    def score_float(self, progress: Progress | None = None) -> Evaluation:
        """Return the score of the float model."""
        return self.score(self.reference, progress)


def check_metric(metric: MetricLike | None, higher_is_better: bool | None) -> Metric | None:
    """Return the metric that the caller names, before anything runs; None where none is named.

    Raises:
        SpecError: there is no such metric, or a direction that it cannot have.
        MetricError: the user's function cannot be loaded.
    """
    return None if metric is None else parse_metric(metric, higher_is_better=higher_is_better)


def open_scoring(
    subject: Subject,
    *,
    samples: int,
    eval_data: DataLike | None = None,
    metric: Metric | None = None,
    eval_samples: int | None = None,
    preprocess: Preprocess | None = None,
) -> Scoring:
    """Return how the float model and everything derived from it are scored; nothing runs yet.

    Args:
        subject: gives the float model, and the data where no others are given.
        samples: how many of those, then, at most.
        eval_data: evaluation data; None scores on the calibration data.
        metric: None chooses one by labels and outputs.
        eval_samples: evaluation samples at most.
        preprocess: how images become inputs.

    Raises:
        MetricError: the metric needs labels that the data do not have.
        DataError: the data cannot be used.
    """
    data = subject.data
    if eval_data is not None:
        data = open_data(eval_data, inputs=subject.runner.inputs, preprocess=preprocess)
    chosen = metric or default_metric(data, output_infos(subject.model))
    require_labels(chosen, data)
    limit = eval_samples
    if eval_data is None and limit is None:
        limit = samples
    kept = DEFAULT_CEILING_BYTES if subject.ceiling is None else subject.ceiling.kept_bytes
    reference = CachedPredict(subject.reference, min(kept, DEFAULT_CEILING_BYTES))
    return Scoring(chosen, data, limit, batch_size_for(subject), reference, eval_data is None)
