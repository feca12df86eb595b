"""Automatic mixed precision against lite mixed precision and aimet-onnx's search: cost, score and time.

Every network goes through `fewbits.amp` twice (candidates w8a8, w8a16, fp16; then with w4a8), through `fewbits.litemp`
(w8a8 with the most sensitive 5, 10, 20, 40 % of the groups in w8a16) and, where it is installed, through aimet-onnx's
`choose_mixed_precision` (the first candidates, 64 samples, its defaults), with the same goal and data. Bit operations
are those of the scored models, without conversions.
"""

import json
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import fewbits
import pipeline
import record
from fewbits.analysis.cost import sizes_of
from fewbits.graph.inspect import inspect_graph
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, Network
from run_peer import run_peer

GOALS: dict[str, float | str] = {
    "imdn": 0.1, "fastestdet": 0.5, "mobilenetv1": 0.5, "stories": "3%", "kwt1": 0.5, "resnet56": 0.5,
}  # fmt: skip
"""Acceptable drop: dB, points, share of the perplexity."""
CANDIDATES = ("w8a8", "w8a16", "fp16")
PERCENTS = (5.0, 10.0, 20.0, 40.0)
MOST_EVALUATIONS = 12
PEER_SAMPLES = 64


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.set_defaults(threads=0)
    parser.add_argument("--networks", nargs="*", choices=sorted(GOALS), default=list(GOALS))
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--peer-limit", type=float, default=420.0, help="seconds that AIMET's search may take; 0: none")
    args = parser.parse_args()
    found = record.start(f"automatic mixed precision, target {args.target}")
    results = {}
    for name in args.networks:
        results[name] = compare(NETWORKS[name], args)
        record.save("amp", args, found, results)


def compare(network: Network, args: Namespace) -> dict[str, Any]:
    """Return what each of them finds on one network."""
    shared = {
        "data": lambda: network.calibration(args.samples),
        "metric": network.score,
        "higher_is_better": network.higher_is_better,
        "max_drop": GOALS[network.name],
        "target": args.target,
        "samples": args.samples,
        "run_options": RunOptions(threads=args.threads),
    }
    begin = time.perf_counter()
    lite = fewbits.litemp(network.path, percents=PERCENTS, ranking="one-pass", **shared)
    lite_seconds = time.perf_counter() - begin
    accepted = lite.best.status.value == "ok"
    lite_cost = lite.best.cost.bit_operations or 1
    print(f"{network.name}: float {lite.float_score.value:.3f}, goal {lite.goal.text}; litemp {lite.best.precision} "
          f"{lite.best.score.value:.3f} ({'within' if accepted else 'not within'} the goal), {lite_cost:.4g} bit "
          f"operations in {lite_seconds:.0f} s", flush=True)  # fmt: skip
    found: dict[str, Any] = {
        "network": network.name,
        "float": lite.float_score.value,
        "goal": lite.goal.text,
        "litemp": {
            "precision": lite.best.precision, "score": lite.best.score.value, "seconds": lite_seconds,
            "bit_operations": lite_cost, "accepted": accepted, "w8a8_bit_operations": lite.base.cost.bit_operations,
        },
        "amp": [search(network, names, shared, lite_cost) for names in (CANDIDATES, (*CANDIDATES, "w4a8"))],
    }  # fmt: skip
    peer = by_aimet(network, args, lite.goal.max_drop) if args.peer_limit else None
    if peer is not None:
        ours = found["amp"][0]
        faster = peer["total_s"] / ours["seconds"]
        print(f"  aimet: {peer.get('outcome')}, {peer.get('score')}, {peer.get('bit_operations')} bit operations in "
              f"{peer['total_s']:.0f} s, {faster:.1f} times ours", flush=True)  # fmt: skip
        found["aimet"] = peer
    return found


def search(network: Network, candidates: tuple[str, ...], shared: dict[str, Any], lite_cost: int) -> dict[str, Any]:
    """Return what `amp` finds with some candidates."""
    begin = time.perf_counter()
    mixed = fewbits.amp(network.path, candidates=candidates, **shared)
    seconds = time.perf_counter() - begin
    chosen, ours = mixed.chosen, mixed.record
    ratio = (chosen.bit_operations or 0) / lite_cost
    met = record.verdict(ours.is_accepted and ratio <= 1 and ours.evaluations <= MOST_EVALUATIONS)
    correlation = "-" if ours.rank_correlation is None else f"{ours.rank_correlation:.3f}"
    print(f"  amp of {' '.join(candidates)}: {chosen.score:.3f}, {ratio:.3f} of litemp's bit operations ({met}) in "
          f"{seconds:.0f} s and {ours.evaluations} evaluations; rank correlation {correlation}; {ours.ended}",
          flush=True)  # fmt: skip
    return {
        "candidates": list(candidates), "score": chosen.score, "drop": chosen.drop, "accepted": ours.is_accepted,
        "bit_operations": chosen.bit_operations, "ratio": ratio, "shares": dict(chosen.shares),
        "conversions": chosen.conversions, "evaluations": ours.evaluations, "seconds": seconds, "ended": ours.ended,
        "rank_correlation": ours.rank_correlation, "timings": dict(ours.timings),
        "points": [
            {"number": p.number, "origin": p.origin, "cost": p.cost, "predicted": p.predicted, "measured": p.measured,
             "score": p.score, "drop": p.drop, "status": p.status, "shares": dict(p.shares)}
            for p in ours.points
        ],
    }  # fmt: skip


def by_aimet(network: Network, args: Namespace, max_drop: float) -> dict[str, Any] | None:
    """Return what AIMET's search finds; None where it is not installed."""
    model = prepare(load_model(network.path)).model
    rows = inspect_graph(model, sizes_of(model, next(iter(network.calibration(1))))).macs
    with tempfile.TemporaryDirectory() as folder:
        macs = Path(folder) / "macs.json"
        macs.write_text(json.dumps({row.name: row.macs for row in rows}))
        found = run_peer(
            "aimet_amp", "search", network=network.name, samples=PEER_SAMPLES, threads=args.threads or os.cpu_count(),
            drop=max_drop, macs=macs, limit=args.peer_limit,
        )  # fmt: skip
    if "missing" in found:
        print(f"  aimet left out: {found['missing']}", flush=True)
        return None
    kept = ("finished", "outcome", "stage", "error", "total_s", "seconds", "evaluations", "float_score", "uniform",
            "score", "drop", "bit_operations", "precisions", "layers_of_two_kinds", "tied_quantizers")  # fmt: skip
    return {name: found[name] for name in kept if name in found}


if __name__ == "__main__":
    main()
