"""Step 1 next to aimet-onnx: the wall time of the same scores in one run, and verdicts on weaker settings.

Verdicts: `fewbits.baseline` with plain absmax weights; those of the default setting are in accuracy.py.
Wall time: one process each that loads the model, calibrates and scores it at w8a8, or at w8a8, w8a16, w16a16 and fp16.
"""

import json
import subprocess
import sys
import time
from argparse import Namespace
from typing import Any

import pipeline
import record
from networks import NETWORKS
from run_peer import run_peer

PRECISIONS = ("w8a8", "w8a16", "w16a16", "fp16")
LIMITS = {"w8a8": 10.0, ",".join(PRECISIONS): 3.0}
"""Times faster than aimet-onnx, at least."""
WORK: dict[str, tuple[dict[str, Any], str]] = {
    "ranges by error": ({}, "tf_enhanced"),
    "minimum and maximum": ({"ranges": "minmax", "weight_ranges": "absmax", "bias_correction": False}, "min_max"),
}
"""What both tools do to find ranges: the options of fewbits, and the scheme of aimet-onnx."""
SETTINGS: dict[str, dict[str, Any]] = {
    "absmax weights": {"weight_ranges": "absmax"},
    "absmax weights, biases not corrected": {"weight_ranges": "absmax", "bias_correction": False},
}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=["mobilenetv1"])
    parser.add_argument("--target", default=pipeline.TARGET)
    parser.add_argument("--samples", type=int, default=400, help="calibration samples, of both tools")
    parser.add_argument("--timed", nargs="*", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument(
        "--works", nargs="*", choices=list(WORK), default=[next(iter(WORK))], help="how ranges are found"
    )
    parser.add_argument("--one", help="NETWORK:P,P:WORK: time one baseline in this process only")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(timed(args, *args.one.split(":"))))
        return
    found = record.start(f"baseline: target {args.target}, drop of at most {pipeline.MAX_DROP}")
    results = {"verdicts": {name: verdicts(args, name) for name in args.networks}, "times": {}}
    for name in args.timed:
        results["times"][name] = race(args, name)
    record.save("baseline", args, found, results)


def verdicts(args: Namespace, name: str) -> dict[str, Any]:
    """Return finding and scores of each setting."""
    found = {}
    for label, options in SETTINGS.items():
        begin = time.perf_counter()
        result = pipeline.step1(
            NETWORKS[name], PRECISIONS, target=args.target, threads=args.threads, samples=args.samples, **options
        )
        found[label] = {
            "finding": result.verdict.finding.value,
            "accepted": result.verdict.accepted,
            "reason": result.verdict.reason,
            "float": result.float_score.value,
            "scores": {c.precision: c.score.value for c in result.candidates},
            "statuses": {c.precision: c.status.value for c in result.candidates},
            "wall_s": time.perf_counter() - begin,
        }
        print(f"{name}, {label}: {result.verdict.finding.value}; {result.verdict.reason}")
    return found


def timed(args: Namespace, name: str, precisions: str, work: str) -> dict[str, Any]:
    """Return the wall time of one baseline and of its stages."""
    begin = time.perf_counter()
    result = pipeline.step1(
        NETWORKS[name],
        precisions.split(","),
        target=args.target,
        threads=args.threads,
        samples=args.samples,
        **WORK[work][0],
    )
    scores = {c.precision: c.score.value for c in result.candidates}
    return {"wall_s": time.perf_counter() - begin, "stages": dict(result.record.timings), "scores": scores}


def race(args: Namespace, name: str) -> dict[str, Any]:
    """Return how long fewbits and aimet-onnx take for the same scores, whole processes, imports included."""
    found: dict[str, Any] = {}
    for work in args.works:
        scheme, found[work] = WORK[work][1], {}
        for precisions, limit in LIMITS.items():
            begin = time.perf_counter()
            mine = here(args, f"{name}:{precisions}:{work}")
            mine["process_s"] = time.perf_counter() - begin
            peer = peer_time(args, name, precisions, scheme)
            ratio = peer["process_s"] / mine["process_s"] if "process_s" in peer else None
            found[work][precisions] = {"fewbits": mine, "aimet": peer, "ratio": ratio}
            met = "" if ratio is None else f"{ratio:.1f} x, limit {limit}: {record.verdict(ratio >= limit)}"
            spent = f"fewbits {mine['process_s']:.1f} s, aimet {peer.get('process_s')} s"
            print(f"{name} {precisions}, {work}: {spent}; {met}", flush=True)
    return found


def here(args: Namespace, one: str) -> dict[str, Any]:
    """Time a fresh process of this benchmark."""
    words = [sys.executable, __file__, "--one", one, "--samples", str(args.samples)]
    done = subprocess.run(
        [*words, "--threads", str(args.threads), "--target", args.target], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def peer_time(args: Namespace, name: str, precisions: str, scheme: str) -> dict[str, Any]:
    """Time aimet-onnx on the same precisions, in its own environment."""
    begin, wanted = time.perf_counter(), precisions.split(",")
    answer = run_peer(
        "aimet",
        "score",
        network=name,
        precisions=wanted,
        schemes=[scheme],
        samples=args.samples,
        threads=args.threads,
    )
    if "missing" in answer:
        return answer
    return {"process_s": time.perf_counter() - begin, "answer": answer}


if __name__ == "__main__":
    main()
