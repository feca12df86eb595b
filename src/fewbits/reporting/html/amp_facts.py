"""Automatic mixed precision in words: what its points are called, what their cost is compared with, where time went."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.reporting.html import text

ORIGINS = {
    "uniform": "one precision",
    "curve": "predicted curve",
    "between": "between two points",
    "repaired": "corrected errors",
}
"""Origin of a point -> what the page calls it."""
_KINDS = ("quantize", "write", "score")
"""Stages that there are for every model."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the cost of points is compared with: the most expensive one of one precision, or float.

    Attributes:
        name: as it reads behind "of".
        cost: in the unit of the cost model.
    """

    name: str
    cost: float


def reference(record: AmpRecord) -> Reference | None:
    """Return what costs are compared with; None where the record has nothing of the kind."""
    uniform = [point for point in record.points if point.origin == "uniform" or len(point.shares) == 1]
    if uniform:
        highest = max(uniform, key=lambda point: point.cost)
        return Reference(point_name(highest), highest.cost) if highest.cost > 0 else None
    operations = record.float_row.bit_operations
    return Reference("float", operations) if operations and record.cost["unit"] == "bit operations" else None


def point_name(point: Point) -> str:
    """Return what a point is called: its only precision, or its number."""
    return f"all {next(iter(point.shares))}" if len(point.shares) == 1 else f"point {point.number}"


def shares(point: Point) -> str:
    """Return the share of the groups in each precision, the largest first.

    >>> shares(Point(1, "curve", {}, {"fp16": 0.004, "w8a8": 0.996}, 1.0, 0, 0.0, None))
    '99.6 % w8a8, 0.4 % fp16'
    """
    found = sorted(point.shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{100 * share:.{0 if 0.01 <= share <= 0.99 or share == 1 else 1}f} % {p}" for p, share in found)


def mix(point: Point) -> str:
    """Return the precisions of a point as part of a sentence, the most frequent first."""
    names = sorted(point.shares, key=lambda name: -point.shares[name])
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def amount(value: float | None, unit: str) -> str:
    """Return a cost with its unit."""
    if value is None or not math.isfinite(value):
        return text.NONE
    return f"{text.count(round(value)) if value >= 1e5 else text.figure(value)}{text.SPACE}{unit}".rstrip()


def caption(record: AmpRecord) -> str:
    """Return how much was scored, why the search ended, and what cost is."""
    scored = sum(point.score is not None for point in record.points)
    ended = f"The search ended: {record.ended}." if record.ended else "The search has not ended."
    if not record.is_finished:
        ended = "The search was stopped before its end; the same command resumes it."
    unit = f"{record.cost['unit']}{', estimated' if record.cost.get('is_estimate') else ''}"
    return f"{scored} of {len(record.points)} points were scored. {ended} Cost is {record.cost['name']} ({unit})."


def correlation(record: AmpRecord) -> str:
    """Return how well errors were predicted, in words and one figure."""
    if record.rank_correlation is None or not math.isfinite(record.rank_correlation):
        return "there are too few for a rank correlation"
    return f"rank correlation {text.number(record.rank_correlation)}"


def time_spent(timings: Mapping[str, float]) -> dict[str, float]:
    """Return stage -> seconds, with the stages that there are for every model added up.

    >>> time_spent({"prepare": 1.0, "score float": 2.0, "score point 1": 3.0})
    {'prepare': 1.0, 'score (2 models)': 5.0}
    """
    kinds: dict[str, list[float]] = {}
    for stage, seconds in timings.items():
        kind = stage.split(maxsplit=1)[0] if stage.strip() else stage
        kinds.setdefault(kind if kind in _KINDS else stage, []).append(seconds)
    return {f"{k} ({len(v)} models)" if k in _KINDS and len(v) > 1 else k: sum(v) for k, v in kinds.items()}
