"""Step 4 on every network: the score of each method, from one set of calibration samples, and what it costs.

Each row is one call of `fewbits.improve` with the methods named; "nearest" is what `quantize` makes without them.
Layers are improved on activations in float, and on rounded ones where the name says so. `--case` picks networks,
`--methods` rows.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, RESNET20, Network

TARGET = "qnn-htp-v73"
PER_TENSOR = 'extends = "ort-cpu"\ndescription = "weights with one scale"\nper_channel = []\n'
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "bias-correction": ("bias-correction", {}),
    "seq-mse": ("seq-mse", {}),
    "gptq": ("gptq", {}),
    "gptq, rounded activations": ("gptq", {"with_activations": True}),
    "cle,gptq": ("cle,gptq", {}),
    "adaround": ("adaround", {}),
    "adaround by block": ("adaround", {"granularity": "block", "iterations": 200}),
    "cle,bias-correction,adaround": ("cle,bias-correction,adaround", {}),
}


@dataclass(frozen=True)
class Case:
    """A network in a precision on a target, the score that some method must reach, and the methods tried."""

    network: Network
    precision: str
    limit: float
    methods: tuple[str, ...]
    is_per_tensor: bool = False


QUICK = ("bias-correction", "seq-mse", "gptq", "gptq, rounded activations", "adaround", "adaround by block")
LARGE = ("bias-correction", "seq-mse", "gptq", "gptq, rounded activations", "adaround")
CASES = {
    "resnet20 w4a8": Case(RESNET20, "w4a8", 80.9, QUICK),
    "imdn w4a8": Case(NETWORKS["imdn"], "w4a8", 35.0, QUICK),
    "kwt1 w4a8": Case(NETWORKS["kwt1"], "w4a8", 97.0, QUICK),
    "stories w4a8": Case(NETWORKS["stories"], "w4a8", 5.23, QUICK),
    "resnet56 w4a8": Case(NETWORKS["resnet56"], "w4a8", 83.0, QUICK),
    "fastestdet w4a8": Case(NETWORKS["fastestdet"], "w4a8", 28.0, LARGE),
    "mobilenetv2 w4a8": Case(NETWORKS["mobilenetv2"], "w4a8", 75.0, LARGE),
    "mobilenetv1 w4a8": Case(NETWORKS["mobilenetv1"], "w4a8", 68.0, LARGE),
    "mobilenetv1 w8a8": Case(NETWORKS["mobilenetv1"], "w8a8", 76.4, ("gptq",)),
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
        target: str | Path = TARGET
        if case.is_per_tensor:
            target = Path(folder) / "per_tensor.toml"
            target.write_text(PER_TENSOR)
        for method in args.methods or case.methods:
            names, effort = METHODS[method]
            begin = time.perf_counter()
            result = fewbits.improve(
                case.network.path, data=lambda: case.network.calibration(args.samples), precision=case.precision,
                methods=names, auto=False, effort=Effort(**effort), metric=case.network.score,
                higher_is_better=case.network.higher_is_better, target=target, samples=args.samples,
                run_options=RunOptions(threads=args.threads),
            )  # fmt: skip
            rows["float"] = {"score": result.float_score.value}
            rows["nearest"] = {"score": result.before.value}
            rows[method] = {
                "score": result.score.value,
                "method_s": sum(row.seconds for row in result.methods),
                "wall_s": time.perf_counter() - begin,
                "limit": case.limit,
                "threads": args.threads,
                "measured": found["date"],
                "commit": found["commit"],
            }
            print(f"{case.network.name} {case.precision} {method}: {result.score.value:.3f}", flush=True)
    return rows


def show(name: str, case: Case, rows: dict[str, Any]) -> None:
    sign = 1 if case.network.higher_is_better else -1
    print(f"\n{name} (limit {case.limit})")
    record.table(
        ("method", "score", "limit", "method s", "wall s"),
        [
            (m, r["score"], record.verdict(sign * (r["score"] - case.limit) >= 0) if "limit" in r else "",
             r.get("method_s"), r.get("wall_s"))
            for m, r in rows.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
