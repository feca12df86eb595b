"""The section of docs/results.md on training: step 5 of the workflow."""

from page import decimals, load, table
from qat import CASES


def trained() -> str:
    """Return the scores after training without labels, beside those of step 4."""
    results, when = load("qat")
    rows: list[tuple[object, ...]] = []
    for name, case in CASES.items():
        found = results.get(name)
        if found is None:
            continue
        digits = decimals(case.network.name)
        scores = (f"{found[m]:.{digits}f}" for m in ("float", "nearest", "gptq", "adaround", "qat"))
        limit, samples = f"{case.limit:g}", found["samples"]
        rows.append((name, limit, *scores, f"{found['qat_s']:.0f} s", samples, found["steps"], found["commit"]))
    header = (
        "network", "at least", "float", "nearest", "gptq", "adaround", "qat", "training", "samples", "steps", "commit",
    )  # fmt: skip
    text = (
        "## Training without labels\n\n`fewbits qat` (gptq, then training) from the float model; the scores are those of the "
        "files. Seconds with one thread while other processes ran beside it, calibration of the result included.\n\n"
    )
    speed, where = load("qat_speed")
    medians = speed["medians"]
    step = (
        f"A training step of resnet56 (`benchmarks/qat_speed.py`): {medians['qat']:.3f} s, of the float model in the same "
        f"executor {medians['float']:.3f} s: {speed['ratio']:.2f} times.\n\n{where}"
    )
    return text + table(header, rows) + "\n" + when + "\n" + step
