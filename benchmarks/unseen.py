"""Networks that were not in view when defaults were made: quantized, improved, and through `fewbits auto`.

They are trained here on scikit-learn's digits (`unseen_training.py`), then quantized as a user would: 300 calibration
images, 600 others scored, default target. Each method is one run of `fewbits.improve` from the float model. Needs
scikit-learn and torch, and no assets.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import fewbits
import record
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from fewbits.workflow.improve_run import NothingToImproveError
from unseen_training import NETWORKS, write

PRECISION = "w4a8"
AUTO = "all, by --auto"
METHODS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "cle": ("cle", {}),
    "smooth": ("smooth", {}),
    "balance": ("balance", {}),
    "bias-correction": ("bias-correction", {}),
    "seq-mse": ("seq-mse", {}),
    "gptq": ("gptq", {}),
    "balance,gptq": ("balance,gptq", {}),
    "gptq,adaround": ("gptq,adaround", {}),
    "gptq,adaround by block": ("gptq,adaround", {"granularity": "block", "iterations": 200}),
    AUTO: (None, {}),
}
GOALS = {"top1": 0.5, "psnr": 0.1, "perplexity": 0.02}
"""Metric -> the drop that `auto` may cost, in its unit."""


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--add", action="store_true", help="keep rows that are recorded and not measured again")
    parser.add_argument("--keep", type=Path, help="folder of trained networks: those that are there are not trained")
    args = parser.parse_args()
    found = record.start("unseen: networks that no default was made with")
    path = args.results / "unseen.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if args.add and path.exists() else {}
    for name in args.networks:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (args.keep or Path(scratch)) / name
            if not (folder / "eval.npz").exists():
                write(name, folder)
            rows = run(name, folder, args)
        before = results.get(name, {}).get("methods", {})
        methods = {method: one for method in METHODS if (one := rows["methods"].get(method, before.get(method)))}
        told = {"methods": methods, "measured": found["date"], "commit": found["commit"]}
        results[name] = {**results.get(name, {}), **rows, **told}
        show(name, results[name])
        record.save("unseen", args, found, results)


def run(name: str, folder: Path, args: Any) -> dict[str, Any]:
    """Return the scores of a network: float, w8a8, each method, and what `auto` recommends."""
    metric = NETWORKS[name].task.metric
    given: dict[str, Any] = {
        "data": folder / "calib.npz", "eval_data": folder / "eval.npz", "metric": metric, "max_drop": GOALS[metric],
        "run_options": RunOptions(threads=args.threads),
    }  # fmt: skip
    model = folder / "model.onnx"
    wide = fewbits.quantize(model, precision="w8a8", **{k: v for k, v in given.items() if k != "max_drop"})
    assert wide.score is not None
    assert wide.float_score is not None
    rows: dict[str, Any] = {"float": wide.float_score.value, "w8a8": wide.score.value, "metric": metric, "methods": {}}
    for method in args.methods:
        rows["methods"][method] = improved(model, method, given, rows)
        print(name, PRECISION, method, rows["methods"][method], flush=True)
    return {**rows, "auto": recommended(model, given, folder)}


def improved(model: Path, method: str, given: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """Return score and output errors of one run of `improve`; what it says of nearest goes to `rows`."""
    names, effort = METHODS[method]
    begin = time.perf_counter()
    try:
        result = fewbits.improve(model, precision=PRECISION, methods=names, effort=Effort(**effort), **given)
    except NothingToImproveError as error:
        return {"declined": str(error)}
    told = result.record.improvement
    assert told is not None
    rows["nearest"] = {"score": result.before.value, "sqnr_db": told["output_before"]["sqnr_db"]}
    return {
        "score": result.score.value,
        "sqnr_db": told["output_after"]["sqnr_db"],
        "kept": [row.name for row in result.methods if row.kept],
        "dropped": [row.name for row in result.methods if row.changed and not row.kept],
        "seconds": time.perf_counter() - begin,
    }


def recommended(model: Path, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the whole workflow recommends, and what came of its checks."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = fewbits.auto(model, output=Path(scratch) / "run", **given)
        told, chosen = result.record, result.chosen
    return {
        "steps": [fork.step for fork in told.forks],
        "precision": chosen.precision,
        "score": chosen.score,
        "drop": chosen.drop,
        "is_met": told.is_met,
        "checks": dict(told.checks),
        "wall_s": told.wall_s,
    }


def show(name: str, row: dict[str, Any]) -> None:
    nearest = row.get("nearest", {})
    print(f"\n{name}: float {row['float']:.3f}, w8a8 {row['w8a8']:.3f}, auto {row['auto']}")
    methods = [(m, r["score"], r["sqnr_db"], r["seconds"]) for m, r in row["methods"].items() if "score" in r]
    record.table(
        (PRECISION, "score", "SQNR dB", "s"),
        [("nearest", nearest.get("score"), nearest.get("sqnr_db"), None), *methods],
    )


if __name__ == "__main__":
    main()
