"""Peak memory of calibrating mobilenetv2 with 40 and with 400 samples, each in a fresh process."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record

# The parent must stay small: on Linux a child's ru_maxrss starts at its parent's size, so fewbits loads in the child.
LIMIT_MB = 600.0
LIMIT_RATIO = 1.05


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, nargs=2, default=[40, 400])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.threads)))
        return
    found = record.start(f"memory: mobilenetv2, one image at a time from disk, {args.threads} threads")
    rounds = [[child(n, args.threads) for n in args.samples] for _ in range(args.repeats)]
    show([middle([r[i] for r in rounds]) for i in range(len(args.samples))])
    record.save("memory", args, found, {"rounds": rounds})


def middle(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of several processes: allocators make single peaks scatter."""
    return {name: statistics.median(a[name] for a in answers) for name in answers[0]}


def show(typical: list[dict[str, Any]]) -> None:
    """Print the medians of all rounds and both limits."""
    stages = ("imported", "opened", "calibrated", "quantized")
    rows = [(str(w["samples"]), *(w[s] for s in stages)) for w in typical]
    record.table(("samples", *(f"{s} MB" for s in stages)), rows)
    few, many = (w["calibrated"] for w in typical)
    ratio, highest = many / few, max(w["quantized"] for w in typical)
    print(f"peak ratio {ratio:.3f}, limit {LIMIT_RATIO}: {record.verdict(ratio <= LIMIT_RATIO)}")
    print(f"highest peak {highest:.0f} MB, limit {LIMIT_MB:.0f} MB: {record.verdict(highest < LIMIT_MB)}")


def child(samples: int, threads: int) -> dict[str, Any]:
    """Return the peaks of one fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(samples), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(samples: int, threads: int) -> dict[str, Any]:
    """Return the peak after every stage; each includes those before it."""
    import pipeline
    from networks import NETWORKS

    peaks: dict[str, Any] = {"imported": peak_mb()}
    observer = pipeline.open_observer(NETWORKS["mobilenetv2"], threads=threads)
    peaks["opened"] = peak_mb()
    seen = observer.observe(images(samples))
    peaks["calibrated"] = peak_mb()
    observer.build(seen, "w8a8")
    peaks["quantized"] = peak_mb()
    return {"samples": seen.samples, **peaks}


def images(samples: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield single images, each read from disk when it is asked for."""
    from networks import assets

    for feeds, _ in assets().imagenet("imagenet-calib400", batch=1, n=samples):
        yield feeds, 1


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB (ru_maxrss is in KiB on Linux, in bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main()
