"""Calibration with histograms against the float forward passes alone, and against the peers' ratios to their own."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import pipeline
import record
import timing
from fewbits.numerics.ranges import ESTIMATORS
from fewbits.quantization.encode import Ranges
from fewbits.quantization.observe import Statistics
from fewbits.runtime.session import RunOptions, open_session
from networks import NETWORKS
from run_peer import run_peer

LIMIT_RATIO = 4.0
LIMIT_S = 1.0
PRECISIONS = ("w8a8", "w8a16", "w16a16", "w4a8", "fp16")


def main() -> None:
    parser = record.parser(__doc__ or "", repeats=5)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenetv2")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--peers", nargs="*", default=["ort", "aimet"])
    parser.add_argument("--peer-repeats", type=int, default=3)
    args = parser.parse_args()
    found = record.start(f"calibration: {args.network}, {args.samples} images, batch 1, {args.threads} threads")
    feeds = pipeline.single_samples(NETWORKS[args.network], args.samples)
    observer = pipeline.open_observer(NETWORKS[args.network], target=args.target, threads=args.threads)
    passes = observation(args, observer, feeds)
    statistics = observer.observe((f, 1) for f in feeds)
    further = derivations(observer, statistics)
    answers = {peer: peer_calibration(args, peer) for peer in args.peers}
    show_passes(passes, answers)
    show_derivations(further)
    record.save("calibration", args, found, {"passes": passes, "further": further, "peers": answers})


def observation(args: Namespace, observer: pipeline.Observer, feeds: Sequence[pipeline.Feeds]) -> dict[str, Any]:
    """Time float passes and observation of the same images in turn; both sessions are open already."""
    plain = open_session(NETWORKS[args.network].path, options=RunOptions(threads=args.threads))
    actions: dict[str, timing.Action] = {
        "float": timing.forward(plain),
        "watched outputs": timing.forward(observer.runner),
        "fewbits observe": lambda some: observer.observe((dict(f), 1) for f in some),
    }
    return timing.summarize(timing.interleave(actions, feeds, repeats=args.repeats), len(feeds), baseline="float")


def derivations(observer: pipeline.Observer, statistics: Statistics) -> dict[str, dict[str, float]]:
    """Time every further precision (default ranges), and every estimator at w8a8, after a first one at w8a8.

    Each is timed once, when it is new: what is remembered of it would make the second call faster.
    """
    cases = [(p, p, Ranges()) for p in PRECISIONS]
    cases += [(f"w8a8 {name}", "w8a8", Ranges(make())) for name, make in ESTIMATORS.items()]
    observer.build(statistics, "w8a8")
    return {
        name: {
            "encode_s": timing.clock(lambda p=p, r=r: observer.encode(statistics, p, r)),
            "file_s": timing.clock(lambda p=p, r=r: observer.build(statistics, p, r)),
        }
        for name, p, r in cases
    }


def peer_calibration(args: Namespace, peer: str) -> dict[str, Any]:
    """Return a peer's own measurement, in its own process and environment."""
    return run_peer(
        peer, "calibrate", network=args.network, samples=args.samples, threads=args.threads, repeats=args.peer_repeats
    )


def show_passes(passes: dict[str, Any], answers: dict[str, Any]) -> None:
    rows = [("fewbits", k, t["median_s"], t["ratio"], t["paired"]) for k, t in passes.items()]
    for peer, answer in answers.items():
        timings = answer.get("timings", {answer.get("missing"): dict.fromkeys(("median_s", "ratio", "paired"))})
        rows += [(peer, k, t["median_s"], t["ratio"], t["paired"]) for k, t in timings.items()]
    print("time over the same images; ratios to the float passes of the same process, opening sessions left out")
    record.table(("process", "what", "median s", "x float", "x paired"), rows)
    ratio = passes["fewbits observe"]["ratio"]
    print(f"observe / float = {ratio:.2f}, limit {LIMIT_RATIO}: {record.verdict(ratio <= LIMIT_RATIO)}\n")


def show_derivations(further: dict[str, dict[str, float]]) -> None:
    print(f"every further precision or estimator, without running the float model again; limit {LIMIT_S} s")
    rows = [(k, t["encode_s"], t["file_s"], record.verdict(t["encode_s"] < LIMIT_S)) for k, t in further.items()]
    record.table(("what", "resolve + encode s", "to the QDQ file's bytes s", ""), rows)


if __name__ == "__main__":
    main()
