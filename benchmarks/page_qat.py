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
    elsewhere = {name: row["cpu"] for name, row in results.items() if row.get("cpu", "") not in when}
    if elsewhere:
        when += f"\nMeasured on {', '.join(sorted(set(elsewhere.values())))}: {', '.join(elsewhere)}.\n"
    step = _step("qat_speed", "one thread") + "\n" + _step("qat_speed_2", "two threads")
    return text + table(header, rows) + "\n" + when + "\n" + step + "\n" + labels() + "\n" + parity()


def _step(name: str, threads: str) -> str:
    """Return what a training step takes beside one of the float model."""
    speed, where = load(name)
    medians, peer = speed["medians"], speed["aimet-torch"]
    return (
        f"A training step of resnet56 with {threads} (`benchmarks/qat_speed.py`): {medians['qat']:.3f} s, of the float model in "
        f"the same executor {medians['float']:.3f} s: {speed['ratio']:.2f} times by medians, {speed['paired']:.2f} pair by pair. "
        f"aimet-torch in the same run against its own float module: {peer['ratio']:.2f} and {peer['paired']:.2f} times.\n\n{where}"
    )


def labels() -> str:
    """Return scores of training with labels, and of re-estimated channel statistics."""
    results, when = load("qat_labels")
    keys = ("float", "start", "start_reestimated", "trained", "trained_reestimated")
    rows: list[tuple[object, ...]] = [
        (name, f"{r['epochs']} epochs" if "epochs" in r else f"{r['steps']} steps", *(f"{r[key]:.2f}" for key in keys))
        for name, r in results.items()
    ]
    text = (
        "### Loops of one's own\n\nThe digits example with labels, and resnet20 without (`benchmarks/qat_labels.py`), and what "
        "re-estimating channel statistics does before and after.\n\n"
    )
    header = ("network", "training", "float", "start", "re-estimated", "trained", "re-estimated")
    return text + table(header, rows) + "\n" + when


def parity() -> str:
    """Return how close a module in evaluation mode is to the file that it exports."""
    results, when = load("qat_parity")
    rows: list[tuple[object, ...]] = []
    for name, found in results.items():
        digits, half = decimals(name.split()[0]), found.get("fp16")
        scores = (f"{found[key]:.{digits}f}" for key in ("score_torch", "score_ort"))
        rows.append((
            name, found["tensors"], f"{100 * found['equal']:.3f} %", f"{100 * found['worst_within_1']:.3f} %",
            f"{100 * found['worst_equal']:.3f} %", found["worst_op"], f"{half['worst_db']:.0f} dB" if half else "-",
            *scores, "yes" if all(v for k, v in found["kept"].items() if k != "untrained") else "no",
        ))  # fmt: skip
    header = (
        "network", "tensors", "equal", "worst: within 1 step", "equal", "its operator", "fp16 nodes", "score of the module",
        "of the file", "kept",
    )  # fmt: skip
    steps = next(iter(results.values()))["steps"]
    text = (
        f"### A module in training and its file\n\nAfter {steps} steps of training on real data "
        "(`benchmarks/qat_parity.py`): every node is fed what onnxruntime computes upstream in the exported file, and what it "
        "writes is compared in steps of the tensor's grid. fp16 nodes, of which mixed has every fifth (and as many in w8a16), "
        "are compared by SQNR, since onnxruntime computes them in float32. Kept: the file written again from its folder, a "
        "module made from that folder, and the state loaded into a new module have the same bits.\n\n"
    )
    return text + table(header, rows) + "\n" + when
