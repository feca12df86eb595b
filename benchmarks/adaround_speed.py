"""AdaRound against aimet-onnx's in one run: the same network, samples and threads; and how time grows with depth.

With one thread the seconds of both tools are those of the processor, so that other processes do not count.
"""

import time
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, RESNET20, Network
from run_peer import run_peer

DEPTHS = {"resnet20": RESNET20, "resnet56": NETWORKS["resnet56"]}
LAYERS = {"resnet20": 20, "resnet56": 56}
METHODS = {
    "gptq": ("gptq", Effort()),
    "adaround": ("adaround", Effort()),
    "adaround by block": ("adaround", Effort(granularity="block", iterations=200)),
}
ROWS = (
    ("resnet20", "gptq"), ("resnet20", "adaround"), ("resnet20", "adaround by block"),
    ("resnet56", "gptq"), ("resnet56", "adaround"),
)  # fmt: skip


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, default=400, help="calibration samples, for both tools")
    parser.add_argument("--iterations", type=int, default=2000, help="of aimet-onnx")
    parser.add_argument("--skip-peer", action="store_true")
    args = parser.parse_args()
    found = record.start(f"adaround: w4a8, {args.samples} calibration samples")
    results: dict[str, Any] = {"fewbits": {}}
    if not args.skip_peer:
        results["aimet"] = run_peer(
            "aimet_adaround", "adaround", network="resnet20", samples=args.samples, iterations=args.iterations,
            threads=args.threads,
        )  # fmt: skip
    for name, method in ROWS:
        results["fewbits"][f"{name} {method}"] = ours(DEPTHS[name], method, args)
        record.save("adaround_speed", args, found, results)
    for method in ("gptq", "adaround"):
        per_layer = {n: results["fewbits"][f"{n} {method}"]["method_s"] / LAYERS[n] for n in DEPTHS}
        print(f"{method}: seconds a layer {per_layer}, ratio {per_layer['resnet56'] / per_layer['resnet20']:.2f}")
    peer = results.get("aimet", {})
    if "adaround_s" in peer:
        print(f"aimet-onnx: {peer['nearest']:.2f} -> {peer['score']:.2f} in {peer['adaround_s']:.0f} s")
        for row, mine in results["fewbits"].items():
            if row.startswith("resnet20"):
                times = peer["adaround_s"] / mine["method_s"]
                print(f"fewbits {row}: {mine['score']:.2f}, {times:.1f} times as fast")
    record.save("adaround_speed", args, found, results)


def ours(network: Network, method: str, args: Any) -> dict[str, Any]:
    """Return seconds and score of one method."""
    names, effort = METHODS[method]
    clock = time.process_time if args.threads == 1 else time.perf_counter
    with mock.patch("fewbits.workflow.improve_run.time", SimpleNamespace(perf_counter=clock)):
        result = fewbits.improve(
            network.path, data=lambda: network.calibration(args.samples), precision="w4a8", methods=names, auto=False,
            effort=effort, metric=network.score, higher_is_better=True, samples=args.samples,
            run_options=RunOptions(threads=args.threads),
        )  # fmt: skip
    seconds = sum(row.seconds for row in result.methods)
    print(f"{network.name} {method}: {result.score.value:.2f} in {seconds:.1f} s (nearest {result.before.value:.2f})")
    return {"score": result.score.value, "nearest": result.before.value, "method_s": seconds}


if __name__ == "__main__":
    main()
