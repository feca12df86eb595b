"""Two workers against one: brute-force analysis and calibration of the same network, in turn; equal to the last bit.

Twice: with one thread in every worker, and with each worker's share of the processors, where one worker has them all
and the gain is what one process leaves of them. Processes are started and the model reaches them within the time that
is measured; in later rounds they are there.
"""

import time
from argparse import Namespace
from typing import Any

import fewbits
import pipeline
import record
from fewbits.quantization.groups import find_groups
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions
from fewbits.workflow.calibrate import Calibration
from networks import NETWORKS, Network

COMPARED = ["mobilenetv1", "resnet56"]
LEAST = 1.6
"""Speedup of brute force with two workers of one thread each."""


def main() -> None:
    parser = record.parser(__doc__ or "", repeats=2)
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=COMPARED)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--groups", type=int, default=1000, help="groups to measure, at most")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--target", default=pipeline.TARGET)
    args = parser.parse_args()
    found = record.start(f"workers: {args.workers} against 1, {args.samples} samples, {args.precision}")
    results = {name: [compare(NETWORKS[name], args, threads) for threads in (1, 0)] for name in args.networks}
    record.save("workers", args, found, results)


def compare(network: Network, args: Namespace, threads: int) -> dict[str, Any]:
    """Return the times of one network, the best of all rounds, and whether the results are equal.

    Args:
        network: the network.
        args: of the command line.
        threads: of every worker; 0 is its share of the processors.
    """
    data = list(network.calibration(400))
    runs: dict[int, list[tuple[float, float, Any]]] = {1: [], args.workers: []}
    for _ in range(args.repeats):
        for count, found in runs.items():
            found.append(measured(network, data, Workers(count), args, threads))
    best = {count: [min(run[i] for run in found) for i in (0, 1)] for count, found in runs.items()}
    first = runs[1][0][2]
    is_equal = all(run[2] == first for found in runs.values() for run in found)
    calibrate, brute = (best[1][i] / best[args.workers][i] for i in (0, 1))
    rounds = [one[1] / two[1] for one, two in zip(runs[1], runs[args.workers], strict=True)]
    met = record.verdict(is_equal and (brute >= LEAST or threads != 1))
    who = "one thread each" if threads else "all processors"
    print(f"{network.name}, {who}: brute force {best[1][1]:.1f} s -> {best[args.workers][1]:.1f} s, {brute:.2f} x "
          f"({met}; rounds {', '.join(f'{r:.2f}' for r in rounds)}); calibration {best[1][0]:.1f} s -> "
          f"{best[args.workers][0]:.1f} s, {calibrate:.2f} x; equal: {is_equal}", flush=True)  # fmt: skip
    return {
        "threads": threads,
        "figures": len(first[0]),
        "brute_force_s": {str(count): times[1] for count, times in best.items()},
        "brute_force_speedup": brute,
        "speedup_by_round": rounds,
        "calibrate_s": {str(count): times[0] for count, times in best.items()},
        "calibrate_speedup": calibrate,
        "is_equal": is_equal,
    }


def measured(
    network: Network, data: list[Any], workers: Workers, args: Namespace, threads: int
) -> tuple[float, float, Any]:
    """Return seconds of calibration and of brute force, and what was found."""
    calibration = fewbits.calibrate(
        network.path, data=data, target=args.target, run_options=RunOptions(threads=threads), workers=workers
    )
    calibrated_s = calibration.seconds["calibrate"]
    made = [fewbits.quantize_calibrated(calibration, args.precision, ranges="minmax", weight_ranges="absmax")]
    begin = time.perf_counter()
    found = fewbits.brute_force(
        calibration, made, samples=args.samples, groups=first_groups(calibration, args.groups), workers=workers
    )
    return calibrated_s, time.perf_counter() - begin, (dict(found.figures), dict(calibration.statistics.histograms))


def first_groups(calibration: Calibration, count: int) -> list[str]:
    """Return names of groups, spread over the network."""
    names = [group.name for group in find_groups(calibration.model.graph, calibration.target)]
    return names[:: max(1, len(names) // count)][:count]


if __name__ == "__main__":
    main()
