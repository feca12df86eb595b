"""The exact choice of precisions against greedy ones, on the same predicted noise and bit operations.

For every point of the exact curve: the cost of the cheapest assignment that greedy finds within its predicted error.
Greedy starts with every group in its cheapest precision and changes one group after the other, always the one (and to
the precision) with the most error avoided per added cost. `alone`: each group judged by the error that it causes alone,
as rankings of layers do, and conversions not seen; `together`: by the predicted error of the whole assignment.

The error of every point of the exact curve is measured, too, on 32 calibration samples (float16 by the torch executor).
"""

import math
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import fewbits
import pipeline
import record
from fewbits.quantization.encode import Ranges
from fewbits.quantization.groups import profile_of
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.spec.precision import Precision
from fewbits.workflow.amp_noise import find_noise
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_models import parse_cost
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.measured_error import measured_error
from fewbits.workflow.pareto import pareto_curve
from fewbits.workflow.precision_problem import Problem, predicted_error
from fewbits.workflow.stages import Stages
from networks import NETWORKS, Network

CANDIDATES = ("w8a8", "w8a16", "fp16", "w4a8")
LEAST = 0.95
"""Rank correlation of predicted and measured errors."""
MEASURED = 32
NAMES = ("kwt1", "resnet56", "imdn", "stories", "mobilenetv1", "fastestdet")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NAMES), default=list(NAMES))
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400)
    args = parser.parse_args()
    found = record.start(f"exact and greedy choice of precisions, {', '.join(args.candidates)}, target {args.target}")
    results = [compare(NETWORKS[name], args) for name in args.networks]
    record.save("assignment", args, found, results)


def compare(network: Network, args: Namespace) -> dict[str, Any]:
    """Return the costs of exact and greedy assignments of one network."""
    problem, context, ranges = problem_of(network, args)
    begin = time.perf_counter()
    curve = pareto_curve(problem)
    seconds = time.perf_counter() - begin
    rows = []
    for name, way in (("alone", alone), ("together", together)):
        begin = time.perf_counter()
        steps = way(problem)
        spent = time.perf_counter() - begin
        ratios = []
        for point in curve[1:]:
            costs = [cost for cost, error in steps if error <= point.error * (1 + 1e-9)]
            ratios.append(min(costs) / point.cost if costs else math.inf)
        finite = [ratio for ratio in ratios if math.isfinite(ratio)]
        rows.append({"greedy": name, "ratios": [r if math.isfinite(r) else None for r in ratios], "seconds": spent,
                     "never_reached": len(ratios) - len(finite), "median": float(np.median(finite)),
                     "worst": max(finite)})  # fmt: skip
    text = "; ".join(f"{r['greedy']}: {r['median']:.3f} times the cost (median), {r['worst']:.3f} at worst, "
                     f"{r['never_reached']} never reached, {r['seconds']:.1f} s" for r in rows)  # fmt: skip
    measured = [measure(context, ranges, point.profile) for point in curve]
    correlation = float(spearmanr([point.error for point in curve], measured).statistic)
    least = min(ratio for row in rows for ratio in row["ratios"] if ratio is not None)
    met = record.verdict(least >= 1 - 1e-3 and correlation >= LEAST)
    print(
        f"{network.name}: {len(problem.candidates)} groups, {len(curve)} points in {seconds:.1f} s; {text}; "
        f"rank correlation of predicted and measured errors {correlation:.3f} ({met})",
        flush=True,
    )
    points = [{"cost": a.cost, "error": a.error, "measured": m} for a, m in zip(curve, measured, strict=True)]
    return {
        "network": network.name,
        "groups": len(problem.candidates),
        "points": points,
        "seconds": seconds,
        "greedy": rows,
        "rank_correlation": correlation,
    }


def problem_of(network: Network, args: Namespace) -> tuple[Problem, CostContext, Ranges]:
    """Return predicted noise and bit operations of a network, and what models of it are made from."""
    calibration = fewbits.calibrate(
        network.path, data=lambda: network.calibration(args.samples), target=args.target, samples=args.samples,
        run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    first = fewbits.quantize_calibrated(calibration, "w8a8")
    made = [fewbits.quantize_calibrated(calibration, name, ranges=first.ranges) for name in args.candidates]
    store = Store()
    noise = find_noise(calibration, made, method="one-pass", samples=64, store=store, stages=Stages())
    context = CostContext(calibration, store)
    return Problem(noise, parse_cost("bitops")(context, args.candidates)), context, first.ranges


def measure(context: CostContext, ranges: Ranges, profile: Mapping[str, str]) -> float:
    """Return the error of the outputs in a profile, measured."""
    chosen = {group: Precision.parse(profile[group.name]) for group in context.groups}
    made = fewbits.quantize_calibrated(context.calibration, profile_of(chosen), ranges=ranges)
    judge = OutputJudge(context.calibration, MEASURED, None, "channel")
    return measured_error(judge, context.calibration, made, with_torch=True, store=context.store)


def cheapest(problem: Problem) -> dict[str, str]:
    """Return every group in the precision that costs it the least."""
    costs = problem.costs.groups
    return {group: min(names, key=lambda p, g=group: costs[g][p]) for group, names in problem.candidates.items()}


def alone(problem: Problem) -> list[tuple[float, float]]:
    """Return (cost, error) after every step of the greedy order by errors of groups alone."""
    profile, costs = cheapest(problem), problem.costs.groups
    errors = {(g, p): predicted_error(problem.noise, {g: p}) for g, names in problem.candidates.items() for p in names}
    steps = [(problem.costs.total(profile), predicted_error(problem.noise, profile))]
    while True:
        moves = [
            ((errors[g, profile[g]] - errors[g, p]) / max(costs[g][p] - costs[g][profile[g]], 1e-9), g, p)
            for g, names in problem.candidates.items() for p in names
            if errors[g, p] < errors[g, profile[g]]
        ]  # fmt: skip
        if not moves:
            return steps
        _, group, precision = max(moves)
        profile[group] = precision
        steps.append((problem.costs.total(profile), predicted_error(problem.noise, profile)))


def together(problem: Problem) -> list[tuple[float, float]]:
    """Return (cost, error) after every step of the greedy order by the predicted error of the whole."""
    profile = cheapest(problem)
    cost, error = problem.costs.total(profile), predicted_error(problem.noise, profile)
    steps = [(cost, error)]
    while True:
        best = None
        for group, names in problem.candidates.items():
            for precision in names:
                if precision == profile[group]:
                    continue
                changed = {**profile, group: precision}
                after = predicted_error(problem.noise, changed)
                if after >= error:
                    continue
                gain = (error - after) / max(problem.costs.total(changed) - cost, 1e-9)
                if best is None or gain > best[0]:
                    best = gain, group, precision
        if best is None:
            return steps
        profile[best[1]] = best[2]
        cost, error = problem.costs.total(profile), predicted_error(problem.noise, profile)
        steps.append((cost, error))


if __name__ == "__main__":
    main()
