"""Pinned encodings under another plan: which of them hold, and what becomes of the others."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role


def fit_pins(plan: Plan, pinned: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """Return the pinned encodings that hold under `plan`, each on the grid that was planned.

    A weight that is pinned to a narrower grid than planned keeps its steps: the wider container holds every value of
    the narrow grid, so that an improved weight (learned rounding, training) stays what it is. Any other pin whose grid
    is not the planned one does not hold.

    Args:
        plan: the grids.
        pinned: tensor (or key of a further grid of it) -> encoding that an improver, or the caller, fixed.
    """
    fitted: dict[str, Encoding] = {}
    for name, encoding in pinned.items():
        grid = plan.grids.get(name)
        if grid is not None and (_is_same(encoding, grid) or _widens(encoding, grid)):
            fitted[name] = Encoding(grid.spec, encoding.scale, encoding.zero_point)
    return fitted


def pin_notes(plan: Plan, pinned: Mapping[str, Encoding], fitted: Mapping[str, Encoding]) -> tuple[str, ...]:
    """Return sentences on pins that were widened, and on pins that do not hold."""
    notes = []
    wider = [name for name in fitted if fitted[name].spec != pinned[name].spec]
    if wider:
        bits = sorted({pinned[name].spec.bits for name in wider})
        wide = sorted({fitted[name].spec.bits for name in wider})
        notes.append(
            f"{len(wider)} weights are pinned to {_words(bits)}-bit grids and keep their steps in {_words(wide)} bits "
            f"({wider[0]!r} is the first): wider weights cost memory here and win no accuracy."
        )
    left = [name for name in pinned if name not in fitted]
    if left:
        notes.append(
            f"{len(left)} of {len(pinned)} pinned encodings fit no grid of this plan and were derived anew "
            f"({left[0]!r} is the first)."
        )
    return tuple(notes)


def _is_same(encoding: Encoding, grid: Grid) -> bool:
    """Whether a grid is the planned one; of unsigned grids files do not say whether they were meant to be symmetric."""
    given, planned = encoding.spec, grid.spec
    if given == planned:
        return True
    is_alike = replace(given, is_symmetric=planned.is_symmetric) == planned
    middle = 1 << (planned.bits - 1)
    return (
        is_alike
        and not planned.dtype.is_signed
        and (not planned.is_symmetric or bool((encoding.zero_point == middle).all()))
    )


def _widens(encoding: Encoding, grid: Grid) -> bool:
    narrow, wide = encoding.spec, grid.spec
    return (
        grid.role is Role.WEIGHT
        and narrow.bits < wide.bits
        and narrow.granularity == wide.granularity
        and not np.any(encoding.zero_point)
        and wide.qmin <= narrow.qmin
        and wide.qmax >= narrow.qmax
    )


def _words(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
