"""What the user says: w8a8, w4a16, fp16, fp32."""

import re
from dataclasses import dataclass

from fewbits.errors import SpecError

WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
ACTIVATION_BITS = (4, 5, 6, 7, 8, 16)


@dataclass(frozen=True, slots=True)
class Precision:
    """Weight width and activation width of one node; `float_bits` is set instead for fp16 and fp32.

    >>> Precision.parse("w4a16")
    Precision(weight_bits=4, activation_bits=16, float_bits=None)
    >>> str(Precision.parse("fp16"))
    'fp16'
    """

    weight_bits: int = 0
    activation_bits: int = 0
    float_bits: int | None = None

    @property
    def is_float(self) -> bool:
        """Whether nodes of this precision compute in floating point."""
        return self.float_bits is not None

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """Return the precision that `text` names.

        Raises:
            SpecError: the name is not w{2-8,16}a{4-8,16}, fp16 or fp32.
        """
        name = text.strip().lower()
        if name in ("fp16", "fp32"):
            return cls(float_bits=int(name[2:]))
        match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", name)
        if match:
            weight, activation = int(match[1]), int(match[2])
            if weight in WEIGHT_BITS and activation in ACTIVATION_BITS:
                return cls(weight, activation)
        raise SpecError(
            f"Unknown precision {text!r}: write w8a8, w8a16, w16a16, w4a8, w4a16 (w2 to w8 or w16, a4 to a8 or a16), "
            f"fp16 or fp32."
        )

    def __str__(self) -> str:
        return f"fp{self.float_bits}" if self.is_float else f"w{self.weight_bits}a{self.activation_bits}"


FP32 = Precision(float_bits=32)
FP16 = Precision(float_bits=16)
