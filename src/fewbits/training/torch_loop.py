"""The loop of training: a range test, steps, looks at the held-out samples, and where it stands on disk.

The state with the least loss on held-out samples is kept, the start among them. A loop that is stopped at any moment
goes on at its last look, and ends with the bits of one that was not.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from fewbits.runtime.progress import NullProgress, Progress
from fewbits.training.schedule import Rates, Training
from fewbits.training.torch_checkpoint import Checkpoint
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_samples import Samples
from fewbits.training.torch_steps import (
    Tried,
    best_rates,
    next_trial,
    open_optimizer,
    share_at,
    state_of,
    take_step,
)

_LOOKS = 20  # at the held-out samples
_PATIENCE = 12  # such looks in a row after which training stops


@dataclass(frozen=True, slots=True)
class Distilled:
    """How a training went.

    Attributes:
        rate: learning rate of weights.
        scale_rate: that of scales and zero points.
        steps: that were made.
        before, after: loss on held-out samples.
        history: (step, loss on the held-out samples).
        stopped: why it ended before its last step; empty where it did not.
        tried: (rates, loss) of the range test.
    """

    rate: float
    scale_rate: float
    steps: int
    before: float
    after: float
    history: tuple[tuple[int, float], ...]
    stopped: str = ""
    tried: tuple[tuple[Rates, float], ...] = ()


def distill(
    pair: Distillation,
    samples: Samples,
    training: Training,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Train the student in place; it ends in its best state.

    Args:
        pair: student and teacher.
        samples: what is trained on, and what judges.
        training: how long and how fast.
        checkpoint: where a training that was stopped goes on.
        progress: told of every step, those of the range test included.

    Raises:
        DataError: the labels do not fit the output.
        OutputError: the checkpoint cannot be read or written.
    """
    return _Loop(pair, samples, training, checkpoint or Checkpoint(), progress or NullProgress()).run()


@dataclass(slots=True)
class _Standing:
    """Where a training stands, but for the states of student and optimizer.

    Attributes:
        tried: what the range test found so far.
        rates: those that training goes by; None before it begins.
        step: steps that were made.
        history: (step, held-out loss).
        waited: looks in a row at states no better than the one before and the best.
        spent_s: seconds since the beginning.
        stopped: why training ended early.
        is_over: whether it ended.
    """

    tried: Tried = field(default_factory=list)
    rates: Rates | None = None
    step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    waited: int = 0
    spent_s: float = 0.0
    stopped: str = ""
    is_over: bool = False


class _Loop:
    def __init__(
        self, pair: Distillation, samples: Samples, training: Training, checkpoint: Checkpoint, progress: Progress
    ) -> None:
        self._pair, self._samples, self._training = pair, samples, training
        self._checkpoint, self._progress = checkpoint, progress
        self._clock = time.perf_counter()
        self._at = _Standing()
        pair.prepare(samples)
        self._first = pair.held_out_loss(samples)
        self._least, self._best = self._first, state_of(pair.student)
        self._optimizer = open_optimizer(pair)

    def run(self) -> Distilled:
        """Go on from where the checkpoint stands to the end."""
        self._resume()
        if self._at.rates is None:
            rate = self._training.rate
            self._at.rates = self._range_test() if rate is None else (rate, rate)
            self._at.history = [(0, self._first)]
            self._save()
        if not self._at.is_over:
            self._train(self._at.rates)
        self._pair.student.load_state_dict(self._best)
        at = self._at
        return Distilled(
            *self._at.rates, at.step, self._first, self._least, tuple(at.history), at.stopped, tuple(at.tried)
        )

    def _range_test(self) -> Rates:
        """Return the rates with the least held-out loss after a few steps; the student ends as it began."""
        count, tried = self._training.trial_steps, self._at.tried
        while (rates := next_trial(tried)) is not None and (not tried or self._done() < 1):
            optimizer, batches = open_optimizer(self._pair), self._samples.forever(self._training.seed)
            for step in range(count):
                share = share_at(step / count, 1 / count)
                take_step(self._pair, next(batches), optimizer, (share * rates[0], share * rates[1]))
                self._progress.advance(1)
            loss = self._pair.held_out_loss(self._samples)
            tried.append((rates, loss if math.isfinite(loss) else math.inf))
            self._pair.student.load_state_dict(self._best)
            self._save()
        self._progress.advance(self._training.all_steps - self._training.steps - count * len(tried))
        return best_rates(tried)

    def _train(self, rates: Rates) -> None:
        at, training, one = self._at, self._training, 1 / self._training.steps
        batches = self._samples.forever(training.seed, skip=at.step)
        looked = int(self._done() * _LOOKS)
        while not at.is_over:
            share = share_at(self._done(), one)
            take_step(self._pair, next(batches), self._optimizer, (share * rates[0], share * rates[1]))
            at.step += 1
            self._progress.advance(1)
            done = self._done()
            if int(done * _LOOKS) > looked:
                looked = int(done * _LOOKS)
                self._look()
                at.is_over = done >= 1 or at.waited >= _PATIENCE
                if at.step < training.steps and at.is_over:
                    at.stopped = "the time was up" if done >= 1 else "held-out samples got no better"
                self._save()

    def _look(self) -> None:
        at, found = self._at, self._pair.held_out_loss(self._samples)
        at.waited = 0 if found < max(self._least, at.history[-1][1]) else at.waited + 1
        at.history.append((at.step, found))
        if found < self._least:
            self._least, self._best = found, state_of(self._pair.student)

    def _spent_s(self) -> float:
        return self._at.spent_s + time.perf_counter() - self._clock

    def _done(self) -> float:
        """Return the share of the training that is behind, by steps or by time."""
        by_steps = self._at.step / self._training.steps
        if self._training.minutes is None:
            return by_steps
        return min(max(by_steps, self._spent_s() / (60 * self._training.minutes)), 1.0)

    def _save(self) -> None:
        at = self._at
        values = {name: getattr(at, name) for name in _Standing.__slots__}
        values |= {
            "spent_s": self._spent_s(),
            "least": self._least,
            "best": self._best,
            "student": self._pair.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        self._checkpoint.write(values)

    def _resume(self) -> None:
        found: dict[str, Any] | None = self._checkpoint.read(self._training.device)
        if found is None:
            return
        self._least, self._best = found.pop("least"), found.pop("best")
        self._pair.student.load_state_dict(found.pop("student"))
        self._optimizer.load_state_dict(found.pop("optimizer"))
        self._at = _Standing(**found)
        trials = self._training.trial_steps * len(self._at.tried)
        ready = self._training.all_steps - self._training.steps
        self._progress.advance(self._at.step + (trials if self._at.rates is None else ready))
