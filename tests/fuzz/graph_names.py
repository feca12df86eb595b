"""Names that models may have, however odd: and those that clash with what quantization appends to a name."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

SUFFIXES = (
    "_q", "_dq", "_scale", "_zero_point", "_float", "_fp16", "_clipped", "_low", "_high", "_q_node", "_quantized",
    "_QuantizeLinear", "_DequantizeLinear", "_kept_float", "_fp16_cast", "@uint8", "@uint16", "@int16", "'", "_2", "_1",
)  # fmt: skip
ODD = (
    "lowest_float", " ", "  a b", "/model/layers.0/mlp", "a/b:0", "'", '"', "it's \"quoted\"", "größe", "层/归一化",
    "\N{PILE OF POO}", "<b>&amp;</b>", "a\tb", "line\nbreak", "..", "%s{0}$HOME`x`", "-1", "\\", "n" * 300,
    "e\N{COMBINING ACUTE ACCENT}",
)  # fmt: skip
STYLES = st.sampled_from(("plain", "plain", "odd", "clash"))


def one_of(draw: Callable[[Any], Any], options: Sequence[Any]) -> Any:
    """Draw one of `options`, by its place: hypothesis remembers every sequence that it samples from for good."""
    return options[draw(st.sampled_from(range(len(options))))]


class Namer:
    """Hands out names that are all different, in one of the styles."""

    def __init__(self, draw, style: str) -> None:
        self.draw, self.style = draw, style
        self.taken: list[str] = []

    def __call__(self, stem: str = "v") -> str:
        name = f"{stem}{len(self.taken)}"
        if self.style == "odd" and self.draw(st.booleans()):
            name = one_of(self.draw, ODD)
        elif self.style == "clash" and self.taken and self.draw(st.booleans()):
            name = one_of(self.draw, self.taken[-4:]) + one_of(self.draw, SUFFIXES)
        while name in self.taken:
            name += "_"
        self.taken.append(name)
        return name
