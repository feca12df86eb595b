"""The table of methods of step 4, cheap ones first: what each does and which kind of thing it changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from fewbits.errors import SpecError


class Kind(Enum):
    """What a method works on."""

    EQUALIZE = "float weights of neighbouring layers; the float model computes the same"
    ROUND = "weights, scales and biases of one layer after the other, in torch"
    TRAIN = "weights, scales and biases of all layers together, in torch"


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        name: as on the command line.
        kind: what it works on.
        summary: one line for people.
        needs_torch: whether it does.
        is_guarded: whether it is left out where the outputs would get worse, though the caller named it; others only
            make ready what comes after them, or guard themselves.
    """

    name: str
    kind: Kind
    summary: str
    needs_torch: bool = True
    is_guarded: bool = True


METHODS = (
    Method(
        "cle", Kind.EQUALIZE, "cross-layer equalization and high-bias absorption", needs_torch=False, is_guarded=False
    ),
    Method(
        "smooth",
        Kind.EQUALIZE,
        "SmoothQuant-style migration from normalizations into the weights behind them",
        needs_torch=False,
        is_guarded=False,
    ),
    Method("balance", Kind.EQUALIZE, "channel sizes at which rounding activations and weights costs the outputs least"),
    Method("bias-correction", Kind.ROUND, "biases of least error behind the activation function, layer after layer"),
    Method("seq-mse", Kind.ROUND, "weight scales of least error at the layer's output, layer after layer"),
    Method("gptq", Kind.ROUND, "codes chosen together by second moments, aimed at the float layer's output"),
    Method("adaround", Kind.ROUND, "learned rounding, with the activation function in the loss, by layer or by block"),
    Method("qat", Kind.TRAIN, "training through the rounding, to what the float model gives", is_guarded=False),
)
NAMES = tuple(method.name for method in METHODS)


def parse_methods(text: str | Sequence[str]) -> tuple[Method, ...]:
    """Return the methods of "cle,gptq,adaround" in the order given, each once.

    Raises:
        SpecError: a name is unknown, or none is given.
    """
    names = [part.strip() for part in (text.split(",") if isinstance(text, str) else text)]
    known = {method.name: method for method in METHODS}
    for name in names:
        if name not in known:
            raise SpecError(f"Unknown method {name!r}: choose of {', '.join(NAMES)}, separated by commas.")
    if not names:
        raise SpecError(f"No method was named: choose of {', '.join(NAMES)}.")
    return tuple(known[name] for name in dict.fromkeys(names))


FEW_BITS = 6
"""Of activations: what rounding them does is then more than what it hides from the layers that learn."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How the methods that round work.

    Attributes:
        granularity: "layer" or "block": what adaround learns together.
        iterations: of adaround for each layer or block, at most.
        ceiling: bytes of activations held in memory; what is beyond waits in files.
        seed: of everything that is drawn.
        device: where torch computes: "cpu", "cuda".
        with_activations: layers are improved on activations that are rounded, too; None: where these have few bits,
            which the verbs decide by `on`.
        drop: share of the activations that adaround reads as the float model has them, drawn anew in each iteration;
            the others are rounded. 0 draws nothing.
    """

    granularity: str = "layer"
    iterations: int = 300
    ceiling: int = 4_000_000_000
    seed: int = 0
    device: str = "cpu"
    with_activations: bool | None = None
    drop: float = 0.0

    def __post_init__(self) -> None:
        if self.granularity not in ("layer", "block"):
            raise SpecError(f"The granularity is layer or block, not {self.granularity!r}.")
        if self.iterations < 1:
            raise SpecError(f"adaround takes at least one iteration, not {self.iterations}.")
        if not 0 <= self.drop < 1:
            raise SpecError(f"The share of activations to drop is at least 0 and below 1, not {self.drop:g}.")
        if self.ceiling < 1:
            raise SpecError("The memory ceiling is a positive number of bytes.")

    def on(self, activation_bits: int) -> "Effort":
        """Return what this is for activations whose narrowest grids have so many bits."""
        if self.with_activations is not None:
            return self
        return replace(self, with_activations=activation_bits <= FEW_BITS)
