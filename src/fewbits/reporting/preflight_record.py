"""What is known before anything is quantized: how long it will take, and whether data and score can tell enough."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outlier:
    """A calibration sample that stretches ranges as the others do not.

    Attributes:
        sample: its number, from 0.
        tensor: the tensor that it stretches most.
        factor: its largest magnitude there over that of the samples which are no outliers there.
        tensors: how many tensors it stretches to at least twice what the others need.
    """

    sample: int
    tensor: str
    factor: float
    tensors: int = 1


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found out by a few probe runs and one look at the data.

    Attributes:
        seconds: that step 1 (float and the given precisions) is expected to take, what it took so far included.
        peak_mb: largest resident memory that the process is expected to need, the steps of `later_mb` included; None
            where the system does not tell memory.
        parts: part of step 1 -> seconds, which add up to `seconds`.
        calibration_samples: that were looked at.
        enough_samples: after which ranges hardly moved; None where they still do after all of them.
        outliers: the worst first, few.
        missing_classes: labels that evaluation data have and calibration data, if labelled, lack.
        score_samples: that scores are taken on.
        resolution: the least drop that these samples tell from noise, in the metric's unit: half the width of the 95 %
            interval of a drop; None where the metric has no values per sample.
        warnings: sentences for the user, the gravest first.
        step1_mb: largest resident memory until the end of step 1; None where the system does not tell.
        later_mb: later step (litemp, improve) -> largest resident memory with it, an upper figure.
        waiting_mb: of the step improve in `later_mb`: activations that wait for all samples, and can wait in files.
        later_s: later step -> seconds that one candidate more takes (made, written, scored), its search not counted.
    """

    seconds: float
    peak_mb: float | None
    parts: Mapping[str, float]
    calibration_samples: int
    enough_samples: int | None
    outliers: tuple[Outlier, ...]
    missing_classes: tuple[str, ...]
    score_samples: int
    resolution: float | None
    warnings: tuple[str, ...]
    step1_mb: float | None = None
    later_mb: Mapping[str, float] = field(default_factory=dict)
    waiting_mb: float = 0.0
    later_s: Mapping[str, float] = field(default_factory=dict)
