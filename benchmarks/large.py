"""Peak memory and time of every verb on models above 2 GB, in processes of their own, against the size of the weights.

Memory is looked at every few milliseconds from outside, in two ways: anonymous (what the system cannot take back) and
resident (that and mapped files, each page once). The limit holds for the larger one, resident.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import record

sys.path.insert(0, str(record.HERE.parent / "tests" / "workflow"))
import large_models

LIMIT = 1.5
PRECISIONS = ("w8a8", "w8a16", "fp16")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of weights")
    parser.add_argument("--kinds", nargs="+", default=list(large_models.KINDS), choices=list(large_models.KINDS))
    parser.add_argument("--scratch", type=Path, help="a folder with room for four times the weights")
    args = parser.parse_args()
    found = record.start(f"large models: {args.gigabytes:g} GB of weights, {args.threads} threads")
    results = {kind: measured(kind, args) for kind in args.kinds}
    record.save("large", args, found, {"limit": LIMIT, "networks": results})


def measured(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return what every verb took on one network."""
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="fewbits.") as scratch:
        path = Path(scratch) / "m.onnx"
        np.savez(path.with_name("calib.npz"), **large_models.KINDS[kind](path, int(args.gigabytes * 1e9)))
        size = path.with_name("m.onnx.data").stat().st_size
        print(f"{kind}: {size / 1e9:.2f} GB of weights", flush=True)
        verbs = {name: taken(command, size) for name, command in commands(path, args.threads)}
    rows = [(name, *(verb[key] for key in ("anonymous", "resident", "seconds"))) for name, verb in verbs.items()]
    record.table(("verb", "anonymous/weights", "resident/weights", "seconds"), rows)
    worst = max(verb["resident"] for verb in verbs.values())
    print(f"highest {worst:.2f}, limit {LIMIT}: {record.verdict(worst < LIMIT)}\n", flush=True)
    return {"weights_bytes": size, "verbs": verbs}


def commands(path: Path, threads: int) -> Iterator[tuple[str, list[str]]]:
    """Yield what is measured: a name and a command line, in the order in which they can run."""
    data, run = ["--data", str(path.with_name("calib.npz"))], ["--threads", str(threads)]
    ranges = ["--ranges", "minmax", "--weight-ranges", "absmax"]
    out = str(path.with_name("out"))
    yield "inspect", ["inspect", str(path)]
    yield "prepare", ["prepare", str(path), "-o", str(path.with_name("prepared.onnx")), *run]
    for suffix in ("", ".data"):
        path.with_name(f"prepared.onnx{suffix}").unlink()
    for precision in PRECISIONS:
        options = [*data, "--precision", precision, "-o", out]
        yield f"quantize {precision}", ["quantize", str(path), *options, *ranges, *run]
        yield f"verify {precision}", ["verify", out]
    yield "export", ["export", out, "-o", str(path.with_name("exported"))]
    yield "baseline", ["baseline", str(path), *data, "--precisions", "w8a8", "-o", out, *ranges, *run]


def taken(arguments: list[str], size: int) -> dict[str, float]:
    """Return memory relative to `size` and seconds of one command.

    Raises:
        SystemExit: it failed.
    """
    done = large_models.watched([sys.executable, "-c", "from fewbits.cli import main; main()", *arguments])
    if done.exit_code:
        raise SystemExit(f"{arguments[0]} failed:\n{done.output}")
    memory = {"anonymous": done.anonymous_bytes / size, "resident": done.resident_bytes / size}
    print(f"  {' '.join(arguments[:1])}: {memory['resident']:.2f} in {done.seconds:.0f} s", flush=True)
    return {name: round(value, 3) for name, value in {**memory, "seconds": done.seconds}.items()}


if __name__ == "__main__":
    main()
