"""Parity of the HTP emulator with the simulation: SQNR per output, and how many steps of the output's grid apart."""

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
"""The emulator may be this much closer to the exact simulation's noise: its rounding adds to that of the grids."""
NOT_PROVEN = (
    "How the model behaves on a phone: Qualcomm's emulator of the HTP ran here, no device did.",
    "Any time: the emulator is no measure of speed.",
    "The score on the emulator: only these samples ran.",
)
_STEPS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 16), (17, None))


@dataclass(frozen=True, slots=True)
class OutputOnHtp:
    """One output over all samples; SQNR in dB, None where every value is equal.

    Attributes:
        emulator_db: of the emulator, against the file executed exactly as written.
        float_db: of the file executed exactly as written, against the float companion.
        steps: how many of the output's grid steps apart -> values; empty where the output has no grid.
        passed: the emulator is at most ALLOWED_LOSS_DB below what quantization costs anyway.
    """

    emulator_db: float | None
    float_db: float | None
    steps: Mapping[str, int]
    passed: bool


@dataclass(frozen=True, slots=True)
class HtpCertificate:
    """What the emulator showed.

    Attributes:
        passed: every output does, every file is the recorded one, and every operator was compiled in the type that the
            file says.
        samples: how many ran.
        outputs: output -> parity.
        wrong_types: (node, operator, planned, compiled).
        conditions: versions, machine, chip, file hashes.
        not_proven: what it does not say.
    """

    passed: bool
    samples: int
    outputs: Mapping[str, OutputOnHtp]
    wrong_types: tuple[tuple[str, str, str, str], ...]
    conditions: Mapping[str, Any]
    not_proven: tuple[str, ...] = NOT_PROVEN


def compare_outputs(
    model: Path, emulated: Sequence[Arrays], exact: Sequence[Arrays], floats: Sequence[Arrays]
) -> dict[str, OutputOnHtp]:
    """Return parity per output.

    Args:
        model: the QDQ file, for the grids of its outputs.
        emulated: what the emulator answered, one per sample.
        exact: what the file gives when it is executed as written.
        floats: what the float companion gives.
    """
    scales = QdqView(read_proto(model)).output_scales
    found = {}
    for name in exact[0]:
        left, right, true = ([one[name] for one in side] for side in (emulated, exact, floats))
        emulator_db, float_db = sqnr(right, left), sqnr(true, right)
        passed = emulator_db is None or (float_db is not None and emulator_db >= float_db - ALLOWED_LOSS_DB)
        steps = _histogram(left, right, scales[name]) if name in scales else {}
        found[name] = OutputOnHtp(emulator_db, float_db, steps, passed)
    return found


def _histogram(left: Sequence[Any], right: Sequence[Any], scale: float) -> dict[str, int]:
    apart = np.concatenate([np.abs(np.rint((a - b) / scale)).ravel() for a, b in zip(left, right, strict=True)])
    counts = {}
    for low, high in _STEPS:
        name = str(low) if high == low else f"{low} or more" if high is None else f"{low} to {high}"
        inside = (apart >= low) & (True if high is None else apart <= high)
        if count := int(np.count_nonzero(inside)):
            counts[name] = count
    return counts
