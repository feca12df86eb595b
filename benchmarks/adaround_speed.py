"""AdaRound against aimet-onnx's in one run: the same network, samples and threads; and how time grows with depth."""

from typing import Any

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, RESNET20, Network
from run_peer import run_peer

DEPTHS = {"resnet20": RESNET20, "resnet56": NETWORKS["resnet56"]}
LAYERS = {"resnet20": 20, "resnet56": 56}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, default=400, help="calibration samples, for both tools")
    parser.add_argument("--iterations", type=int, default=2000, help="of aimet-onnx")
    parser.add_argument("--skip-peer", action="store_true")
    args = parser.parse_args()
    found = record.start(f"adaround: w4a8, {args.samples} calibration samples")
    results: dict[str, Any] = {"fewbits": {}}
    for name, network in DEPTHS.items():
        for method in ("gptq", "adaround"):
            results["fewbits"][f"{name} {method}"] = ours(network, method, args)
    for method in ("gptq", "adaround"):
        per_layer = {n: results["fewbits"][f"{n} {method}"]["method_s"] / LAYERS[n] for n in DEPTHS}
        print(f"{method}: seconds a layer {per_layer}, ratio {per_layer['resnet56'] / per_layer['resnet20']:.2f}")
    if not args.skip_peer:
        peer = run_peer(
            "aimet_adaround", "adaround", network="resnet20", samples=args.samples, iterations=args.iterations,
            threads=args.threads,
        )  # fmt: skip
        results["aimet"] = peer
        if "adaround_s" in peer:
            mine = results["fewbits"]["resnet20 adaround"]
            print(f"aimet-onnx: {peer['nearest']:.2f} -> {peer['score']:.2f} in {peer['adaround_s']:.0f} s")
            print(f"fewbits: {mine['score']:.2f} in {mine['method_s']:.0f} s")
            print(f"{peer['adaround_s'] / mine['method_s']:.1f} times as fast")
    record.save("adaround_speed", args, found, results)


def ours(network: Network, method: str, args: Any) -> dict[str, Any]:
    """Return seconds and score of one method."""
    result = fewbits.improve(
        network.path, data=lambda: network.calibration(args.samples), precision="w4a8", methods=method, auto=False,
        effort=Effort(), metric=network.score, higher_is_better=True, samples=args.samples,
        run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    seconds = sum(row.seconds for row in result.methods)
    print(f"{network.name} {method}: {result.score.value:.2f} in {seconds:.1f} s (nearest {result.before.value:.2f})")
    return {"score": result.score.value, "nearest": result.before.value, "method_s": seconds}


if __name__ == "__main__":
    main()
