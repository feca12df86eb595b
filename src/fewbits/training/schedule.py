"""How `fewbits qat` trains: how long, how fast, and what it looks at."""

from dataclasses import dataclass
from typing import Literal

from fewbits.errors import SpecError

RATES = (0.00005, 0.00015, 0.0005, 0.002, 0.006)
"""Learning rates that a range test tries: shares of a parameter's own size that one step may change it by."""
SCALE_FACTORS = (0.25, 0.05, 1.0)
"""Factors that it tries between the rate of scales and zero points and that of weights; the first while it looks for
the rate of weights."""
CHECKPOINT = "qat.checkpoint"
"""Name of the file in a run's folder that says where a training stands; a run that ended leaves none."""
LABELS = ""
"""Where labels stand among the feeds of a batch: no input has this name."""
_TRIAL = 0.04  # share of the steps that each rate is tried for
_FEWEST_TRIED, _MOST_TRIED = 20, 100

Rates = tuple[float, float]
"""Learning rates of weights and biases, and of scales and zero points."""
LabelLoss = Literal["cross-entropy", "squared-error"]


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: of the optimizer, at most.
        batch_size: samples per step.
        rate: learning rate at its highest, as a share of the size (root mean square) of each parameter, scales
            included; None finds one for weights and one for scales by a short test of several.
        minutes: after which training ends, with the best state so far; None sets no limit.
        hints: outputs of blocks count, too, not only those of the model.
        labels: the error against the labels of the data counts as much as that against the float model.
        window: size of the random windows that training reads along the open axes of the inputs; 0 reads whole samples,
            None takes windows where samples differ in shape.
        seed: of the order of the samples.
        device: where torch computes: "cpu", "cuda".
    """

    steps: int = 1000
    batch_size: int = 32
    rate: float | None = None
    minutes: float | None = None
    hints: bool = True
    labels: bool = False
    window: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise SpecError(f"Training takes at least one step of one sample, not {self.steps} of {self.batch_size}.")
        if self.rate is not None and not 0 < self.rate <= 1:
            raise SpecError(f"The learning rate is a share above 0 and at most 1, not {self.rate}.")
        if self.minutes is not None and not self.minutes > 0:
            raise SpecError(f"The time for training is a positive number of minutes, not {self.minutes}.")
        if self.window is not None and self.window < 0:
            raise SpecError(f"A window has a positive size, or 0 for whole samples, not {self.window}.")

    @property
    def trial_steps(self) -> int:
        """Steps that each learning rate is tried for."""
        return min(max(int(self.steps * _TRIAL), _FEWEST_TRIED), _MOST_TRIED, self.steps)

    @property
    def all_steps(self) -> int:
        """Steps including those of the range test."""
        return self.steps + (0 if self.rate is not None else self.trial_steps * (len(RATES) + len(SCALE_FACTORS) - 1))
