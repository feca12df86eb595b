"""The section of docs/results.md on automatic mixed precision."""

from typing import Any

from page import decimals, load, table


def amp() -> str:
    """Return cost and score next to lite mixed precision, AIMET's search, and greedy choices."""
    results, when = load("amp")
    rows = [row(name, result) for name, result in results.items()]
    header = ("network", "float", "goal", "candidates", "score", "share of groups", "bit operations / litemp's", "/ all w8a8",
              "scored", "seconds", "rank correlation", "litemp")  # fmt: skip
    return (
        "## Automatic mixed precision\n\n`fewbits amp` against `fewbits litemp` (w8a8, 5, 10, 20, 40 % of the groups in w8a16), the same data, ranges and "
        "goal; bit operations of the scored files. Where all w8a8 is already within the goal, or lite mixed precision needs little more, there "
        "is no room below without 4-bit weights: the column `/ all w8a8` says how far above that floor the mix is. Rank correlation: predicted "
        "against measured errors of the outputs, over the scored profiles.\n\n" + table(header, rows) + "\n" + when + "\n" + greedy()
    )  # fmt: skip


def row(name: str, result: dict[str, Any]) -> tuple[object, ...]:
    ours, lite = result["amp"], result["litemp"]
    digits = decimals(result["network"])
    shares = ", ".join(f"{100 * share:.0f} % {p}" for p, share in ours["shares"].items())
    correlation = "" if ours["rank_correlation"] is None else f"{ours['rank_correlation']:.3f}"
    known = "" if lite["accepted"] else ", not within the goal"
    return (
        result["network"], f"{result['float']:.{digits}f}", result["goal"].removeprefix("drop of at most "),
        " ".join(result["candidates"]), f"{ours['score']:.{digits}f}", shares, f"{result['ratio']:.3f}",
        f"{ours['bit_operations'] / result['w8a8_bit_operations']:.3f}", ours["evaluations"], f"{ours['seconds']:.0f}",
        correlation, f"{lite['precision']}: {lite['score']:.{digits}f}{known}",
    )  # fmt: skip


def greedy() -> str:
    """Return the cost of greedy choices relative to the exact ones."""
    results, when = load("assignment")
    rows = []
    for name, result in results.items():
        for way in result["greedy"]:
            rows.append((name, result["groups"], way["greedy"], f"{way['median']:.3f}", f"{way['worst']:.3f}",
                         way["never_reached"], f"{way['seconds']:.1f}", f"{result['seconds']:.1f}"))  # fmt: skip
    header = (
        "network",
        "groups",
        "greedy",
        "cost, median",
        "cost, worst",
        "never reached",
        "seconds",
        "exact: seconds",
    )
    return (
        "The exact choice against greedy ones, on the same predicted noise and bit operations (candidates w8a8, w8a16, fp16, w4a8): what the "
        "cheapest assignment that greedy finds within the error of each point of the exact curve costs, relative to that point. `alone` goes by the "
        "error of each group alone, as rankings of layers do, `together` by that of the whole.\n\n" + table(header, rows) + "\n" + when
    )  # fmt: skip
