"""Peak memory of gptq on ResNet-56 with 1,000 samples under several ceilings, each in a fresh process.

Under the smallest ceiling everything waits in files: what that process takes is the part that no ceiling holds (models,
sessions, samples, the tensors of one batch), and a larger ceiling may add no more than itself. The weights must be the
same bit for bit.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
from memory import peak_mb

MB = 1 << 20
CEILINGS = (1, 128, 1024)
NETWORK = "resnet56"
ROOM_MB = 100.0  # that allocators may scatter by


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--ceilings", type=int, nargs="+", default=CEILINGS, help="MB, the smallest first")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.samples, args.threads)))
        return
    found = record.start(f"improve_memory: gptq on {NETWORK} w4a8, {args.samples} samples, {args.threads} threads")
    rows = []
    for ceiling in args.ceilings:
        rows.append({"ceiling_mb": ceiling, **child(ceiling, args)})
        print(rows[-1], flush=True)
    show(rows)
    record.save("improve_memory", args, found, {"rows": rows})


def child(ceiling: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return what one fresh process measured."""
    given = ("--child", str(ceiling), "--samples", str(args.samples), "--threads", str(args.threads))
    done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def show(rows: list[dict[str, Any]]) -> None:
    """Print the peaks and whether each stays under its ceiling."""
    base = rows[0]["peak_mb"] - rows[0]["ceiling_mb"]
    record.table(
        ("ceiling MB", "peak MB", "above the rest MB", "gptq s"),
        [(r["ceiling_mb"], r["peak_mb"], r["peak_mb"] - base, r["method_s"]) for r in rows],
    )
    is_under = all(row["peak_mb"] - base <= row["ceiling_mb"] * MB / 1e6 + ROOM_MB for row in rows)
    is_equal = len({row["weights"] for row in rows}) == 1
    print(f"under every ceiling: {record.verdict(is_under)}; equal weights: {record.verdict(is_equal)}")


def measure(ceiling: int, samples: int, threads: int) -> dict[str, Any]:
    """Return the peak of this process, the seconds of the method, and a hash of the artifact's file."""
    import fewbits
    from fewbits.improvement.methods import Effort
    from fewbits.runtime.session import RunOptions
    from networks import NETWORKS

    begin, network = time.perf_counter(), NETWORKS[NETWORK]
    with tempfile.TemporaryDirectory() as folder:
        result = fewbits.improve(
            network.path, data=lambda: network.calibration(samples), precision="w4a8", methods="gptq", auto=False,
            effort=Effort(ceiling=ceiling * MB), samples=samples, eval_samples=32, output=Path(folder) / "run",
            run_options=RunOptions(threads=threads),
        )  # fmt: skip
        content = (Path(folder) / "run" / "model.qdq.onnx").read_bytes()
    return {
        "peak_mb": round(peak_mb(), 1),
        "method_s": round(sum(row.seconds for row in result.methods), 1),
        "wall_s": round(time.perf_counter() - begin, 1),
        "weights": hashlib.sha256(content).hexdigest(),
    }


if __name__ == "__main__":
    main()
