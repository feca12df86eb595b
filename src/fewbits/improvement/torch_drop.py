"""QDrop: while rounding is learned, part of the activations are read as the float model has them, others on each draw.

Wei et al. 2022, QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization, section 4:
weights that see one fixed pattern of activation errors fit that pattern; what is drawn anew for every element and every
iteration flattens the loss around what is learned. What enters is drawn of the two streams, and inside a block of what
a grid takes and gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fewbits.runtime.torch_graph import Step
from fewbits.runtime.torch_quantize import QuantizedGraph
from fewbits.spec.plan import Role


def mixed(rounded: torch.Tensor, exact: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Return `rounded` with a share of its elements from `exact`, which has the same shape and device as what draws."""
    drawn = torch.empty(rounded.shape, device=rounded.device).uniform_(generator=generator)
    return torch.where(drawn < share, exact, rounded)


@dataclass(frozen=True, slots=True)
class Dropping:
    """Hook of a quantized graph whose activations are left as they are with a certain probability.

    Attributes:
        quantized: what rounds.
        share: the probability, for each element by itself.
        generator: what draws, on the device of the values.
    """

    quantized: QuantizedGraph
    share: float
    generator: torch.Generator

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hook: what a node sees at an input."""
        key = self.quantized.plan.inputs.get((step.name, position))
        return self._drawn(key, self.quantized.read(step, position, value), value)

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        """Hook: what a node hands on."""
        keys = self.quantized.plan.outputs
        rounded = self.quantized.wrote(step, inputs, outputs)
        return tuple(
            None if one is None or exact is None else self._drawn(keys.get(name), one, exact)
            for name, one, exact in zip(step.writes, rounded, outputs, strict=False)
        )

    def _drawn(self, key: str | None, rounded: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        if rounded is exact or key is None or self.quantized.plan.grids[key].role is not Role.ACTIVATION:
            return rounded
        return mixed(rounded, exact, self.share, self.generator)
