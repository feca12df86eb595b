"""Lite mixed precision on a w8a8 base: the share of groups to lift until the drop is acceptable, by ranking.

Rankings: one-pass, the set that leaves the least noise together, which is the default; "one by one", the same pass with
each group ranked alone; brute force on request; random orders; the range of the weights; the per-layer SQNR of
aimet-onnx's analysis (64 samples). All are lifted and scored by `fewbits.litemp`: only the choice differs.
"""

from argparse import Namespace
from dataclasses import replace
from typing import Any

import numpy as np

import fewbits
import pipeline
import record
from fewbits.analysis.sensitivity import Figure, Sensitivity
from fewbits.graph.topology import constant
from fewbits.quantization.groups import Group, find_groups
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, Network
from run_peer import run_peer

GOALS = {"fastestdet": 0.5, "imdn": 0.1, "stories": 0.225, "kwt1": 0.3}
"""Acceptable drop: mAP, dB, perplexity (4.6 at most), points."""
MOST = 20.0
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "minimum and maximum": {"ranges": "minmax", "weight_ranges": "absmax", "bias_correction": False},
}
"""How the base is made: where the default leaves nothing to lift, the simplest ranges may."""
RUNS = (("imdn", "default"), ("kwt1", "default"), ("fastestdet", "default"), ("stories", "default"),
        ("fastestdet", "minimum and maximum"))  # fmt: skip
PERCENTS = (2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0)


RANKINGS = ("one-pass", "one by one", "weight-range", "aimet", "random 0", "random 1")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(GOALS), default=sorted(GOALS))
    parser.add_argument("--base", default="w8a8")
    parser.add_argument("--high", nargs="*", default=["w8a16"])
    parser.add_argument("--rankings", nargs="*", default=list(RANKINGS))
    parser.add_argument("--percents", nargs="*", type=float, default=list(PERCENTS))
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400)
    args = parser.parse_args()
    found = record.start(f"lite mixed precision on a {args.base} base, target {args.target}")
    results = [
        {"network": name, "setting": setting, "high": high, "rankings": compare(NETWORKS[name], args, high, setting)}
        for name, setting in RUNS if name in args.networks for high in args.high
    ]  # fmt: skip
    record.save("litemp", args, found, results)


def compare(network: Network, args: Namespace, high: str, setting: str) -> dict[str, Any]:
    """Return what each ranking needs; the orders are those of one pass and of others."""
    found: dict[str, Any] = {}
    one_pass: Sensitivity | None = None
    for ranking in args.rankings:
        if found and next(iter(found.values()))["needed_percent"] == 0:
            break  # the base suffices, whatever the ranking
        given = None
        if ranking == "one by one":
            given = None if one_pass is None else replace(one_pass, noise={})
        elif ranking not in ("one-pass", "brute-force"):
            given = other(network, args, high, ranking)
        found[ranking], used = lift(network, args, high, ranking, given=given, options=SETTINGS[setting])
        one_pass = used if ranking == "one-pass" else one_pass
    return found


def lift(
    network: Network, args: Namespace, high: str, ranking: str, *, given: Sensitivity | None, options: dict[str, Any]
) -> tuple[dict[str, Any], Sensitivity | None]:
    """Return what one ranking needs, and the sensitivity that it went by."""
    result = fewbits.litemp(
        network.path,
        data=lambda: network.calibration(args.samples),
        base=args.base,
        high=high,
        percents=args.percents,
        ranking="brute-force" if ranking == "brute-force" else "one-pass",
        sensitivity=given,
        metric=network.score,
        higher_is_better=network.higher_is_better,
        max_drop=GOALS[network.name],
        target=args.target,
        samples=args.samples,
        run_options=RunOptions(threads=args.threads),
        **options,
    )
    steps = [
        {"percent": s.percent, "groups": len(s.groups), "share_macs": s.share_macs, "score": s.candidate.score.value}
        for s in result.steps
    ]
    accepted = None if result.accepted is None else result.steps[result.accepted]
    needed = 0.0 if result.base.status.value == "ok" else None if accepted is None else accepted.percent
    met = record.verdict(needed is not None and needed <= MOST) if ranking == "one-pass" else "-"
    ends = f"{args.base} {result.base.score.value:.2f}, {high} {result.high.score.value:.2f}"
    print(f"{network.name} {ends}, by {ranking}: "
          f"{'none suffices' if needed is None else f'{needed:g} %'} ({met}); "
          + ", ".join(f"{s['percent']:g} % {s['score']:.3f}" for s in steps), flush=True)  # fmt: skip
    summary = {
        "float": result.float_score.value,
        "base": result.base.score.value,
        "high": result.high.score.value,
        "goal": GOALS[network.name],
        "needed_percent": needed,
        "lifted": [] if accepted is None else list(accepted.groups),
        "steps": steps,
    }
    return summary, result.sensitivity


def other(network: Network, args: Namespace, high: str, ranking: str) -> Sensitivity:
    """Return a ranking that is not fewbits' own, as if it were errors."""
    data = [next(iter(network.calibration(1)))]
    calibration = fewbits.calibrate(network.path, data=data, target=args.target, samples=1)
    groups = find_groups(calibration.model.graph, calibration.target)
    if ranking.startswith("random"):
        errors = np.random.default_rng(int(ranking.split()[1])).random(len(groups)).tolist()
    elif ranking == "weight-range":
        nodes = {str(node.name): node for node in calibration.model.graph}
        errors = [
            max((float(np.ptp(t.numpy())) for name in g.nodes for v in nodes[name].inputs
                 if (t := constant(v)) is not None and t.numpy().ndim > 1 and t.numpy().dtype.kind == "f"), default=0.0)
            for g in groups
        ]  # fmt: skip
    else:
        errors = by_aimet(network, args, groups)
    figures = {}
    for group, error in zip(groups, errors, strict=True):
        figures[group.name, args.base, "all"] = Figure(error)
        figures[group.name, high, "all"] = Figure(0.0)
    return Sensitivity(ranking, groups, (args.base, high), 0, 0, (), figures)


def by_aimet(network: Network, args: Namespace, groups: tuple[Group, ...]) -> list[float]:
    """Return the noise over signal that aimet-onnx found for the layers of each group; 0 where it has none."""
    answer = run_peer("aimet", "analyze", network=network.name, precision="w8a8", samples=64, threads=args.threads)
    layers = {name: 10 ** (-value / 10) for name, value in answer["sqnr_db"].items()}
    print(
        f"  aimet-onnx: {sum(any(n in layers for n in g.nodes) for g in groups)} of {len(groups)} groups have a layer"
    )
    return [max((layers.get(name, 0.0) for name in group.nodes), default=0.0) for group in groups]


if __name__ == "__main__":
    main()
