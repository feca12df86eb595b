"""What a calibration set and a score can tell: when ranges converge, which samples stretch them, what is missing."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.analysis.evaluate import Evaluation
from fewbits.reporting.preflight_record import Outlier
from fewbits.runtime.data import Dataset
from fewbits.workflow.scoring import Scoring

F64 = npt.NDArray[np.float64]

CONVERGED = 0.05
"""Ranges have converged after n samples where on average they lack no more than this share of those of all samples."""
FEWEST_SAMPLES = 8
"""Fewer say nothing about each other."""
OUTLIER_FACTOR = 2.0
"""How much further than the others a sample reaches in a tensor that it stretches."""
FLIPPED = 0.02
"""Share of decisions that quantization is taken to change, right ones to wrong or back."""
READ_S = 2.0
"""Seconds that reading a data set for its labels may take."""
_NORMAL = 1.96  # of a 95 % interval
_OUTLIER_SHARE = 0.05  # more samples than this are no exception
_STRETCHED_SHARE = 0.05  # of the tensors; a single odd one may be chance
_MOST_OUTLIERS = 5
_MOST_CLASSES = 10_000  # more different labels than this are no classes


def widths(magnitudes: F64) -> F64:
    """Return how wide ranges are after n samples, relative to those of all samples, averaged over tensors.

    A range is the largest magnitude; that of n samples is its expectation over all choices of n, so that the order of
    the samples does not count. Tensors that are zero in all samples are left out.

    Args:
        magnitudes: largest magnitude, [samples, tensors].

    Returns:
        [samples], rising to 1; entry n - 1 is that of n samples.
    """
    count = len(magnitudes)
    rising = np.sort(magnitudes[:, magnitudes.max(axis=0) > 0], axis=0)
    if not rising.size:
        return np.ones(count)
    profile = (rising / rising[-1]).mean(axis=1)
    logs = np.array([math.lgamma(k + 1) for k in range(count + 1)])
    found = np.empty(count)
    for n in range(1, count + 1):
        # the largest of n is the i-th smallest of all (from 0) in C(i, n - 1) of C(count, n) choices
        i = np.arange(n - 1, count)
        total = logs[count] - logs[n] - logs[count - n]
        found[n - 1] = np.exp(logs[i] - logs[n - 1] - logs[i - n + 1] - total) @ profile[i]
    return found


def enough_samples(width: F64) -> int | None:
    """Return after how many samples ranges hardly moved; None where half of the samples were not yet enough.

    Args:
        width: from `widths`.
    """
    if len(width) < FEWEST_SAMPLES:
        return None
    found = int(np.argmax(width >= 1 - CONVERGED)) + 1
    return found if found <= len(width) // 2 else None


def find_outliers(magnitudes: F64, tensors: Sequence[str], inputs: Sequence[str] = ()) -> tuple[Outlier, ...]:
    """Return the samples that stretch an input, or one in twenty tensors and two at least, to twice what others need.

    Up to one sample in twenty may do so together: they are compared with the samples that do not.

    Args:
        magnitudes: largest magnitude, [samples, tensors].
        tensors: their names.
        inputs: those that are the model's inputs.
    """
    count = len(magnitudes)
    if count < FEWEST_SAMPLES:
        return ()
    order = np.argsort(-magnitudes, axis=0, kind="stable")
    falling = np.take_along_axis(magnitudes, order, axis=0)
    most = max(1, int(_OUTLIER_SHARE * count))
    stretched: dict[int, list[tuple[float, str]]] = {}
    for t, name in enumerate(tensors):
        for k in range(most, 0, -1):
            usual = falling[k, t]
            if usual > 0 and falling[k - 1, t] >= OUTLIER_FACTOR * usual:
                for sample in order[:k, t]:
                    stretched.setdefault(int(sample), []).append((float(magnitudes[sample, t] / usual), name))
                break
    needed = max(2, math.ceil(_STRETCHED_SHARE * len(tensors)))
    found = [
        Outlier(sample, max(places)[1], max(places)[0], len(places))
        for sample, places in stretched.items()
        if len(places) >= needed or any(name in inputs for _, name in places)
    ]
    return tuple(sorted(found, key=lambda o: (-o.tensors, -o.factor))[:_MOST_OUTLIERS])


def read_classes(data: Dataset, limit: int | None, seconds: float) -> dict[int, int] | None:
    """Return class -> its samples; None where labels are no classes, or reading them takes longer than `seconds`.

    Samples are read whole for it: data sets do not hand out labels alone.
    """
    if not data.has_labels:
        return None
    found: dict[int, int] = {}
    end = time.perf_counter() + seconds
    for batch in data.batches(32, limit):
        labels = batch.labels
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            return None
        for value, times in zip(*np.unique(labels, return_counts=True), strict=True):
            found[int(value)] = found.get(int(value), 0) + int(times)
        if time.perf_counter() > end or len(found) > _MOST_CLASSES:
            return None
    return found


@dataclass(frozen=True, slots=True)
class Missing:
    """Classes of the evaluation data that calibration data lack.

    Attributes:
        names: the labels.
        classes: in the evaluation data; 0 where nothing is known.
        by_chance: how many a draw of as many samples, as frequent as in the evaluation data, would miss.
    """

    names: tuple[str, ...] = ()
    classes: int = 0
    by_chance: float = 0.0

    @property
    def is_odd(self) -> bool:
        """Whether more are missing than chance explains."""
        return len(self.names) > self.by_chance + 3 * math.sqrt(self.by_chance)


def missing_classes(data: Dataset, samples: int, scoring: Scoring, seconds: float = READ_S) -> Missing:
    """Return the classes of the evaluation data that calibration data lack, where both have labels of classes.

    Args:
        data: calibration data.
        samples: of them, at most.
        scoring: its evaluation data.
        seconds: after which reading either data set for their labels is given up, and nothing is known.
    """
    if scoring.is_on_calibration_data or not (data.has_labels and scoring.data.has_labels):
        return Missing()
    wanted = read_classes(scoring.data, scoring.limit, seconds)
    there = read_classes(data, samples, seconds) if wanted else None
    if wanted is None or there is None:
        return Missing()
    total, drawn = sum(wanted.values()), sum(there.values())
    by_chance = sum((1 - n / total) ** drawn for n in wanted.values())
    return Missing(tuple(str(name) for name in sorted(set(wanted) - set(there))), len(wanted), by_chance)


def deviation(before: Evaluation, drop: float | None) -> float | None:
    """Return the standard deviation of one sample's drop that is assumed before any quantized score exists.

    Where each sample counts as 0 or as one and the same value (right or wrong), FLIPPED of them change. Other values
    are taken to drop unevenly: the drop of one sample scatters by as much as the mean drop that is asked about.

    Args:
        before: score of the float model.
        drop: that is acceptable, in the metric's unit; None where that is not known.

    Returns:
        In the metric's unit; None where the metric has no values per sample, or nothing is known of their drop.
    """
    values = before.per_sample
    if values is None or values.size < 2:
        return None
    step = float(np.abs(values).max())
    if step > 0 and bool(np.isin(values, (0.0, step)).all()):
        return step * math.sqrt(FLIPPED)
    return drop


def half_width(deviation: float, samples: int) -> float:
    """Return half the width of the 95 % interval of a drop that is a mean over `samples`."""
    return _NORMAL * deviation / math.sqrt(samples)


def samples_to_tell(deviation: float, drop: float) -> int:
    """Return how many samples narrow the 95 % interval of a drop to plus or minus `drop`."""
    return math.ceil((_NORMAL * deviation / drop) ** 2)
