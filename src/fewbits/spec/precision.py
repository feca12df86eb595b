"""What the user says: w8a8, w4a16, w4a16g32, fp16, fp32."""

import re
from dataclasses import dataclass

from fewbits.errors import SpecError

WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
ACTIVATION_BITS = (4, 5, 6, 7, 8, 16)
WIDEST_BLOCKED = 8
"""Most bits of a weight whose inputs come in blocks: more bits leave a block's own scale nothing to gain."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Weight width and activation width of one node; `float_bits` is set instead for fp16 and fp32.

    With `block_size` every so many inputs of an output channel have a weight scale of their own, where the target
    allows it and the weight has more inputs than that; elsewhere the channel has one.

    >>> Precision.parse("w4a16g32")
    Precision(weight_bits=4, activation_bits=16, float_bits=None, block_size=32)
    >>> str(Precision.parse("fp16"))
    'fp16'
    """

    weight_bits: int = 0
    activation_bits: int = 0
    float_bits: int | None = None
    block_size: int | None = None

    @property
    def is_float(self) -> bool:
        """Whether nodes of this precision compute in floating point."""
        return self.float_bits is not None

    @property
    def widths(self) -> tuple[float, float]:
        """What precisions are ordered by: bits of weights, a little more where they have blocks, and of activations.

        >>> Precision.parse("w4a8").widths, Precision.parse("w4a8g4").widths, Precision.parse("fp16").widths
        ((4, 8), (4.2, 8), (16, 16))
        """
        if self.float_bits is not None:
            return self.float_bits, self.float_bits
        return self.weight_bits + (1 / (1 + self.block_size) if self.block_size else 0), self.activation_bits

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """Return the precision that `text` names.

        Raises:
            SpecError: the name is not w{2-8,16}a{4-8,16}, fp16 or fp32, with g and a block size behind w{2-8}a{4-8,16}.
        """
        name = text.strip().lower()
        if name in ("fp16", "fp32"):
            return cls(float_bits=int(name[2:]))
        match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})(?:g([1-9]\d{0,5}))?", name)
        if match:
            weight, activation, size = int(match[1]), int(match[2]), int(match[3]) if match[3] else None
            if size is not None and weight > WIDEST_BLOCKED:
                raise SpecError(
                    f"Precision {text!r}: blocks of weights (g{size}) are for up to {WIDEST_BLOCKED} bits; write "
                    f"w{weight}a{activation}."
                )
            if weight in WEIGHT_BITS and activation in ACTIVATION_BITS:
                return cls(weight, activation, block_size=size)
        raise SpecError(
            f"Unknown precision {text!r}: write w8a8, w8a16, w16a16, w4a8, w4a16 (w2 to w8 or w16, a4 to a8 or a16), "
            f"w4a16g32 (a weight scale for every 32 inputs), fp16 or fp32."
        )

    def __str__(self) -> str:
        if self.is_float:
            return f"fp{self.float_bits}"
        blocks = f"g{self.block_size}" if self.block_size else ""
        return f"w{self.weight_bits}a{self.activation_bits}{blocks}"


FP32 = Precision(float_bits=32)
FP16 = Precision(float_bits=16)
