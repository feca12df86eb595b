"""Step 5 without labels: scores after `fewbits qat` beside those of nearest rounding, gptq and adaround.

Every row is one call of the verb from the float model; no labels are read in training. `--case` picks rows.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from fewbits.training.schedule import Training
from networks import NETWORKS, RESNET20, Network

TARGET = "qnn-htp-v73"


@dataclass(frozen=True)
class Case:
    """A network in a precision, the score that must be reached, samples and steps."""

    network: Network
    precision: str
    limit: float
    samples: int
    steps: int


CASES = {
    "resnet20 w4a8": Case(RESNET20, "w4a8", 81.0, 1000, 1000),
    "resnet20 w4a4": Case(RESNET20, "w4a4", 79.0, 1000, 1500),
    "resnet20 w3a8": Case(RESNET20, "w3a8", 80.3, 1000, 1500),
    "imdn w8a8": Case(NETWORKS["imdn"], "w8a8", 36.9, 5, 8000),
    "mobilenetv1 w4a8": Case(NETWORKS["mobilenetv1"], "w4a8", 74.25, 400, 300),
}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--add", action="store_true", help="keep rows that are recorded and not measured again")
    args = parser.parse_args()
    found = record.start(f"qat: label-free, {args.threads} threads")
    path = args.results / "qat.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if args.add and path.exists() else {}
    for name in args.case:
        results[name] = {**run(CASES[name], args.threads), "measured": found["date"], "commit": found["commit"],
                         "cpu": found["cpu"]}  # fmt: skip
        show(name, CASES[name], results[name])
        record.save("qat", args, found, results)


def run(case: Case, threads: int) -> dict[str, Any]:
    """Return scores and seconds of adaround and of qat."""
    rows: dict[str, Any] = {"threads": threads, "samples": case.samples, "steps": case.steps}
    for name, methods in (("adaround", "gptq,adaround"), ("qat", "gptq,qat")):
        begin = time.perf_counter()
        options: dict[str, Any] = {
            "data": lambda: case.network.calibration(case.samples), "precision": case.precision, "methods": methods,
            "effort": Effort(), "metric": case.network.score, "higher_is_better": case.network.higher_is_better,
            "target": TARGET, "samples": case.samples, "score_each": True, "run_options": RunOptions(threads=threads),
        }  # fmt: skip
        if name == "qat":
            result = fewbits.qat.train(case.network.path, training=Training(steps=case.steps), **options)
        else:
            result = fewbits.adaround(case.network.path, **options)
        rows["float"], rows["nearest"] = result.float_score.value, result.before.value
        rows["gptq"] = result.methods[0].score
        rows[name] = result.score.value
        rows[f"{name}_s"] = result.methods[-1].seconds
        rows[f"{name}_objective"] = result.methods[-1].objective
        rows[f"{name}_notes"] = [note for note in result.record.notes if note.startswith("qat:")]
        rows[f"{name}_wall_s"] = time.perf_counter() - begin
    return rows


def show(name: str, case: Case, rows: dict[str, Any]) -> None:
    sign = 1 if case.network.higher_is_better else -1
    print(f"\n{name} (limit {case.limit})")
    record.table(
        ("float", "nearest", "gptq", "adaround", "qat", "limit", "qat s"),
        [(rows["float"], rows["nearest"], rows["gptq"], rows["adaround"], rows["qat"],
          record.verdict(sign * (rows["qat"] - case.limit) >= 0), rows["qat_s"])],
    )  # fmt: skip


if __name__ == "__main__":
    main()
