"""What an improver hands back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from fewbits.spec.encodings import Encoding

OUT_OF_TIME = "the time was up"
"""Why something was left as it was that nothing was begun with."""
OUTPUTS = "all outputs"
"""What the error of a method is of that works on all layers together, where others name layers."""


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """What an improver made.

    Attributes:
        model: float graph with better weights.
        pinned: tensor -> encoding that the improver fixed; empty where it fixes none.
        changed: names of the layers that it changed.
        declined: name of what was left as it was -> the reason.
        errors: layer -> the improver's own objective (before, after); it never gets worse.
        notes: sentences for the user.
        floating: float model that layers are to be like from now on, where channels were rescaled: it computes what the
            one before does, in channels of the sizes that they have in `model`; None where that one stays.
    """

    model: ir.Model
    pinned: Mapping[str, Encoding] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    declined: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    floating: ir.Model | None = None
