"""What a preflight found that the user should know or do, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

from fewbits.analysis.evaluate import Evaluation
from fewbits.reporting.preflight_record import Preflight
from fewbits.runtime.memory import machine_mb
from fewbits.workflow.goal import Goal
from fewbits.workflow.preflight_data import CONVERGED, FEWEST_SAMPLES, FLIPPED, Missing, samples_to_tell

_MOST_NAMED = 5
_MOST_MEMORY = 0.9  # of the machine's; the system itself needs some


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What warnings are made from, besides the preflight itself.

    Attributes:
        before: score of the float model.
        goal: what is acceptable.
        deviation: of one sample's drop, as assumed; None where it is not known.
        samples: that calibration will take, at most.
        lacking: share of their ranges that half of the samples looked at lack, on average.
        missing: classes that calibration data lack.
    """

    before: Evaluation
    goal: Goal | None
    deviation: float | None
    samples: int
    lacking: float
    missing: Missing


def warnings_of(found: Preflight, facts: Facts) -> Iterator[str]:
    """Yield the warnings, the gravest first."""
    yield from _memory(found)
    yield from _noise(found, facts)
    yield from _classes(facts)
    yield from _outliers(found)
    yield from _convergence(found, facts)


def _memory(found: Preflight) -> Iterator[str]:
    there = machine_mb()
    if there is not None and found.peak_mb is not None and found.peak_mb > _MOST_MEMORY * there:
        yield (
            f"The run is expected to need {found.peak_mb:.0f} MB of memory, and this machine has {there:.0f} MB: make "
            f"the batch smaller with --batch-size, or take fewer samples with --samples."
        )


def _noise(found: Preflight, facts: Facts) -> Iterator[str]:
    goal, spread, width = facts.goal, facts.deviation, found.resolution
    if goal is None or goal.floor is not None or spread is None or width is None or width <= goal.max_drop:
        return
    unit = f" {facts.before.unit}".rstrip()
    if goal.max_drop <= 0:
        yield (
            f"A drop of less than about {width:.2g}{unit} on {found.score_samples} samples is noise, and the goal "
            f"allows none: allow one with --max-drop, or score on more samples."
        )
        return
    needed = samples_to_tell(spread, goal.max_drop)
    yield (
        f"A drop of {goal.max_drop:.2g}{unit} on {found.score_samples} samples is noise (the 95 % interval is about "
        f"+-{width:.2g}{unit} where {100 * FLIPPED:g} % of the decisions change): about {needed} samples would tell; "
        f"give more with --eval-data, or allow a larger drop with --max-drop."
    )


def _classes(facts: Facts) -> Iterator[str]:
    missing = facts.missing
    if missing.is_odd:
        named = ", ".join(missing.names[:_MOST_NAMED]) + ", ..." * (len(missing.names) > _MOST_NAMED)
        yield (
            f"{len(missing.names)} of the {missing.classes} classes in the evaluation data are not in the calibration "
            f"data ({named}), where about {missing.by_chance:.0f} would be missing by chance: draw calibration "
            f"samples from all classes."
        )


def _outliers(found: Preflight) -> Iterator[str]:
    if found.outliers:
        worst = found.outliers[0]
        numbers = ", ".join(str(one.sample) for one in found.outliers)
        yield (
            f"{len(found.outliers)} of {found.calibration_samples} calibration samples stretch ranges as the others do "
            f"not (numbers {numbers}; sample {worst.sample} reaches {worst.factor:.1f} times as far in "
            f"{worst.tensor!r} and at least twice as far in {worst.tensors} tensors in all): look at them, and remove "
            f"what is no real input."
        )


def _convergence(found: Preflight, facts: Facts) -> Iterator[str]:
    count = found.calibration_samples
    if count < FEWEST_SAMPLES:
        yield (
            f"There are only {count} calibration samples, too few to say whether ranges converge: give some 100 or "
            f"more that are like real inputs."
        )
    elif found.enough_samples is None and facts.lacking > CONVERGED:
        taken = f"; the run takes up to {facts.samples}" if facts.samples > count else ""
        yield (
            f"Ranges have not converged: on average they grow by {100 * facts.lacking / (1 - facts.lacking):.0f} % "
            f"from {count // 2} to {count} calibration samples{taken}: give more, and more varied, with --data and "
            f"--samples."
        )
