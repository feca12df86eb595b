"""Automatic mixed precision against lite mixed precision: cost, score and time.

Every network goes through `fewbits.litemp` (w8a8 with the most sensitive 5, 10, 20, 40 % of the groups in w8a16) and
`fewbits.amp` with the same goal, data and ranges. Bit operations are those of the scored files, without conversions.
"""

import time
from argparse import Namespace
from typing import Any

import fewbits
import pipeline
import record
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, Network

GOALS: dict[str, float | str] = {
    "mobilenetv1": 0.5, "kwt1": 0.5, "resnet56": 0.5, "imdn": 0.1, "stories": "3%", "fastestdet": 0.5,
}  # fmt: skip
"""Acceptable drop: points, dB, share of the perplexity."""
CANDIDATES = {"resnet56": ("w8a8", "w8a16", "fp16", "w4a8")}
PERCENTS = (5.0, 10.0, 20.0, 40.0)
MOST_EVALUATIONS = 12


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(GOALS), default=list(GOALS))
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400)
    args = parser.parse_args()
    found = record.start(f"automatic mixed precision, target {args.target}")
    results = [compare(NETWORKS[name], args) for name in args.networks]
    record.save("amp", args, found, results)


def compare(network: Network, args: Namespace) -> dict[str, Any]:
    """Return what both verbs find on one network."""
    shared = {
        "data": lambda: network.calibration(args.samples),
        "metric": network.score,
        "higher_is_better": network.higher_is_better,
        "max_drop": GOALS[network.name],
        "target": args.target,
        "samples": args.samples,
        "run_options": RunOptions(threads=args.threads),
    }
    candidates = CANDIDATES.get(network.name, ("w8a8", "w8a16", "fp16"))
    begin = time.perf_counter()
    mixed = fewbits.amp(network.path, candidates=candidates, **shared)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    lite = fewbits.litemp(network.path, percents=PERCENTS, ranking="one-pass", **shared)
    lite_seconds = time.perf_counter() - begin
    chosen, ours = mixed.chosen, mixed.record
    ratio = (chosen.bit_operations or 0) / (lite.best.cost.bit_operations or 1)
    is_fair = lite.best.status.value == "ok"
    met = record.verdict(ours.is_accepted and ratio <= 1 and ours.evaluations <= MOST_EVALUATIONS)
    correlation = "-" if ours.rank_correlation is None else f"{ours.rank_correlation:.3f}"
    best = f"litemp {lite.best.precision} {lite.best.score.value:.2f}"
    print(f"{network.name}: float {mixed.float_score.value:.2f}, goal {mixed.goal.text}; amp {chosen.score:.2f} in "
          f"{seconds:.0f} s and {ours.evaluations} evaluations, {best} "
          f"({'within' if is_fair else 'not within'} the goal) in {lite_seconds:.0f} s; bit operations {ratio:.3f} of "
          f"litemp's ({met}); rank correlation {correlation}; {ours.ended}", flush=True)  # fmt: skip
    return {
        "network": network.name,
        "float": mixed.float_score.value,
        "goal": mixed.goal.text,
        "amp": {
            "score": chosen.score, "bit_operations": chosen.bit_operations, "accepted": ours.is_accepted,
            "shares": dict(chosen.shares), "conversions": chosen.conversions, "evaluations": ours.evaluations,
            "seconds": seconds, "ended": ours.ended, "rank_correlation": ours.rank_correlation,
            "timings": dict(ours.timings),
        },
        "litemp": {
            "precision": lite.best.precision, "score": lite.best.score.value, "seconds": lite_seconds,
            "bit_operations": lite.best.cost.bit_operations, "accepted": is_fair,
        },
        "ratio": ratio,
        "points": [
            {"number": p.number, "origin": p.origin, "cost": p.cost, "predicted": p.predicted, "measured": p.measured,
             "score": p.score, "drop": p.drop, "status": p.status, "shares": dict(p.shares)}
            for p in ours.points
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
