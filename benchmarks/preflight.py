"""What a preflight says beforehand against what step 1, ranking groups, and gptq then take: time and resident memory.

Each network has a fresh process that only predicts, another that runs step 1 without any preflight and then the one
pass that ranks groups for litemp, and a third that improves with gptq. Seconds are those of the processor (use one
thread), told and taken, so that a busy machine does not matter.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import record
from memory import peak_mb

MOST_TIME = 1.5
"""Times that a prediction may be off, either way."""
MOST_MEMORY = 0.25
LATER = ("litemp", "improve")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=None, help="all seven where none is named")
    parser.add_argument("--samples", type=int, default=400, help="calibration samples of step 1")
    parser.add_argument("--step1-only", action="store_true", help="leave the later steps out")
    parser.add_argument("--improve-samples", type=int, default=64, help="calibration samples of gptq")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, name = args.child.split(":")
        time.perf_counter = time.process_time  # before fewbits is imported
        print(json.dumps({"predict": predicted, "run": measured, "improve": improve}[what](args, name)))
        return
    found = record.start(f"preflight: {args.samples} calibration samples, {args.threads} threads")
    from networks import NETWORKS

    rows = kept(args)
    for name in args.networks or sorted(NETWORKS):
        rows = [row for row in rows if row["network"] != name]
        rows.append({"network": name, "told": child(args, f"predict:{name}"), "was": child(args, f"run:{name}")})
        if not args.step1_only:
            rows[-1]["was"]["peaks_mb"] |= child(args, f"improve:{name}")
        record.save("preflight", args, found, {"rows": rows})
    show(rows)


def kept(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of an earlier run, of which only the named networks are measured again."""
    path = args.results / "preflight.json"
    return json.loads(path.read_text())["results"]["rows"] if args.networks and path.exists() else []


def child(args: argparse.Namespace, what: str) -> dict[str, Any]:
    """Return what one fresh process found."""
    words = ("--child", what, "--samples", str(args.samples), "--threads", str(args.threads))
    given = (*words, "--improve-samples", str(args.improve_samples), *["--step1-only"] * args.step1_only)
    done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def predicted(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return what the preflight of a network says, and how long it took."""
    import pipeline
    from fewbits.analysis.scores import parse_metric
    from fewbits.runtime.session import RunOptions
    from fewbits.workflow.goal import open_goal
    from fewbits.workflow.preflight import STAGE, preflight
    from fewbits.workflow.scoring import open_scoring
    from fewbits.workflow.stages import Stages
    from fewbits.workflow.subject import open_subject
    from networks import NETWORKS

    network, stages = NETWORKS[name], Stages()
    with stages.stage("prepare"):
        subject = open_subject(
            network.path, data=lambda: network.calibration(args.samples), target=pipeline.TARGET,
            run_options=RunOptions(threads=args.threads),
        )  # fmt: skip
        metric = parse_metric(network.score, higher_is_better=network.higher_is_better)
        scoring = open_scoring(subject, samples=args.samples, metric=metric)
    before = scoring.score_float()
    goal = open_goal(pipeline.MAX_DROP, None, before)
    told = preflight(subject, scoring, before, samples=args.samples, stages=stages, goal=goal, steps=LATER)
    later = dict(told.later_mb)
    if not args.step1_only:  # gptq is measured with fewer samples
        fewer = preflight(
            subject, scoring, before, samples=args.improve_samples, stages=Stages(), steps=("improve",)
        )  # fmt: skip
        later |= fewer.later_mb
    return {
        "seconds": told.seconds - told.parts[STAGE], "preflight_s": told.parts[STAGE], "parts": dict(told.parts),
        "step1_mb": told.step1_mb, "later_mb": later, "peak_mb": told.peak_mb,
        "calibration_samples": told.calibration_samples, "enough_samples": told.enough_samples,
        "outliers": len(told.outliers), "warnings": told.warnings,
    }  # fmt: skip


def measured(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return seconds and peaks of a network's step 1, and the peaks of later steps."""
    import pipeline
    from fewbits.workflow.baseline import PRECISIONS
    from fewbits.workflow.quantized import quantize_calibrated
    from fewbits.workflow.sensitivity import one_pass
    from networks import NETWORKS

    network, begin = NETWORKS[name], time.perf_counter()
    result = pipeline.step1(network, PRECISIONS, threads=args.threads, samples=args.samples)
    seconds, peaks = time.perf_counter() - begin, {"step 1": peak_mb()}
    if args.step1_only:
        return {"seconds": seconds, "stages": dict(result.record.timings), "peaks_mb": peaks}
    made = [quantize_calibrated(result.calibration, p) for p in ("w8a8", "w8a16")]
    one_pass(result.calibration, made, probes=4, with_noise=True)
    peaks["litemp"] = peak_mb()
    return {"seconds": seconds, "stages": dict(result.record.timings), "peaks_mb": peaks}


def improve(args: argparse.Namespace, name: str) -> dict[str, float]:
    """Return the peak of improving by gptq, scored on a few outputs."""
    import fewbits
    from fewbits.runtime.session import RunOptions
    from networks import NETWORKS

    count = args.improve_samples
    fewbits.improve(
        NETWORKS[name].path, data=lambda: NETWORKS[name].calibration(count), precision="w4a8", methods="gptq",
        auto=False, samples=count, eval_samples=8, metric="sqnr", run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    return {"improve": peak_mb()}


def show(rows: list[dict[str, Any]]) -> None:
    """Print told beside was, and whether both are close."""
    table, is_met = [], True
    for row in rows:
        told, was = row["told"], row["was"]
        time_ratio, memory_ratio = told["seconds"] / was["seconds"], told["step1_mb"] / was["peaks_mb"]["step 1"]
        is_met &= 1 / MOST_TIME <= time_ratio <= MOST_TIME and abs(memory_ratio - 1) <= MOST_MEMORY
        later = [told["later_mb"][s] / was["peaks_mb"][s] if s in was["peaks_mb"] else None for s in LATER]
        table.append(
            (row["network"], told["preflight_s"], told["seconds"], was["seconds"], time_ratio, told["step1_mb"],
             was["peaks_mb"]["step 1"], memory_ratio, *later)
        )  # fmt: skip
    record.table(("network", "own s", "told s", "was s", "ratio", "told MB", "was MB", "ratio", *LATER), table)
    print(
        f"time within {MOST_TIME} x and memory within {100 * MOST_MEMORY:.0f} %: {record.verdict(is_met)}", flush=True
    )


if __name__ == "__main__":
    main()
