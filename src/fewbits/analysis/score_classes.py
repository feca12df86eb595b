"""Metrics of class decisions: top1, top5, agreement with the float model, mean intersection over union."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.analysis.score_types import BuiltinMetric, Run, Score, mean_score
from fewbits.errors import MetricError
from fewbits.runtime.data.types import Array

IGNORED = 255
"""Label of pixels that miou leaves out."""


@dataclass(frozen=True, slots=True)
class TopK(BuiltinMetric):
    """Percent of labels among the k highest logits.

    Logits [N, C] with labels [N], or [N, C, ...] with labels [N, ...] (then a sample's value is its mean over
    positions); [N, ..., C] is understood where only that fits the labels. NaN logits count as wrong.
    """

    k: int = 1

    def _score(self, run: Run) -> Score:
        parts = []
        for batch in run.batches():
            labels = self.labels_of(run, batch)
            logits = classes_last(self.output_of(run.predict, batch), labels, self)
            labels = labels.reshape(logits.shape[:-1])
            require_classes(labels, logits.shape[-1], self)
            parts.append(_percent(_hits(logits, labels, self.k)))
        return mean_score(parts)


@dataclass(frozen=True, slots=True)
class Agreement(BuiltinMetric):
    """Percent of decisions (argmax over axis 1 of [N, C, ...]) equal to the float model's; needs no labels.

    NaN counts as disagreement.
    """

    def _score(self, run: Run) -> Score:
        parts = []
        for batch in run.batches():
            wanted = self.float_output_of(run, batch)
            given = self.output_of(run.predict, batch)
            if wanted.ndim < 2 or wanted.shape[1] < 2 or wanted.shape != given.shape:
                raise MetricError(
                    f"Metric {self.name!r} needs scores [N, C, ...] of at least 2 classes from both models, the float "
                    f"output has shape {list(wanted.shape)}, the other {list(given.shape)}: choose sqnr. "
                    f"{self.elsewhere}."
                )
            equal = given.argmax(axis=1) == wanted.argmax(axis=1)
            parts.append(_percent(equal & ~_has_nan(given, 1) & ~_has_nan(wanted, 1)))
        return mean_score(parts)


@dataclass(frozen=True, slots=True)
class MeanIou(BuiltinMetric):
    """Mean intersection over union, percent, over the classes that occur in labels or output.

    Logits [N, C, H, W] (or [N, H, W, C]) or class maps [N, H, W] of integers; labels [N, H, W] of integers, 255 is left
    out. One confusion matrix is summed over all samples.
    """

    def _score(self, run: Run) -> Score:
        confusion = np.zeros((0, 0), np.int64)
        for batch in run.batches():
            labels = self.labels_of(run, batch)
            output = self.output_of(run.predict, batch)
            count = None
            if output.dtype.kind in "iu" and output.size == labels.size:
                classes = output.reshape(labels.shape)
            else:
                logits = classes_last(output, labels, self)
                classes, count = logits.argmax(axis=-1).reshape(labels.shape), logits.shape[-1]
            kept = labels != IGNORED
            require_classes(labels[kept], count, self)
            require_classes(classes[kept], count, self)
            confusion = _add_confusion(confusion, labels[kept], classes[kept])
        hits = np.diag(confusion)
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
        if not union.any():
            raise MetricError(
                f"Metric {self.name!r}: every label of {run.data.name!r} is {IGNORED}, left out: check them."
            )
        return Score(float(100 * np.mean(hits[union > 0] / union[union > 0])))


def classes_last(logits: Array, labels: Array, metric: BuiltinMetric) -> Array:
    """Return logits with the class axis last, [N, ..., C], found by the shape of the labels.

    Raises:
        MetricError: neither axis 1 nor the last axis leaves the shape of the labels.
    """
    wanted = labels.shape
    if labels.ndim == logits.ndim and labels.ndim > 1 and labels.shape[1] == 1:
        wanted = (labels.shape[0], *labels.shape[2:])  # [N, 1, H, W]: labels that kept a channel axis
    if wanted == (1,) and logits.ndim == 1:
        return logits[None]  # a model without batch axis
    if len(wanted) == 1 and logits.ndim > 2 and logits.shape[1:].count(1) >= logits.ndim - 2:
        logits = logits.reshape(len(logits), -1)  # [N, C, 1, 1] or [N, 1, 1, C]
    if logits.ndim == len(wanted) + 1:
        if (logits.shape[0], *logits.shape[2:]) == wanted:
            return np.moveaxis(logits, 1, -1)
        if logits.shape[:-1] == wanted:
            return logits
    raise MetricError(
        f"Metric {metric.name!r} needs logits [N, C] with labels [N], or [N, C, ...] with [N, ...]; the output has "
        f"shape {list(logits.shape)}, the labels {list(labels.shape)}. {metric.elsewhere}, or resize one of them."
    )


def require_classes(labels: Array, count: int | None, metric: BuiltinMetric) -> None:
    """Refuse labels that are not class indices 0..count-1 (any, where `count` is None).

    Raises:
        MetricError: they are not integers, or out of range.
    """
    if labels.dtype.kind not in "iu":
        raise MetricError(f"Metric {metric.name!r} needs integer class indices as labels, they are {labels.dtype}.")
    if not labels.size:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (count is not None and high >= count):
        allowed = "0 or more" if count is None else f"0 to {count - 1}"
        wrong = low if low < 0 else high
        raise MetricError(
            f"Metric {metric.name!r}: the label {wrong} is no class, they are {allowed}: check the labels."
        )


def _hits(logits: Array, labels: Array, k: int) -> Array:
    """Return whether fewer than k classes rank before each label; of ties the lower index ranks first, as in argmax."""
    own = np.take_along_axis(logits, labels[..., None].astype(np.int64), axis=-1)
    before = np.arange(logits.shape[-1]) < labels[..., None]
    rank = np.sum((logits > own) | ((logits == own) & before), axis=-1)
    return np.asarray((rank < k) & ~_has_nan(logits, -1))


def _has_nan(logits: Array, axis: int) -> Array:
    return np.asarray(np.isnan(logits.astype(np.float32)).any(axis=axis))


def _percent(hits: Array) -> npt.NDArray[np.float64]:
    """Return the percentage of each sample: [N, ...] -> [N]."""
    return np.asarray(100 * hits.reshape(len(hits), -1).mean(axis=1, dtype=np.float64))


def _add_confusion(total: npt.NDArray[np.int64], labels: Array, classes: Array) -> npt.NDArray[np.int64]:
    """Add to the confusion matrix [label, class], which grows with the highest class seen."""
    rows, columns = labels.astype(np.int64), classes.astype(np.int64)
    size = max(len(total), int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1)
    grown = np.pad(total, (0, size - len(total)))
    return np.asarray(grown + np.bincount(rows * size + columns, minlength=size * size).reshape(size, size))
