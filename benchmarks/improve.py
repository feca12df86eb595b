"""Step 4 on every network: the score of each method, from one set of calibration samples, and what it costs.

Each row is one call of `fewbits.improve` with the methods named; "nearest" is what `quantize` makes without them.
"auto" lets `improve` choose. Layers are improved on activations in float, and on rounded ones where the name says so or
these have few bits. `--case` picks networks, `--methods` rows. With one thread the seconds are those of the processor,
so that other processes do not count.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from fewbits.spec.precision import Precision
from fewbits.workflow.improve_run import NothingToImproveError
from networks import NETWORKS, RESNET20, Network

TARGET, BLOCKS_TARGET = "qnn-htp-v73", "ort-cpu"
PER_TENSOR = 'extends = "ort-cpu"\ndescription = "weights with one scale"\nper_channel = []\n'
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cle": ("cle", {}),
    "smooth": ("smooth", {}),
    "bias-correction": ("bias-correction", {}),
    "seq-mse": ("seq-mse", {}),
    "gptq": ("gptq", {}),
    "gptq, rounded activations": ("gptq", {"with_activations": True}),
    "gptq, float activations": ("gptq", {"with_activations": False}),
    "balance,gptq": ("balance,gptq", {}),
    "cle,gptq": ("cle,gptq", {}),
    "adaround": ("adaround", {}),
    "adaround by block": ("adaround", {"granularity": "block", "iterations": 200}),
    "adaround by block, drop 0.5": ("adaround", {"granularity": "block", "iterations": 200, "drop": 0.5}),
    "cle,bias-correction,adaround": ("cle,bias-correction,adaround", {}),
    "auto": ("", {}),
}


@dataclass(frozen=True)
class Case:
    """A network in a precision on a target, the score that some method must reach (if any), and the methods tried."""

    network: Network
    precision: str
    limit: float | None
    methods: tuple[str, ...]
    is_per_tensor: bool = False


ALL = (
    "cle", "smooth", "bias-correction", "seq-mse", "gptq", "balance,gptq", "gptq, rounded activations", "adaround",
    "adaround by block",
)  # fmt: skip
BLOCKED = ("seq-mse", "gptq", "adaround", "adaround by block")
BALANCED = ("gptq", "balance,gptq")
EQUAL = ("cle", "smooth")
DROP = ("adaround by block", "adaround by block, drop 0.5")
NARROWER = ("gptq, float activations", "gptq")
NARROW = ("gptq, float activations", "gptq", "adaround", "adaround by block", "adaround by block, drop 0.5")
CASES = {
    "resnet20 w4a8": Case(RESNET20, "w4a8", 80.9, (*ALL, *DROP, "auto")),
    "resnet20 w4a4": Case(RESNET20, "w4a4", None, NARROW),
    "resnet20 w4a6": Case(RESNET20, "w4a6", None, NARROWER),
    "imdn w4a6": Case(NETWORKS["imdn"], "w4a6", None, NARROWER),
    "imdn w4a8": Case(NETWORKS["imdn"], "w4a8", 35.0, (*ALL, *DROP, "auto")),
    "imdn w4a4": Case(NETWORKS["imdn"], "w4a4", None, NARROW),
    "kwt1 w4a8": Case(NETWORKS["kwt1"], "w4a8", 97.0, (*ALL, *DROP, "auto")),
    "stories w4a8": Case(NETWORKS["stories"], "w4a8", 5.23, (*ALL, "auto")),
    "stories w8a8": Case(NETWORKS["stories"], "w8a8", None, EQUAL),
    "resnet56 w4a8": Case(NETWORKS["resnet56"], "w4a8", 83.0, (*ALL, "auto")),
    "fastestdet w4a8": Case(NETWORKS["fastestdet"], "w4a8", 28.0, (*ALL, "auto")),
    "mobilenetv2 w4a8": Case(NETWORKS["mobilenetv2"], "w4a8", 75.0, ALL),
    "mobilenetv1 w4a8": Case(NETWORKS["mobilenetv1"], "w4a8", 68.0, ALL),
    "imdn w8a8": Case(NETWORKS["imdn"], "w8a8", None, BALANCED),
    "fastestdet w8a8": Case(NETWORKS["fastestdet"], "w8a8", None, BALANCED),
    "mobilenetv1 w8a8": Case(NETWORKS["mobilenetv1"], "w8a8", 76.4, ("gptq",)),
    "kwt1 w4a8g32": Case(NETWORKS["kwt1"], "w4a8g32", None, BLOCKED),
    "stories w4a8g32": Case(NETWORKS["stories"], "w4a8g32", None, BLOCKED),
    "mobilenetv2 w4a8g32": Case(NETWORKS["mobilenetv2"], "w4a8g32", None, BLOCKED),
    "mobilenetv2 w8a8 per tensor": Case(
        NETWORKS["mobilenetv2"], "w8a8", 76.0, ("gptq", "cle,gptq", "cle,bias-correction,adaround"), True
    ),
}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS))
    parser.add_argument("--samples", type=int, default=400, help="calibration samples")
    parser.add_argument("--add", action="store_true", help="keep rows that are recorded and not measured again")
    args = parser.parse_args()
    found = record.start(f"improve: {args.samples} calibration samples")
    results: dict[str, Any] = known(args) if args.add else {}
    for name in args.case:
        case = CASES[name]
        results[name] = results.get(name, {}) | run(case, args, found)
        show(name, case, results[name])
        record.save("improve", args, found, results)


def known(args: Any) -> dict[str, Any]:
    """Return the rows that are recorded."""
    path = args.results / "improve.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def run(case: Case, args: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Return the score, seconds and output error of every method on one network."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        target: str | Path = BLOCKS_TARGET if Precision.parse(case.precision).block_size else TARGET
        if case.is_per_tensor:
            target = Path(folder) / "per_tensor.toml"
            target.write_text(PER_TENSOR)
        for method in args.methods or case.methods:
            names, effort = METHODS[method]
            told = {"limit": case.limit, "threads": args.threads, "measured": found["date"], "commit": found["commit"]}
            clock = time.process_time if args.threads == 1 else time.perf_counter
            begin = clock()
            try:
                with mock.patch("fewbits.workflow.improve_run.time", SimpleNamespace(perf_counter=clock)):
                    result = fewbits.improve(
                        case.network.path, data=lambda: case.network.calibration(args.samples),
                        precision=case.precision, methods=names or None, auto=not names, effort=Effort(**effort),
                        metric=case.network.score, higher_is_better=case.network.higher_is_better, target=target,
                        samples=args.samples, run_options=RunOptions(threads=args.threads),
                    )  # fmt: skip
            except NothingToImproveError as error:
                reason = str(error).replace(str(case.network.path), case.network.path.name)
                rows[method] = {"declined": reason, **told}
                print(f"{case.network.name} {case.precision} {method}: {reason}", flush=True)
                continue
            rows["float"] = {"score": result.float_score.value}
            rows["nearest"] = {"score": result.before.value}
            rows[method] = {
                "score": result.score.value,
                "dropped": not any(row.kept for row in result.methods),
                "kept": [row.name for row in result.methods if row.kept],
                "method_s": sum(row.seconds for row in result.methods),
                "whole_s": clock() - begin,
                **told,
            }
            print(f"{case.network.name} {case.precision} {method}: {result.score.value:.3f}", flush=True)
    return rows


def show(name: str, case: Case, rows: dict[str, Any]) -> None:
    sign = 1 if case.network.higher_is_better else -1
    print(f"\n{name} (limit {case.limit})")
    record.table(
        ("method", "score", "limit", "method s"),
        [
            (m, r["score"], "" if r.get("limit") is None else record.verdict(sign * (r["score"] - r["limit"]) >= 0),
             r.get("method_s"))
            for m, r in rows.items() if "score" in r
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
