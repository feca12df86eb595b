"""Scores: from what the user calls a metric to a number, and the uncertainty of a difference.

In: `top1`, `sqnr@logits`, `file.py:function`, or a function. Out: a `Metric`, whose `score` returns a `Score`.
Reading order: score_types (the contract), score_classes and score_values (the named metrics), score_user (the user's
own).
"""

import difflib
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.analysis.score_cache import CachedPredict
from fewbits.analysis.score_classes import Agreement, MeanIou, TopK
from fewbits.analysis.score_types import BuiltinMetric, Metric, Predict, Score
from fewbits.analysis.score_user import UserMetric, user_metric
from fewbits.analysis.score_values import Perplexity, Psnr, Sqnr, SquaredDifference
from fewbits.errors import MetricError, SpecError
from fewbits.runtime.data.types import Dataset, InputInfo
from fewbits.runtime.data.userfile import split_user_spec

__all__ = [
    "METRICS",
    "BuiltinMetric",
    "CachedPredict",
    "Metric",
    "Predict",
    "Score",
    "UserMetric",
    "default_metric",
    "paired_interval",
    "parse_metric",
]

METRICS: MappingProxyType[str, BuiltinMetric] = MappingProxyType(
    {
        "top1": TopK("top1", "%", needs_labels=True),
        "top5": TopK("top5", "%", needs_labels=True, k=5),
        "miou": MeanIou("miou", "%", needs_labels=True),
        "psnr": Psnr("psnr", "dB", needs_labels=True),
        "mse": SquaredDifference("mse", higher_is_better=False, needs_labels=True),
        "perplexity": Perplexity("perplexity", higher_is_better=False),
        "sqnr": Sqnr("sqnr", "dB", needs_float=True),
        "agreement": Agreement("agreement", "%", needs_float=True),
    }
)
"""The metrics that a name picks."""


def parse_metric(text: str | Callable[[Predict], Any], *, higher_is_better: bool | None = None) -> Metric:
    """Return the metric that `text` names.

    Args:
        text: a name of `METRICS`, `name@output` for another output than the first, `file.py:function`, or a function
            that takes `predict(feeds) -> outputs` and returns a number.
        higher_is_better: direction of the user's function; the named metrics have their own.

    Raises:
        SpecError: no metric has that name, or its direction is another.
        MetricError: `file.py:function` cannot be loaded.
    """
    if not isinstance(text, str) or split_user_spec(text) is not None:
        return user_metric(text, higher_is_better)
    name, at, output = text.partition("@")
    if name not in METRICS or (at and not output):
        close = difflib.get_close_matches(name.lower(), METRICS, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise SpecError(
            f"There is no metric {text!r}{hint}: choose one of {', '.join(METRICS)}, each also as name@output, "
            "or file.py:function."
        )
    metric = METRICS[name]
    if higher_is_better is not None and higher_is_better != metric.higher_is_better:
        way = "higher" if metric.higher_is_better else "lower"
        raise SpecError(f"Metric {name!r} is better when {way}: leave its direction out.")
    return metric.at(output) if at else metric


def default_metric(data: Dataset, outputs: Sequence[InputInfo]) -> Metric:
    """Return the metric for a user who named none.

    top1 where labels are integers [N] and the first output holds scores [N, C, ...] of at least two classes; agreement
    where there are no labels and the one output is [N, C] with a fixed C of at least two; sqnr everywhere else.

    Args:
        data: read up to its first sample.
        outputs: the model's outputs, in order.
    """
    first = outputs[0]
    classes = first.shape[1] if len(first.shape) > 1 else 1
    extra = first.shape[2:]
    is_scores = classes != 1 and all(dim == 1 for dim in extra) and first.dtype.kind not in "iub"
    if data.has_labels:
        labels = next(iter(data.batches(1, 1))).labels
        is_index = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
        return METRICS["top1"] if is_index and is_scores else METRICS["sqnr"]
    is_fixed = isinstance(classes, int) and len(first.shape) == 2 and len(outputs) == 1
    return METRICS["agreement"] if is_scores and is_fixed else METRICS["sqnr"]


def paired_interval(
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Return the bootstrap interval of mean(a - b), percentile method, samples drawn in pairs.

    Args:
        a: values per sample [N].
        b: values of the same samples [N].
        rng: source of the draws.
        level: share of the resamples inside.
        resamples: number of draws.

    Raises:
        MetricError: the samples do not pair up, or there are none.
        SpecError: `level` is not between 0 and 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise MetricError(
            f"Scores of shape {list(a.shape)} and {list(b.shape)} do not pair up: both must be [N], of one data set."
        )
    if not 0 < level < 1:
        raise SpecError(f"A confidence level of {level} is impossible: it must lie between 0 and 1.")
    difference = a - b
    # One resample at a time: memory stays at N however many there are.
    means = [difference[rng.integers(0, a.size, a.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
