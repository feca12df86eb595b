"""What a place (Qualcomm's emulator, OpenVINO) makes of an artifact: distance per output, and the score on a subset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.artifact.samples import Arrays
from fewbits.deployment.certificate import sqnr
from fewbits.deployment.qdq_view import QdqView
from fewbits.graph.load import read_proto

ALLOWED_LOSS_DB = 3.0
"""The place may be this much closer to the exact simulation's noise: its rounding adds to that of the grids."""
_STEPS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 16), (17, None))
_MOST_CHANNELS = 4


@dataclass(frozen=True, slots=True)
class OutputAtPlace:
    """One output over all samples; SQNR in dB, None where every value is equal.

    Attributes:
        place_db: of the place, against the file executed exactly as written.
        float_db: of the file executed exactly as written, against the float model.
        steps: how many of the output's grid steps apart -> values; empty where the output has no grid.
        channels: (channel, share of the difference, 0 to 1), the largest first: along axis 1, where there are several.
        passed: the place is at most ALLOWED_LOSS_DB below what quantization costs anyway.
    """

    place_db: float | None
    float_db: float | None
    steps: Mapping[str, int]
    channels: tuple[tuple[int, float], ...]
    passed: bool


@dataclass(frozen=True, slots=True)
class ScoreAtPlace:
    """The user's score on the same samples: float model, simulation, place.

    Attributes:
        metric: its name.
        unit: of the scores.
        higher_is_better: direction.
        samples: how many were scored.
        float_: of the float model.
        sim: of the simulation, as it is scored everywhere.
        place: of the place.
        lost: what the place loses against the simulation, in the metric's direction.
        interval: 95 % interval of that; None where the metric has no value per sample.
    """

    metric: str
    unit: str
    higher_is_better: bool
    samples: int
    float_: float
    sim: float
    place: float
    lost: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class LocalDifference:
    """How far one tensor is off when everything above it is as in the simulation.

    Attributes:
        tensor: its name.
        node: that writes it, and its operator.
        op: of the node.
        alone_db: SQNR against the simulation, its node given what the simulation gives it; None where all are equal.
        worst_steps: largest such difference in steps of its grid; None for float16.
        share_off: share of values more than one step off, 0 to 1; None for float16.
        db: SQNR when the whole network runs at the place; None where all values are equal.
    """

    tensor: str
    node: str
    op: str
    alone_db: float | None
    worst_steps: int | None
    share_off: float | None
    db: float | None


@dataclass(frozen=True, slots=True)
class Localized:
    """Where a place differs, on one sample; SQNR in dB, None where every value is equal.

    Attributes:
        output: the output that did not pass, the worst of them.
        db: its SQNR against the simulation.
        tapped_db: the same when every tensor inside is an output, too: operators can then not be fused.
        tapped_by_op: operator -> the same when only what such operators write is an output, too.
        tensors: by how far they are off on their own, the worst first.
    """

    output: str
    db: float | None
    tapped_db: float | None
    tapped_by_op: Mapping[str, float | None]
    tensors: tuple[LocalDifference, ...]


@dataclass(frozen=True, slots=True)
class PlaceCertificate:
    """What a place showed.

    Attributes:
        place: what ran it.
        passed: every output does, every file is the recorded one, and every operator that could be looked up was
            compiled in the type that the file says.
        samples: how many ran.
        reference: what "the file executed exactly as written" was computed by.
        outputs: output -> distance.
        score: on a subset; None where no metric was named.
        wrong_types: (node, operator, planned, compiled).
        localized: where it differs, if an output did not pass.
        conditions: versions, machine, chip, file hashes.
        limits: how far the statement reaches.
        not_proven: what it does not say.
    """

    place: str
    passed: bool
    samples: int
    reference: str
    outputs: Mapping[str, OutputAtPlace]
    score: ScoreAtPlace | None
    wrong_types: tuple[tuple[str, str, str, str], ...]
    localized: Localized | None
    conditions: Mapping[str, Any]
    limits: tuple[str, ...]
    not_proven: tuple[str, ...]


def limits_of(samples: int) -> tuple[str, ...]:
    """Return how far such a certificate reaches."""
    rule = f"where its SQNR to the file is at most {ALLOWED_LOSS_DB:g} dB below that of the file to float"
    return (
        f"Only the {samples} samples counted here were run.",
        f"An output passes {rule}: the place then adds little to what quantization costs anyway.",
    )


def not_proven_of(is_htp: bool, has_score: bool) -> tuple[str, ...]:
    """Return what such a certificate does not say."""
    device = (
        "How the model behaves on a phone: Qualcomm's emulator of the HTP ran here, no device did.",
        "Any time: the emulator is no measure of speed.",
    )
    other = ("Any time: nothing was timed.", "How the model behaves on another processor, which may round differently.")
    return (*(device if is_htp else other), *(() if has_score else ("The score there: only these samples ran.",)))


def compare_outputs(
    model: Path, placed: Sequence[Arrays], exact: Sequence[Arrays], floats: Sequence[Arrays]
) -> dict[str, OutputAtPlace]:
    """Return the distance per output.

    Args:
        model: the QDQ file, for the grids of its outputs.
        placed: what the place answered, one per sample.
        exact: what the file gives when it is executed as written.
        floats: what the float model gives.
    """
    scales = QdqView(read_proto(model)).output_scales
    found = {}
    for name in exact[0]:
        left, right, true = ([one[name] for one in side] for side in (placed, exact, floats))
        place_db, float_db = sqnr(right, left), sqnr(true, right)
        is_alike = all(a.shape == b.shape for a, b in zip(left, right, strict=True))
        passed = is_alike and (place_db is None or (float_db is not None and place_db >= float_db - ALLOWED_LOSS_DB))
        steps = step_histogram(left, right, scales[name]) if name in scales and is_alike else {}
        found[name] = OutputAtPlace(place_db, float_db, steps, _channels(left, right) if is_alike else (), passed)
    return found


def step_histogram(left: Sequence[Any], right: Sequence[Any], scale: float) -> dict[str, int]:
    """Return how many steps apart -> values."""
    apart = np.concatenate([np.abs(np.rint((a - b) / scale)).ravel() for a, b in zip(left, right, strict=True)])
    counts = {}
    for low, high in _STEPS:
        name = str(low) if high == low else f"{low} or more" if high is None else f"{low} to {high}"
        inside = (apart >= low) & (True if high is None else apart <= high)
        if count := int(np.count_nonzero(inside)):
            counts[name] = count
    return counts


def _channels(left: Sequence[Any], right: Sequence[Any]) -> tuple[tuple[int, float], ...]:
    """Return the channels along axis 1 that hold most of the difference."""
    if left[0].ndim < 2 or left[0].shape[1] < 2 or left[0].dtype.kind != "f":
        return ()
    power = np.zeros(left[0].shape[1])
    for a, b in zip(left, right, strict=True):
        if a.shape[1:2] != power.shape:
            return ()
        square = (a.astype(np.float64) - b) ** 2
        power += square.sum(axis=tuple(axis for axis in range(a.ndim) if axis != 1))
    total = power.sum()
    if not np.isfinite(total) or total <= 0:
        return ()
    order = np.argsort(-power, kind="stable")[:_MOST_CHANNELS]
    return tuple((int(channel), float(power[channel] / total)) for channel in order)
