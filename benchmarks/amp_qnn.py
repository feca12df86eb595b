"""Mixed precision chosen by Qualcomm's latency estimates against the choice by bit operations, at the same goal.

The latency of both chosen files is the compiler's own estimate of the whole model. Needs the extra `qnn`.
"""

import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import fewbits
import pipeline
import record
from amp import CANDIDATES, GOALS
from fewbits.artifact import names
from fewbits.errors import ModelError
from fewbits.runtime.session import RunOptions
from fewbits.workflow.compile import open_dims_of
from networks import NETWORKS, Network

NAMES = ("fastestdet", "imdn", "kwt1")
CHIP = "soc77"


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.set_defaults(threads=0)
    parser.add_argument("--networks", nargs="*", choices=sorted(GOALS), default=list(NAMES))
    parser.add_argument("--chip", default=CHIP)
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400)
    args = parser.parse_args()
    found = record.start(f"mixed precision by estimated latency on {args.chip}, target {args.target}")
    results = {}
    for name in args.networks:
        results[name] = compare(NETWORKS[name], args)
        record.save("amp_qnn", args, found, results)


def compare(network: Network, args: Namespace) -> dict[str, Any]:
    """Return score and estimated latency of both choices."""
    costs = {}
    for cost in ("bitops", f"qnn-estimate:{args.chip}"):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            mixed = fewbits.amp(
                network.path, data=lambda: network.calibration(args.samples), candidates=CANDIDATES, cost=cost,
                metric=network.score, higher_is_better=network.higher_is_better, max_drop=GOALS[network.name],
                target=args.target, samples=args.samples, run_options=RunOptions(threads=args.threads), output=folder,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            latency = estimated(network, Path(folder) / names.ARTIFACT, args)
        chosen = mixed.chosen
        costs[cost] = {
            "score": chosen.score, "drop": chosen.drop, "accepted": mixed.record.is_accepted, "latency_us": latency,
            "predicted_cost": chosen.cost, "whole_cost": chosen.whole_cost, "conversions": chosen.conversions,
            "shares": dict(chosen.shares), "evaluations": mixed.record.evaluations, "seconds": seconds,
            "points": [
                {"cost": p.cost, "whole_cost": p.whole_cost, "drop": p.drop, "status": p.status}
                for p in mixed.record.points if p.score is not None
            ],
        }  # fmt: skip
        print(f"{network.name} by {cost}: {chosen.score:.3f}, {latency} us estimated, {chosen.conversions} "
              f"conversions, {seconds:.0f} s", flush=True)  # fmt: skip
    by_bits, by_estimate = (found["latency_us"] for found in costs.values())
    is_faster = by_bits is None or (by_estimate is not None and by_estimate <= by_bits)
    print(f"  {record.verdict(is_faster)}", flush=True)
    return {"network": network.name, "goal": GOALS[network.name], "costs": costs}


def estimated(network: Network, path: Path, args: Namespace) -> float | None:
    """Return the compiler's estimate of a file in microseconds; None where it has none."""
    feeds = next(iter(network.calibration(1)))
    dims = {dim: feeds[name].shape[axis] for name, of in open_dims_of(path).items() for axis, dim in of.items()}
    try:
        return fewbits.estimate(path, soc=args.chip, dims=dims).estimate.latency_us
    except ModelError as error:
        print(f"  no estimate: {error}", flush=True)
        return None


if __name__ == "__main__":
    main()
