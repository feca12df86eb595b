"""What the user calls acceptable, and whether a score is."""

import math
from dataclasses import dataclass

from fewbits.analysis.evaluate import Drop, Evaluation
from fewbits.errors import SpecError
from fewbits.workflow.verdict import Status

DEFAULT_RELATIVE = 0.01
"""Drop that is acceptable where the user names none: this share of the float score."""
DEFAULT_SQNR = 20.0
"""SQNR in dB that is acceptable where only the float model can judge and the user names none."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The least score that is acceptable.

    Attributes:
        max_drop: in the metric's unit; for sqnr, the decibels below `floor` that are acceptable: none.
        floor: least SQNR in dB, where the metric is sqnr; None for every other metric.
        text: as reports print it.
        is_default: the user named none.
    """

    max_drop: float
    floor: float | None
    text: str
    is_default: bool

    def drop(self, lost: Drop, score: Evaluation) -> float:
        """Return the drop that is judged: against float, or for sqnr what lacks to the floor."""
        return lost.value if self.floor is None else self.floor - score.value

    def error_shares(self, lost: float) -> tuple[float, ...]:
        """Return what shares of its output error a model that loses too much may keep, the least first.

        SQNR says it itself, within a decibel. A drop that is twice what is allowed asks for half the error where drops
        grow with the error, and for a quarter where they grow with its root: the truth is expected between the two.

        Args:
            lost: see `drop`.
        """
        if self.floor is not None:
            return tuple(10 ** ((-lost + margin) / 10) for margin in (-1.0, 1.0))
        if self.max_drop <= 0 or lost <= self.max_drop:
            return ()
        share = self.max_drop / lost
        return share**2, share

    def judge(self, lost: Drop, score: Evaluation) -> Status:
        """Return whether a score is acceptable; a drop that is beyond the goal inside its own interval is noise."""
        found = self.drop(lost, score)
        if found <= self.max_drop or math.isclose(found, self.max_drop, rel_tol=1e-9):
            return Status.OK
        is_noise = self.floor is None and lost.interval is not None and lost.interval[0] <= 0
        return Status.NOISE if is_noise else Status.POOR


def check_goal(max_drop: float | str | None, min_sqnr: float | None) -> None:
    """Refuse what is no goal, before anything runs.

    Raises:
        SpecError: a figure cannot be read.
    """
    if max_drop is not None:
        _parse(max_drop)
    if min_sqnr is not None and not math.isfinite(min_sqnr):
        raise SpecError(f"The least SQNR must be a number of decibels, not {min_sqnr}.")


def open_goal(max_drop: float | str | None, min_sqnr: float | None, reference: Evaluation) -> Goal:
    """Return the goal in the unit of the metric.

    Args:
        max_drop: absolute in the metric's unit (0.5), or relative to the float score ("0.5%"); None takes the default.
        min_sqnr: least SQNR in dB; for the metric sqnr only.
        reference: score of the float model.

    Raises:
        SpecError: the option does not suit the metric.
    """
    if reference.metric.partition("@")[0] == "sqnr":
        if max_drop is not None:
            raise SpecError(
                "The metric sqnr has no drop: the float model would be perfect. Name the least SQNR with --min-sqnr 20."
            )
        floor = DEFAULT_SQNR if min_sqnr is None else min_sqnr
        return Goal(0.0, floor, f"SQNR of at least {floor:g} dB", min_sqnr is None)
    if min_sqnr is not None:
        raise SpecError(
            f"--min-sqnr is for the metric sqnr, and the score is {reference.metric}: name the drop with --max-drop."
        )
    value, is_relative = (DEFAULT_RELATIVE, True) if max_drop is None else _parse(max_drop)
    absolute = value * abs(reference.value) if is_relative else value
    text = f"drop of at most {absolute:.4g}{' ' * bool(reference.unit)}{reference.unit}"
    if is_relative:
        text += f" ({100 * value:g} % of the float score)"
    return Goal(absolute, None, text, max_drop is None)


def _parse(given: float | str) -> tuple[float, bool]:
    """Return the figure, and whether it is a share of the float score."""
    text = str(given).strip()
    is_relative = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SpecError(
            f"The drop {text!r} is no figure: write 0.5 for half a unit of the metric, or 0.5% for a share of the "
            f"float score."
        )
    return (value / 100, True) if is_relative else (value, False)
