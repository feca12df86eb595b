"""One-pass sensitivity against brute force on the same calibration, encodings and samples, and both against aimet-onnx.

For each network and precision: rank correlation over all groups, median ratio of the predicted error to the measured
one, the groups where they differ most; wall time of both. aimet-onnx: its per-layer analysis by enabling quantizers.
"""

import time
from argparse import Namespace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import fewbits
import pipeline
import record
from fewbits.analysis.sensitivity import Sensitivity
from fewbits.runtime.session import RunOptions
from fewbits.workflow.sensitivity import one_pass
from networks import NETWORKS, Network
from run_peer import run_peer

COMPARED = ["mobilenetv2", "resnet56", "kwt1", "imdn", "fastestdet"]
PRECISIONS = ("w8a8", "w8a16", "w4a8")
LEAST = {"w8a8": 0.95, "w8a16": 0.95, "w4a8": 0.93}
RATIO = (0.8, 1.25)
FASTER, FASTER_THAN_AIMET = 15.0, 20.0


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=COMPARED)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--probes", type=int, help="per sample; left out: as the verb chooses")
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--aimet", nargs="*", choices=sorted(NETWORKS), default=["mobilenetv2"])
    args = parser.parse_args()
    found = record.start(f"sensitivity: {args.samples} samples, {args.probes or 'chosen'} probes, target {args.target}")
    record.save("sensitivity", args, found, {name: compare(NETWORKS[name], args) for name in args.networks})


def compare(network: Network, args: Namespace) -> dict[str, Any]:
    """Return agreement and times of one network."""
    calibration = fewbits.calibrate(
        network.path, data=lambda: network.calibration(args.samples), target=args.target, samples=args.samples,
        run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    made = [fewbits.quantize_calibrated(calibration, precision) for precision in PRECISIONS]
    one_pass(calibration, made[:1], samples=4, probes=1)  # what is loaded once per process
    begin = time.perf_counter()
    quick = one_pass(calibration, made, samples=args.samples, probes=args.probes)
    quick_s = time.perf_counter() - begin
    begin = time.perf_counter()
    slow = fewbits.brute_force(calibration, made, samples=args.samples)
    slow_s = time.perf_counter() - begin
    result: dict[str, Any] = {
        "groups": len(quick.groups),
        "samples": quick.samples,
        "probes": quick.probes,
        "one_pass_s": quick_s,
        "brute_force_s": slow_s,
        "times_faster": slow_s / quick_s,
    }
    met = record.verdict(slow_s / quick_s >= FASTER) if network.name == "mobilenetv2" else "-"
    print(f"{network.name}: {len(quick.groups)} groups, {quick.samples} x {quick.probes} projections; one pass "
          f"{quick_s:.1f} s, brute force {slow_s:.1f} s, {slow_s / quick_s:.1f} x ({met})", flush=True)  # fmt: skip
    if network.name in args.aimet:
        result["aimet"] = peer(network.name, args, quick_s)
    for precision in PRECISIONS:
        result[precision] = agreement(quick, slow, precision)
    return result


def agreement(quick: Sensitivity, slow: Sensitivity, precision: str) -> dict[str, Any]:
    """Return how well the estimates of one precision agree with the measured errors."""
    names = [g.name for g in quick.groups if slow.error(g.name, precision) > 0]
    predicted = np.array([quick.error(name, precision) for name in names])
    measured = np.array([slow.error(name, precision) for name in names])
    rank, ratio = float(spearmanr(predicted, measured)[0]), float(np.median(predicted / measured))
    rows = zip(names, predicted / measured, measured, strict=True)
    apart = sorted(rows, key=lambda row: -abs(np.log(max(row[1], 1e-9))))
    worst = {name: [float(r), float(-10 * np.log10(m))] for name, r, m in apart[:6]}
    met = record.verdict(rank >= LEAST[precision] and RATIO[0] <= ratio <= RATIO[1])
    print(f"  {precision}: Spearman {rank:.3f} (least {LEAST[precision]}), median ratio {ratio:.2f}: {met}; furthest: "
          + ", ".join(f"{n} {r:.2f} at {db:.0f} dB" for n, (r, db) in list(worst.items())[:3]))  # fmt: skip
    return {"spearman": rank, "median_ratio": ratio, "furthest": worst}


def peer(name: str, args: Namespace, quick_s: float) -> dict[str, Any]:
    """Return the time of aimet-onnx's per-layer analysis of the same samples at w8a8."""
    answer = run_peer("aimet", "analyze", network=name, precision="w8a8", samples=args.samples, threads=args.threads)
    if "missing" not in answer:
        ratio = answer["analyze_s"] / quick_s
        print(f"  aimet-onnx, {answer['layers']} layers at w8a8: {answer['analyze_s']:.1f} s, {ratio:.1f} x ours for "
              f"{len(PRECISIONS)} precisions ({record.verdict(ratio >= FASTER_THAN_AIMET)})")  # fmt: skip
    return answer


if __name__ == "__main__":
    main()
