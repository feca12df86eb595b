"""Distillation: the quantized model learns to give what the float model gives.

The loss is the squared error of every output relative to that output's power in the float model, and with less weight
that of block outputs as hints (Romero et al. 2015, FitNets): before training, hints count 0.3 of what outputs do, and
neither drowns the other. Where labels are asked for, the error against them is added: cross-entropy relative to
that of guessing, or squared error relative to the power of the output.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from fewbits.errors import DataError
from fewbits.improvement.torch_seen import variances
from fewbits.training.schedule import LABELS, LabelLoss
from fewbits.training.torch_samples import Samples, Tensors

_HINTS = 0.3  # weight of all hints together, where the outputs have 1
_LABELS = 1.0  # weight of labels, where the outputs have 1


@dataclass(eq=False)
class Distillation:
    """A student and its teacher.

    Args:
        student: module that returns outputs by name; its parameters are learned.
        teacher: module that returns the same names.
        outputs: names of the model's outputs that are compared.
        hints: names of further ones.
        scales: parameters of the student that are scales and zero points: they have a learning rate of their own.
        with_labels: batches have labels, and these count.

    Attributes:
        powers: variance of every tensor that is compared.
        weights: of outputs, hints and labels in the loss.
        label_loss: how labels are compared; None where they do not count.
    """

    student: nn.Module
    teacher: nn.Module
    outputs: Sequence[str]
    hints: Sequence[str] = ()
    scales: Collection[nn.Parameter] = ()
    with_labels: bool = False
    powers: dict[str, float] = field(default_factory=dict)
    weights: tuple[float, float, float] = (1.0, _HINTS, 0.0)
    label_loss: LabelLoss | None = None

    def prepare(self, samples: Samples) -> None:
        """Note the power of every compared tensor, and weigh hints by what their error is now.

        Tensors that are constant or no real numbers are not compared.

        Raises:
            DataError: nothing varies that could be compared, or the labels do not fit the output.
        """
        self.powers.update(variances(self.teacher, samples.held_out))
        if not (self.powers or self.with_labels):
            raise DataError(
                f"Nothing can be learned without labels from outputs that never vary over the calibration data "
                f"({', '.join(self.outputs)}): give other samples, or look for zeros in the model's weights."
            )
        if self.with_labels:
            self.label_loss = self._fitting_loss(samples.held_out[0])
        outputs, hints, _ = self._held_out_parts(samples)
        weight = _HINTS * outputs / hints if outputs > 0 and hints > 0 else _HINTS
        self.weights = (1.0, weight, _LABELS if self.with_labels else 0.0)

    def loss(self, batch: Tensors) -> torch.Tensor:
        """Return the loss on one batch."""
        return torch.stack([w * part for w, part in zip(self.weights, self._parts(batch), strict=True)]).sum()

    def held_out_loss(self, samples: Samples) -> float:
        """Return the mean loss on the held-out samples, in evaluation mode."""
        return sum(w * part for w, part in zip(self.weights, self._held_out_parts(samples), strict=True))

    def output_error(self, samples: Samples) -> float:
        """Return the mean error of outputs on the held-out samples, in evaluation mode."""
        return self._held_out_parts(samples)[0]

    def _held_out_parts(self, samples: Samples) -> tuple[float, float, float]:
        self.student.eval()
        with torch.no_grad():
            found = [[float(part) for part in self._parts(batch)] for batch in samples.held_out]
        self.student.train()
        outputs, hints, labels = (sum(part) / len(found) for part in zip(*found, strict=True))
        return outputs, hints, labels

    def _parts(self, batch: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the error of outputs, of hints, and against labels."""
        with torch.no_grad():
            wanted = self.teacher(batch)
        given = self.student(batch)
        zero = torch.zeros((), device=next(iter(given.values())).device)

        def mean(names: Sequence[str]) -> torch.Tensor:
            errors = [(given[n] - wanted[n]).pow(2).mean() / self.powers[n] for n in names if n in self.powers]
            return torch.stack(errors).mean() if errors else zero

        against = zero
        if self.label_loss is not None:
            output = self.outputs[0]
            against = _LOSSES[self.label_loss](given[output], batch[LABELS], self.powers.get(output, 1.0))
        return mean(self.outputs), mean(self.hints), against

    def _fitting_loss(self, batch: Tensors) -> LabelLoss:
        """Return how labels of this kind are compared with the output."""
        labels = batch[LABELS]
        if len(self.outputs) != 1:
            raise DataError(
                f"Labels say what one output should be, and this model has {len(self.outputs)}: leave out --labels, or "
                f"train in a loop of your own with fewbits.qat.trainable."
            )
        with torch.no_grad():
            given = self.teacher(batch)[self.outputs[0]]
        if labels.is_floating_point() and labels.shape == given.shape:
            return "squared-error"
        places = (len(given), *given.shape[2:])
        if not labels.is_floating_point() and given.ndim > 1 and tuple(labels.shape) == places:
            if int(labels.min()) < 0 or int(labels.max()) >= given.shape[1]:
                raise DataError(
                    f"Labels from {int(labels.min())} to {int(labels.max())} are no classes of an output of "
                    f"{given.shape[1]}: leave out --labels, or give classes from 0 on."
                )
            return "cross-entropy"
        raise DataError(
            f"Labels of {labels.dtype} {list(labels.shape)} are neither classes nor real values of the output "
            f"{list(given.shape)}: leave out --labels, or train in a loop of your own with fewbits.qat.trainable."
        )


def _cross_entropy(given: torch.Tensor, labels: torch.Tensor, _: float) -> torch.Tensor:
    """Return the cross-entropy relative to that of guessing."""
    return functional.cross_entropy(given, labels.long()) / math.log(max(given.shape[1], 2))


def _squared_error(given: torch.Tensor, labels: torch.Tensor, power: float) -> torch.Tensor:
    """Return the squared error relative to the power of the output."""
    return functional.mse_loss(given, labels) / power


_LOSSES: dict[LabelLoss, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "cross-entropy": _cross_entropy,
    "squared-error": _squared_error,
}
