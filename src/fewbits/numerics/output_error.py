"""Error of a network's outputs taken together: what ranges, sensitivities and searches are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

from fewbits.numerics.channel_error import ChannelError

Normalize = Literal["channel", "power"]
"""What squared errors are divided by: each channel's own variance, or the power of the whole output."""


@dataclass
class RelativeOutputError:
    """Mutable accumulator over batches of all outputs of a network.

    Attributes:
        names: the outputs that count; those that hold no floats, and those that never vary, are left out of the mean.
        normalize: "channel" is `ChannelError.value`, "power" the plain inverse of the SQNR.
    """

    names: Sequence[str]
    normalize: Normalize = "channel"
    _errors: dict[str, ChannelError] = field(default_factory=dict)

    def update(self, reference: Mapping[str, npt.NDArray[Any]], test: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take one batch in: what the float model gave and what the quantized one gives, output name -> values.

        An output whose shape differs between the two (a detector that selects boxes) is not compared.
        """
        for name in self.names:
            wanted, given = reference[name], test[name]
            if wanted.dtype.kind == "f" and wanted.shape == given.shape:
                self._errors.setdefault(name, ChannelError()).update(wanted, given)

    @property
    def by_output(self) -> dict[str, float]:
        """Relative error of every output that holds floats and varies."""
        found = {name: error.value for name, error in self._errors.items()}
        if self.normalize == "power":
            found = {name: error.power_value for name, error in self._errors.items() if found[name] is not None}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def value(self) -> float | None:
        """Mean of the relative errors over the outputs; None where nothing can be compared."""
        found = self.by_output
        return sum(found.values()) / len(found) if found else None
