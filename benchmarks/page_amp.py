"""The section of docs/results.md on automatic mixed precision."""

from collections.abc import Iterator
from typing import Any

from page import decimals, load, table


def amp() -> str:
    """Return cost and score next to lite mixed precision and AIMET's search, greedy choices, latency and workers."""
    results, when = load("amp")
    header = ("network", "float", "goal", "by", "score", "bit operations / all w8a8", "/ litemp's", "scored on all data", "seconds",
              "rank correlation", "choice")  # fmt: skip
    rows = [row for result in results.values() for row in rows_of(result)]
    return (
        "## Automatic mixed precision\n\n`fewbits amp` with two sets of candidates against `fewbits litemp` (w8a8, then 5, 10, 20, 40 % of the groups in "
        "w8a16, then all) and aimet-onnx's `choose_mixed_precision` (greedy, its defaults, 64 samples), the same goal and data, one after the other in one run. "
        "Bit operations of the scored models, conversions left out. Without 4-bit weights all w8a8 is the floor: where that is within the goal, or "
        "lite mixed precision needs little more, there is nothing to win below. Rank correlation: predicted against measured errors of the "
        "outputs, over the scored profiles. Tests ran beside the searches of fastestdet and mobilenetv1: their seconds, ours and AIMET's, are too many. fewbits "
        "calibrates with up to 400 samples here.\n\n" + table(header, rows) + "\n" + when + "\n" + fewer_samples()
        + "\n"
        + greedy() + "\n" + latency() + "\n" + workers()
    )  # fmt: skip


def fewer_samples() -> str:
    """Return the time of both searches where both calibrate with 64 samples."""
    results, when = load("amp_64")
    lines = []
    for name, result in results.items():
        ours, theirs = result["amp"][0], result["aimet"]
        if theirs.get("finished"):
            faster = theirs["total_s"] / ours["seconds"]
            lines.append(
                f"{name}, both with 64 calibration samples on a quiet machine (`--samples 64`): amp {ours['score']:.{decimals(name)}f} in "
                f"{ours['seconds']:.0f} s, aimet-onnx {theirs['score']:.{decimals(name)}f} in {theirs['total_s']:.0f} s, {faster:.0f} times as long.\n"
            )
    return "\n".join(lines) + "\n" + when


def rows_of(result: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one network: both searches, lite mixed precision, AIMET."""
    digits, lite = decimals(result["network"]), result["litemp"]
    floor, goal = lite["w8a8_bit_operations"], result["goal"].removeprefix("drop of at most ")
    start = (result["network"], f"{result['float']:.{digits}f}", goal)
    for ours in result["amp"]:
        shares = ", ".join(f"{100 * share:.0f} % {p}" for p, share in ours["shares"].items())
        correlation = "" if ours["rank_correlation"] is None else f"{ours['rank_correlation']:.3f}"
        known = "" if ours["accepted"] else " (not within)"
        yield (
            *start, f"amp {' '.join(ours['candidates'])}", f"{ours['score']:.{digits}f}{known}",
            f"{ours['bit_operations'] / floor:.3f}", f"{ours['ratio']:.3f}", ours["evaluations"], f"{ours['seconds']:.0f}",
            correlation, shares,
        )  # fmt: skip
    known = "" if lite["accepted"] else " (not within)"
    ratio = f"{lite['bit_operations'] / floor:.3f}"
    yield (
        *start,
        "litemp",
        f"{lite['score']:.{digits}f}{known}",
        ratio,
        "1",
        "",
        f"{lite['seconds']:.0f}",
        "",
        lite["precision"],
    )
    if "aimet" in result:
        yield (*start, "aimet-onnx", *aimet(result["aimet"], floor, lite["bit_operations"], digits))


def aimet(found: dict[str, Any], floor: int, lite: int, digits: int) -> tuple[object, ...]:
    """Return the cells of AIMET's search."""
    seconds, full = f"{found['total_s']:.0f}", found["evaluations"]["full"]["number"]
    if not found.get("finished"):
        return "", "", "", full, f"stopped after {seconds}", "", f"stopped in {found.get('stage', 'its search')}"
    cost = found.get("bit_operations")
    ratios = ("", "") if cost is None else (f"{cost / floor:.3f}", f"{cost / lite:.3f}")
    return f"{found['score']:.{digits}f}", *ratios, full, seconds, "", found.get("outcome", "")


def greedy() -> str:
    """Return the cost of greedy choices relative to the exact ones."""
    results, when = load("assignment")
    rows = [
        (result["network"], result["groups"], way["greedy"], f"{way['median']:.3f}", f"{way['worst']:.3f}", way["never_reached"],
         f"{way['seconds']:.1f}", f"{result['seconds']:.1f}", f"{result['rank_correlation']:.3f}")
        for result in results for way in result["greedy"]
    ]  # fmt: skip
    header = (
        "network",
        "groups",
        "greedy",
        "cost, median",
        "cost, worst",
        "never reached",
        "seconds",
        "exact: seconds",
        "rank correlation",
    )
    return (
        "The exact choice against greedy ones, on the same predicted noise and bit operations (candidates w8a8, w8a16, fp16, w4a8): what the "
        "cheapest assignment that greedy finds within the error of each point of the exact curve costs, relative to that point. `alone` goes by the "
        "error of each group alone, as rankings of layers do, `together` by that of the whole. Rank "
        "correlation: predicted against measured errors of all points of the exact curve.\n\n" + table(header, rows) + "\n" + when
    )  # fmt: skip


def latency() -> str:
    """Return what choosing by the compiler's estimates wins over choosing by bit operations."""
    results, when = load("amp_qnn")
    rows = []
    for result in results.values():
        digits = decimals(result["network"])
        for cost, found in result["costs"].items():
            shares = ", ".join(f"{100 * share:.0f} % {p}" for p, share in found["shares"].items())
            latency_us = "none" if found["latency_us"] is None else f"{found['latency_us']:.0f}"
            rows.append(
                (result["network"], cost, f"{found['score']:.{digits}f}", latency_us, found["conversions"], shares)
            )
    header = ("network", "--cost", "score", "estimated us", "conversions", "share of groups")
    return (
        "The mix that `--cost qnn-estimate:soc77` chooses against that of `--cost bitops`, the same goals as above: the latency that Qualcomm's compiler "
        "estimates for the written file.\n\n" + table(header, rows) + "\n" + when
    )  # fmt: skip


def workers() -> str:
    """Return what two workers win."""
    results, when = load("workers")
    rows = []
    for name, result in ((name, one) for name, both in results.items() for one in both):
        threads = "one thread in each" if result["threads"] else "both cores, shared"
        for what, times, ratio in (
            ("brute force", "brute_force_s", "brute_force_speedup"),
            ("calibration", "calibrate_s", "calibrate_speedup"),
        ):
            one, several = result[times].values()
            rows.append(
                (
                    name,
                    what,
                    threads,
                    f"{one:.1f}",
                    f"{several:.1f}",
                    f"{result[ratio]:.2f}",
                    "yes" if result["is_equal"] else "no",
                )
            )
    header = ("network", "what", "threads", "1 worker, s", "2 workers, s", "ratio", "equal to the last bit")
    return (
        "Two workers against one. Where the one worker has both cores for its threads already, the gain is what one process leaves of them.\n\n"
        + table(header, rows) + "\n" + when
    )  # fmt: skip
