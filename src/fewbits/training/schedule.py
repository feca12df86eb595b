"""How `fewbits qat` trains: how long, how fast, and what it looks at."""

from dataclasses import dataclass

from fewbits.errors import SpecError

RATES = (0.0005, 0.002, 0.006, 0.02)
"""Learning rates that a range test tries: shares of a parameter's own size that one step may change it by."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: of the optimizer, at most.
        batch_size: samples per step.
        rate: learning rate at its highest, as a share of the size (root mean square) of each parameter; None finds one
            by a short test of several.
        minutes: after which training ends wherever it is, with the best state so far; None sets no limit.
        hints: outputs of blocks count, too, not only those of the model.
        seed: of the order of the samples.
        device: where torch computes: "cpu", "cuda".
    """

    steps: int = 1000
    batch_size: int = 32
    rate: float | None = None
    minutes: float | None = None
    hints: bool = True
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise SpecError(f"Training takes at least one step of one sample, not {self.steps} of {self.batch_size}.")
        if self.rate is not None and not 0 < self.rate <= 1:
            raise SpecError(f"The learning rate is a share above 0 and at most 1, not {self.rate}.")
        if self.minutes is not None and not self.minutes > 0:
            raise SpecError(f"The time for training is a positive number of minutes, not {self.minutes}.")
