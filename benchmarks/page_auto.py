"""The sections of docs/results.md on the whole workflow: what `fewbits auto` recommends, and what it says beforehand."""

from auto import CASES
from page import decimals, load, table


def auto() -> str:
    """Return what the workflow recommends for every network, with time and memory."""
    results, when = load("auto")
    rows: list[tuple[object, ...]] = []
    for name in CASES:
        r = results.get(name)
        if r is None:
            continue
        digits, share = decimals(name), r["share_of_w16a16"]
        rows.append((
            name, r["finding"], " > ".join(r["steps"]), r["precision"], f"{r['float']:.{digits}f}",
            f"{r['score']:.{digits}f}", f"{r['drop']:.{digits}f} of {r['max_drop']:g}", "yes" if r["is_met"] else "no",
            "-" if share is None else f"{share:.0%}", f"{r['wall_s']:.0f} s", f"{r['peak_mb']:.0f} / {r['told_mb']:.0f}",
        ))  # fmt: skip
    header = (
        "network", "finding", "steps", "recommended", "float", "score", "drop", "met", "bit operations of w16a16", "time",
        "MB / told",
    )  # fmt: skip
    text = (
        "## The whole workflow\n\n`fewbits auto` (`benchmarks/auto.py`) on every network with the same flags: only data, metric and "
        "acceptable drop differ. Time is that of the command, with preflight, checks and report, on two cores and without a GPU. "
        "Memory: the most that the process had, and what was told beforehand of the steps that were then made.\n\n"
    )
    return text + table(header, rows) + "\n" + when


def preflight() -> str:
    """Return what was told before step 1, and what it then took."""
    results, when = load("preflight")
    rows: list[tuple[object, ...]] = []
    for row in results["rows"]:
        told, was = row["told"], row["was"]
        peak = was["peaks_mb"]["step 1"]
        rows.append((
            row["network"], f"{told['preflight_s']:.1f}", f"{told['seconds']:.0f}", f"{was['seconds']:.0f}",
            f"{told['seconds'] / was['seconds']:.2f}", f"{told['step1_mb']:.0f}", f"{peak:.0f}",
            f"{told['step1_mb'] / peak:.2f}",
        ))  # fmt: skip
    text = (
        "### What is told beforehand\n\nStep 1 with four precisions, one thread, seconds of the processor "
        "(`benchmarks/preflight.py`).\n\n"
    )
    header = ("network", "preflight s", "told s", "was s", "ratio", "told MB", "was MB", "ratio")
    return text + table(header, rows) + "\n" + when
