"""The section of docs/results.md on ceilings of memory."""

from typing import Any

from page import load, table


def ceilings() -> str:
    """Return the peak of verbs without a ceiling and below one."""
    results, when = load("ceilings")
    text = (
        "## Memory ceilings\n\nPeak resident memory of a verb in a process of its own, without and with `--memory` (`benchmarks/ceilings.py`). The ceiling lies halfway between what "
        "the verb says it needs at least and what it takes without one; where it says more than it takes, the ceiling is what it says, and does not bite. Equal: the same bytes in "
        "models and encodings, the same figures of sensitivity; elsewhere how far these are apart, at most. Balance is `improve --method balance,gptq`; the other method of `improve` is gptq; by block is `adaround --granularity block`. Other steps: `auto` leaves out below its ceiling what does not fit. What is told rests on constants that were fitted on these networks, among others, so the table is no test on unseen ones. The machine did other work, so seconds are upper figures.\n\n"
    )
    rows: list[tuple[object, ...]] = [
        (
            row["network"], row["verb"], row.get("samples", 32), f"{row['free_mb']:.0f}", f"{row['told_mb']:.0f}", f"{row['ceiling_mb']:.0f}", f"{row['held_mb']:.0f}",
            _equal(row), f"{row['free_s']:.0f}", f"{row['held_s']:.0f}",
        )
        for row in results["rows"]
    ]  # fmt: skip
    header = ("network", "verb", "samples", "free MB", "told MB", "ceiling MB", "peak MB", "equal", "free s", "held s")
    return text + table(header, rows) + "\n" + when


def _equal(row: dict[str, Any]) -> str:
    if row.get("steps") != row.get("held_steps"):
        return "other steps"
    return "yes" if row["is_equal"] else f"{row['apart']:.0e}"
