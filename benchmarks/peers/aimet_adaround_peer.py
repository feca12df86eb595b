"""aimet-onnx's AdaRound as its guides run it: batch norms folded, applied to a simulation, then calibrated and scored.

Run by benchmarks/peers/.venvs/aimet/bin/python.
"""

import argparse
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import aimet_peer
import common
import onnx
from aimet_onnx.adaround.adaround_weight import Adaround

from networks import NETWORKS, RESNET20

ALL = {**NETWORKS, RESNET20.name: RESNET20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["adaround"])
    parser.add_argument("--network", choices=sorted(ALL), default="resnet20")
    parser.add_argument("--precision", default="w4a8")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="samples per feed")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    answer = {**adaround(args), "versions": {"aimet-onnx": metadata.version("aimet-onnx")}}
    args.output.write_text(json.dumps(answer))


def adaround(args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of AdaRound, and the scores of its simulation with nearest and with learned rounding."""
    import torch

    torch.set_num_threads(args.threads)
    common.NETWORKS = ALL
    network = ALL[args.network]
    feeds = [
        {k: v[i : i + args.batch] for k, v in feed.items()}
        for feed in network.calibration(args.samples)
        for i in range(0, len(next(iter(feed.values()))), args.batch)
    ]
    outputs = [o.name for o in onnx.load(str(network.path)).graph.output]

    def score(sim: Any) -> float:
        return network.score(lambda f: dict(zip(outputs, sim.session.run(None, f), strict=True)))

    nearest = aimet_peer.simulation(args, args.precision, "min_max", feeds[0])
    nearest.compute_encodings(feeds)
    before = score(nearest)
    sim = aimet_peer.simulation(args, args.precision, "min_max", feeds[0])
    clock = time.process_time if args.threads == 1 else time.perf_counter
    begin = clock()
    Adaround.apply_adaround(sim, feeds, num_iterations=args.iterations)
    seconds = clock() - begin
    sim.compute_encodings(feeds)
    return {"nearest": before, "score": score(sim), "adaround_s": seconds, "iterations": args.iterations}


if __name__ == "__main__":
    main()
