"""Random graphs through prepare, quantize, insert and import: counts of what breaks, and the memory of a long loop."""

import argparse
import contextlib
import gc
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

import record
from fewbits.runtime.heap import trim_heap

sys.path.insert(0, str(record.HERE.parent / "tests" / "fuzz"))
import graph_checks as checks
from graph_strategy import Drawn, drawn_graphs, drawn_in_blocks

CHUNK = 50
WARM_UP = 0.2
"""Share of the time after which memory should be flat."""
SHOWN = 20
KEPT_KERNELS = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
"""How many compiled kernels PyTorch and its oneDNN keep: by default 1024 each, one per shape, of up to 40 KB together.

Graphs of all shapes fill that for an hour, and what grows besides would not be seen.
"""


def main() -> None:
    args = _arguments()
    os.environ.update(KEPT_KERNELS)  # PyTorch is not loaded yet
    warnings.simplefilter("ignore")  # float16 casts of constants
    logging.disable(logging.CRITICAL)
    found = record.start("random graphs")
    tally, failures, samples = checks.Tally(), [], []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background of a shell switches off
    begin, number = time.perf_counter(), args.seed
    drawn = (drawn_in_blocks if args.blocks else drawn_graphs)(args.makers)
    with contextlib.suppress(KeyboardInterrupt):  # what was done until then is recorded
        while tally.graphs < args.graphs or time.perf_counter() - begin < 60 * args.minutes:
            _chunk(number, drawn, tally, failures)
            number += 1
            gc.collect()
            trim_heap()  # what is freed and lies between blocks in use is no growth: graphs differ in their sizes
            samples.append((time.perf_counter() - begin, *resident_mb()))
    results = _results(tally, failures, samples)
    _print(results)
    record.save("fuzz_graphs_blocks" if args.blocks else "fuzz_graphs", args, found, results)


def _arguments() -> argparse.Namespace:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--graphs", type=int, default=5000, help="how many graphs at least")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long at least")
    parser.add_argument("--makers", type=int, default=12, help="constructs per graph at most")
    parser.add_argument("--blocks", action="store_true", help="with weight scales per block, on ort-cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the first chunk; each chunk has the next one")
    return parser.parse_args()


def _chunk(number: int, drawn: Any, tally: checks.Tally, failures: list[dict[str, Any]]) -> None:
    @seed(number)
    @settings(
        max_examples=CHUNK, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(drawn)
    def judge(case: Drawn) -> None:
        failures.extend({"seed": number, "what": text, "case": repr(case)} for text in _judged(case, tally))

    judge()


def _judged(case: Drawn, tally: checks.Tally) -> list[str]:
    try:
        return checks.breaches(case, tally)
    except Exception as error:  # whatever it is, it is a failure to be counted
        tally.breaches["exception"] += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        return [f"exception: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"]


def resident_mb() -> tuple[float, float]:
    """Return the resident memory of this process in MB, and what of it is no page of a file.

    Pages of libraries become resident when an operator is computed for the first time: that is no growth.
    """
    pages, files = (int(text) for text in Path("/proc/self/statm").read_text().split()[1:3])
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return pages * page, (pages - files) * page


Samples = list[tuple[float, float, float]]


def _results(tally: checks.Tally, failures: list[dict[str, Any]], samples: Samples) -> dict[str, Any]:
    seconds = samples[-1][0]
    return {
        "graphs": tally.graphs,
        "discards": tally.discards,
        "nodes": sum(tally.nodes.values()),
        "operators": dict(tally.nodes.most_common()),
        "precisions": dict(tally.precisions.most_common()),
        "weights with scales per block": dict(tally.blocks.most_common()),
        "left in float": dict(tally.floats.most_common()),
        "not simulated in torch": tally.unsimulated,
        "failures": sum(tally.breaches.values()),
        "failures by invariant": dict(tally.breaches),
        "kinds of failures": dict(Counter(_kind(f["what"]) for f in failures).most_common()),
        "examples of failures": failures[:SHOWN],
        "seconds": round(seconds, 1),
        "memory": _memory(samples),
    }


def _kind(text: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\d+(\.\d+)?", "_", text)[:160]


def _memory(samples: Samples) -> dict[str, Any]:
    """Return memory in MB at the ends of chunks: resident, and of it what is no page of a file."""
    times, sizes, own = (np.array(part) for part in zip(*samples, strict=True))
    return {**_course(times, sizes), "without files": _course(times, own)}


def _course(times: Any, sizes: Any) -> dict[str, Any]:
    """Return memory at the start, after the warm-up and at the end, and its slopes."""
    warm = times > WARM_UP * times[-1]
    return {
        "first_mb": round(float(sizes[0]), 1),
        "after_warm_up_mb": round(float(sizes[warm][0]), 1),
        "last_mb": round(float(sizes[-1]), 1),
        "peak_mb": round(float(sizes.max()), 1),
        "slope_mb_per_minute": _slope(times[warm], sizes[warm]),
        "last_half_mb_per_minute": _slope(times[times > times[-1] / 2], sizes[times > times[-1] / 2]),
        "samples": [(round(float(t), 1), round(float(s), 1)) for t, s in zip(times, sizes, strict=True)],
    }


def _slope(times: Any, sizes: Any) -> float | None:
    return round(float(np.polyfit(times / 60, sizes, 1)[0]), 2) if len(times) > 2 else None


def _print(results: dict[str, Any]) -> None:
    kept = ("graphs", "discards", "nodes", "failures", "not simulated in torch", "seconds")
    record.table(["random graphs", ""], [(name, results[name]) for name in kept])
    record.table(["failures", ""], results["kinds of failures"].items())
    record.table(["left in float", "nodes"], list(results["left in float"].items())[:SHOWN])
    for title, course in (
        ("resident memory", results["memory"]),
        ("without files", results["memory"]["without files"]),
    ):
        figures = {name: size for name, size in course.items() if name not in ("samples", "without files")}
        record.table([title, ""], figures.items())


if __name__ == "__main__":
    main()
