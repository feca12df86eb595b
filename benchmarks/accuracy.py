"""Step 1 on all networks with one default setting: verdicts, and scores against limits taken from the peers' scores."""

import time
from dataclasses import dataclass
from typing import Any

import fewbits
import pipeline
import record
from networks import NETWORKS, Network

PRECISIONS = ("w8a8", "w8a16", "w16a16", "fp16", "w4a8")
SAMPLES = {"mobilenetv1": 800, "mobilenetv2": 800, "resnet56": 5000, "kwt1": 1375}
ROUNDING = 0.005  # the peers' and the float scores are known to two decimals


@dataclass(frozen=True, slots=True)
class Peers:
    """Scores on the same data: the better of onnxruntime.quantization and aimet-onnx, and the former's w4a8."""

    w8a8: float
    w8a16: float
    w4a8: float


PEERS = {
    "mobilenetv1": Peers(75.00, 76.38, 0.00),
    "mobilenetv2": Peers(79.88, 79.62, 0.62),
    "resnet56": Peers(83.10, 83.32, 80.12),
    "kwt1": Peers(97.24, 97.60, 96.07),
    "imdn": Peers(36.05, 37.11, 23.74),
    "fastestdet": Peers(35.10, 36.60, 1.92),
    "stories": Peers(49.03, 4.38, 62.67),
}


def limit(network: Network, precision: str) -> float:
    """Return the worst score that still passes (w4a8: the score to beat).

    w8a8, w8a16: the worse of float and the better peer, less max(0.3 points, 3 samples), 0.05 dB, 0.3 mAP or 2 %.
    w16a16, fp16: float, less 2 samples, 0.02 dB, 0.3 mAP or 1 %.
    """
    peers = PEERS[network.name]
    if precision == "w4a8":
        return peers.w4a8
    is_wide = precision in ("w16a16", "fp16")
    if not network.higher_is_better:
        worse = network.float_score if is_wide else max(network.float_score, getattr(peers, precision))
        return worse * (1.01 if is_wide else 1.02)
    if is_wide:
        return network.float_score - _close(network.name) - ROUNDING
    return min(network.float_score, getattr(peers, precision)) - network.noise - ROUNDING


def _close(name: str) -> float:
    return 200 / SAMPLES[name] if name in SAMPLES else {"imdn": 0.02, "fastestdet": 0.3}[name]


def passes(network: Network, precision: str, score: float) -> bool:
    """Say whether a score is within its limit; w4a8 must be better than the limit."""
    sign = 1 if network.higher_is_better else -1
    margin = sign * (score - limit(network, precision))
    return margin > 0 if precision == "w4a8" else margin >= 0


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400, help="calibration samples")
    args = parser.parse_args()
    found = record.start(f"accuracy: target {args.target}, {args.samples} calibration samples, one default setting")
    results = {}
    for name in args.networks:
        begin = time.perf_counter()
        result = pipeline.step1(
            NETWORKS[name], args.precisions, target=args.target, threads=args.threads, samples=args.samples
        )
        results[name] = judge(NETWORKS[name], result, time.perf_counter() - begin)
        show(name, results[name])
    missed = [f"{n} {p}" for n, r in results.items() for p, s in r["scores"].items() if not s["is_met"]]
    print(f"{len(missed)} missed: {', '.join(missed)}" if missed else "every limit is met")
    record.save("accuracy", args, found, results)


def judge(network: Network, result: fewbits.BaselineResult, wall_s: float) -> dict[str, Any]:
    """Return scores with their limits, and the verdict."""
    timings = result.record.timings
    scores = {
        c.precision: {
            "score": c.score.value,
            "status": c.status.value,
            "build_s": timings[f"quantize {c.precision}"],
            "score_s": timings[f"score {c.precision}"],
            "limit": limit(network, c.precision),
            "is_met": passes(network, c.precision, c.score.value),
        }
        for c in result.candidates
    }
    cost = {
        "prepare_s": timings["prepare"],
        "observe_s": timings["calibrate"],
        "samples": result.calibration.statistics.samples,
        "wall_s": wall_s,
    }
    verdict = {**result.record.verdict, "goal": result.goal.text}
    return {"float": {"score": result.float_score.value}, "cost": cost, "scores": scores, "verdict": verdict}


def show(name: str, result: dict[str, Any]) -> None:
    cost = result["cost"]
    print(
        f"{name}: float {result['float']['score']:.3f}; {cost['samples']} samples calibrated once in "
        f"{cost['prepare_s'] + cost['observe_s']:.1f} s, all precisions in {cost['wall_s']:.1f} s"
    )
    rows = [
        (p, s["score"], s["limit"], record.verdict(s["is_met"]), s["build_s"], s["score_s"])
        for p, s in result["scores"].items()
    ]
    record.table(("precision", "score", "limit", "", "build s", "score s"), rows)
    print(f"verdict: {result['verdict']['finding']}; {result['verdict']['reason']}")


if __name__ == "__main__":
    main()
