"""What Qualcomm's compiler says of a compiled model: its own estimate of the latency, where the chip has one."""

import csv
from dataclasses import dataclass
from pathlib import Path

from fewbits.deployment.qnn_worker import PROFILE

_NAME = "Event Identifier"
_TIME = "Simulated (Accelerator exec time us)"
_MISSING = "Missing Ops"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The compiler's estimate for one chip: simulated, nothing ran.

    Attributes:
        latency_us: of one inference.
        low_us, high_us: the compiler's own bounds.
        cycles: of the accelerator.
        read_bytes, written_bytes: traffic with DDR for inputs, weights and outputs.
        spilled_bytes: intermediate results that did not fit on the chip, written and read again.
        missing_ops: operators that have no cost: above 0 the estimate says nothing.
    """

    latency_us: int
    low_us: int
    high_us: int
    cycles: int
    read_bytes: int
    written_bytes: int
    spilled_bytes: int
    missing_ops: int


def read_estimate(folder: Path) -> Estimate | None:
    """Return the estimate that a compilation left in its folder; None where the compiler has none for the chip."""
    path = folder / PROFILE
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = {row[_NAME].strip(): row["Time"] for row in csv.DictReader(file) if row.get(_NAME)}
    if _TIME not in rows:
        return None
    missing = next((value for name, value in rows.items() if name.startswith(_MISSING)), "0")
    figures = {name: int(float(value)) for name, value in rows.items() if value}
    return Estimate(
        latency_us=figures[_TIME],
        low_us=figures.get(f"{_TIME[:-1]} (lower estimate))", 0),
        high_us=figures.get(f"{_TIME[:-1]} (upper estimate))", 0),
        cycles=figures.get("Simulated (Accelerator exec cycles)", 0),
        read_bytes=figures.get("Input Fill", 0),
        written_bytes=figures.get("Output Spill", 0),
        spilled_bytes=figures.get("Intermediate Spill", 0) + figures.get("Intermediate Fill", 0),
        missing_ops=int(float(missing or 0)),
    )
