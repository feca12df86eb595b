"""The section of docs/results.md on Qualcomm's compiler and emulator."""

from typing import Any

from page import load, table

PRECISIONS = ("w8a8", "w8a16", "w4a8", "w16a16", "fp16")


def qnn() -> str:
    """Return what compiled for which chip, how close the emulator came, and the compiler's estimates."""
    results, when = load("qnn")
    rows = [row for result in results.values() for row in result["compiled"]]
    compiled = sum(not row["refused"] for row in rows)
    announced = sum(row["refused"] and row["announced"] for row in rows)
    surprises = sum(row["refused"] and not row["announced"] for row in rows)
    alarms = sum(row["announced"] and not row["refused"] for row in rows)
    return (
        "## Qualcomm's compiler and emulator\n\nEvery network at every precision through `fewbits lint` and onnxruntime-qnn for six chips, ranges by "
        "mean square error on 64 calibration samples. A model counts as compiled if every operator that was found runs in the type that the file "
        f"says. Of {len(rows)} models {compiled} compiled and {announced} were refused as lint had said; {surprises} were refused without, and "
        f"{alarms} compiled although lint had found something. Refused are w16a16 before HTP v73 and fp16 on QCS6490, which have neither.\n\n"
        + table(("network", *PRECISIONS), [(name, *(cell(r, p) for p in PRECISIONS)) for name, r in results.items()])
        + "\nNumber of chips that it compiled for, of six; in brackets those refused.\n\n"
        + emulated(results) + estimated(results) + when
    )  # fmt: skip


def cell(result: dict[str, Any], precision: str) -> str:
    mine = [row for row in result["compiled"] if row["precision"] == precision]
    refused = [row["chip"] for row in mine if row["refused"]]
    return f"{len(mine) - len(refused)}" + (f" ({', '.join(refused)})" if refused else "")


def emulated(results: dict[str, Any]) -> str:
    """Return the emulator next to the file executed exactly as written."""
    rows = [
        (name, precision, output, decibels(p["emulator_db"]), decibels(p["float_db"]), "yes" if p["passed"] else "no")
        for name, result in results.items()
        for precision, outputs in result["emulated"].items()
        for output, p in outputs.items()
    ]
    header = ("network", "precision", "output", "emulator to file dB", "file to float dB", "within 3 dB")
    return (
        "The HTP emulator (SM8550) against the file executed exactly as written, two samples; the fair limit is what quantization costs anyway: at "
        "most 3 dB below the file's own distance to float. No phone was involved.\n\n" + table(header, rows) + "\n"
    )


def decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"


def estimated(results: dict[str, Any]) -> str:
    """Return the compiler's latency estimates."""
    rows = [
        (name, chip, *(time(by_precision.get(p)) for p in PRECISIONS))
        for name, result in results.items()
        for chip, by_precision in result["estimated"].items()
    ]
    return (
        "The compiler's own latency estimates in microseconds, with its bounds: simulated, for two chips that have them; to rank models, not to "
        "promise.\n\n" + table(("network", "chip", *PRECISIONS), rows) + "\n"
    )


def time(found: Any) -> str:
    if found is None:
        return "-"
    return found if isinstance(found, str) else f"{found[0]} ({found[1]} to {found[2]})"
