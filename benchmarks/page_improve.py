"""The section of docs/results.md on better weights: step 4 of the workflow."""

from typing import Any

from improve import CASES, METHODS
from page import decimals, load, table


def improved() -> str:
    """Return the scores of every method on every network, and the pair with aimet-onnx."""
    results, when = load("improve")
    shown = [method for method in METHODS if any(method in rows for rows in results.values())]
    header = ("network", "float", "at least", "nearest", *shown)
    rows = []
    for name, case in CASES.items():
        if name not in results:
            continue
        found, digits = results[name], decimals(case.network.name)
        cells = [_cell(method, found.get(method), digits) for method in shown]
        float_score, nearest = (f"{found[m]['score']:.{digits}f}" for m in ("float", "nearest"))
        rows.append((name, float_score, "" if case.limit is None else f"{case.limit:g}", nearest, *cells))
    return (
        "## Better weights\n\n`fewbits improve --method ...` with 400 calibration samples (fewer where there are fewer), each column one run from the float "
        "model; in brackets the seconds that the methods took, calibration of the result included, and the threads; with one thread another process ran beside it, and seconds since 2026-11-30 are those of the processor. Declined: the method leaves every layer as it is. Dropped: the outputs would get worse with it, so that the result is that of nearest. Activations that layers are improved on are in float at 8 bits and rounded at 6 or less, where the column says nothing else. Drop: that share of activations is not rounded while rounding is learned (QDrop). Auto: without a named method; it tries the cheap ones, keeps what helps, and runs adaround only where the drop is over 1 % of the float score by then. Nearest: what `fewbits quantize` makes, whose scales are "
        "searched and whose biases are corrected already. At least: the score that this step must reach. Per tensor: every weight has one scale. g32: a weight scale for every 32 inputs of MatMul, Gemm and 1x1 Conv, target ort-cpu; nearest corrects no biases of these. Differences of "
        "0.3 points are within what 800 to 5000 samples can tell.\n\n" + table(header, rows) + "\n" + when + _dates(results) + "\n" + paired() + "\n" + speed()
    )  # fmt: skip


def _dates(results: dict[str, Any]) -> str:
    days = sorted({row["measured"][:10] for rows in results.values() for row in rows.values() if "measured" in row})
    return f"\nThat is the last run; cells were measured from {days[0]} to {days[-1]}, `improve.json` has date and commit of each.\n"


def _cell(method: str, row: dict[str, Any] | None, digits: int) -> str:
    if row is None or "declined" in row:
        return "" if row is None else "declined"
    if row.get("dropped"):
        return f"dropped ({row['method_s']:.0f} s, {row['threads']})"
    chosen = f" by {', '.join(row['kept'])}" if method == "auto" else ""
    return f"{row['score']:.{digits}f}{chosen} ({row['method_s']:.0f} s, {row['threads']})"


def paired() -> str:
    """Return how far methods are apart on the same samples, and how scores vary with the calibration samples."""
    results, when = load("paired")
    rows: list[tuple[object, ...]] = [
        (
            name, f"{row['score']:.2f}", f"{row['sqnr_db']:.1f}" if "sqnr_db" in row else "",
            *(text for other in ("nearest", "float") for text in _pair(row["against"].get(other))),
        )
        for name, row in results["methods"].items()
    ]  # fmt: skip
    drawn = []
    for name, draws in results["draws"].items():
        scores = [one["score"] for one in draws]
        listed = ", ".join(f"{score:.2f}" for score in scores)
        drawn.append(f"{name} {sum(scores) / len(scores):.2f} ({listed})")
    samples = results["samples"]
    return (
        f"kwt1 w4a8 sample by sample (`benchmarks/paired.py`): {samples['scored']:,} scored samples, {samples['calibration']} for calibration. SQNR is that of the outputs on the scored samples. Intervals: "
        "95 % of the difference in points, samples drawn in pairs; p: McNemar's exact test.\n\n"
        + table(("method", "score", "SQNR dB", "above nearest", "p", "above float", "p"), rows)
        + f"\nWith {samples['drawn']} of the calibration samples, drawn {len(scores)} times: {'; '.join(drawn)}.\n\n{when}"
    )


def _pair(found: dict[str, float] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return f"{found['low']:+.2f} to {found['high']:+.2f}", f"{found['p']:.3f}"


def speed() -> str:
    """Return time and score beside aimet-onnx's AdaRound, and how time grows with depth."""
    results, when = load("adaround_speed")
    peer, ours = results["aimet"], results["fewbits"]
    rows: list[tuple[object, ...]] = [
        ("aimet-onnx, AdaRound", f"{peer['nearest']:.2f}", f"{peer['score']:.2f}", f"{peer['adaround_s']:.0f}", "1"),
    ]
    for name, row in ours.items():
        if name.startswith("resnet20 "):
            times = f"{peer['adaround_s'] / row['method_s']:.1f}"
            found = (f"{row['nearest']:.2f}", f"{row['score']:.2f}", f"{row['method_s']:.0f}", times)
            rows.append((f"fewbits, {name.removeprefix('resnet20 ')}", *found))
    table_of, _ = load("improve")
    grown = []
    for method in ("gptq", "adaround"):
        short, deep = (table_of[f"{name} w4a8"][method] for name in ("resnet20", "resnet56"))
        assert short["threads"] == deep["threads"]
        times = deep["method_s"] / short["method_s"]
        grown.append(f"{method} {short['method_s']:.0f} and {deep['method_s']:.0f} s ({times:.1f} times)")
    return (
        f"cifar10_resnet20 w4a8 in one run (`benchmarks/adaround_speed.py`), the same samples, one thread each, seconds of the processor; aimet-onnx with {peer['iterations']} iterations:\n\n"
        + table(("tool", "nearest", "score", "seconds", "times as fast"), rows)
        + f"\n{when}\n{memory()}\n20 and 56 layers (2.8 times as many), from the table above, on a quiet machine: {', '.join(grown)}.\n"
    )  # fmt: skip


if __name__ == "__main__":
    print(improved())


def memory() -> str:
    """Return the peaks of memory under several ceilings."""
    results, when = load("improve_memory")
    rows = results["rows"]
    peaks = ", ".join(f"{row['peak_mb']:.0f} MB under {row['ceiling_mb']} MB" for row in rows)
    same = "equal to the last bit" if len({row["weights"] for row in rows}) == 1 else "NOT equal"
    return (
        f"Peak memory of gptq on resnet56 w4a8 with 1,000 samples (`benchmarks/improve_memory.py`), whole process, by the "
        f"ceiling for activations: {peaks}. The files are {same}.\n\n{when}"
    )
