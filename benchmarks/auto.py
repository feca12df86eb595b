"""`fewbits auto` on every network with the same plain flags: what it recommends, what decided, time and memory.

Only data, metric and acceptable drop differ. Every network is one command in a process of its own.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from networks import NETWORKS

HERE = Path(__file__).resolve().parent
MOST_S = 600.0
MOST_MEMORY = 0.25
"""Share by which the memory that is told beforehand may be off."""


@dataclass(frozen=True)
class Case:
    """Flags of one network, and the steps that a specialist would expect to end at."""

    flags: tuple[str, ...]
    max_drop: float
    expected: tuple[str, ...]


CASES = {
    "mobilenetv1": Case(
        ("--data", "calib_mobilenetv1", "--eval-data", "eval_imagenet", "--metric", "top1"),
        0.5,
        ("baseline", "improve"),
    ),
    "mobilenetv2": Case(
        ("--data", "calib_mobilenetv2", "--eval-data", "eval_imagenet", "--metric", "top1"), 0.5, ("baseline",)
    ),
    "resnet56": Case(("--data", "calib_cifar", "--eval-data", "eval_cifar", "--metric", "top1"), 0.5, ("baseline",)),
    "kwt1": Case(("--data", "calib_speech", "--eval-data", "eval_speech", "--metric", "top1"), 0.5, ("litemp",)),
    "imdn": Case(("--data", "calib_imdn", "--metric", "psnr_luma", "--higher-is-better"), 0.2, ("litemp", "amp")),
    "fastestdet": Case(("--data", "calib_coco", "--metric", "map50", "--higher-is-better"), 0.5, ("litemp", "amp")),
    "stories": Case(
        ("--data", "calib_stories", "--metric", "perplexity", "--lower-is-better"), 0.05, ("litemp", "amp")
    ),
}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--add", action="store_true", help="keep rows that are recorded and not measured again")
    parser.add_argument("--keep", type=Path, help="folder that the runs stay in")
    args = parser.parse_args()
    found = record.start("auto: every network with the same plain flags")
    path = args.results / "auto.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if args.add and path.exists() else {}
    for name in args.networks:
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = {**run(name, args.keep or Path(scratch)), "measured": found["date"]}
        show(results)
        record.save("auto", args, found, results)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Return what the command says of a network."""
    case = CASES[name]
    flags = [f"{HERE / 'auto_data.py'}:{flag}" if _is_function(flag) else flag for flag in case.flags]
    words = ["auto", str(NETWORKS[name].path), *flags, "--max-drop", str(case.max_drop), "-o", str(folder / name)]
    done = subprocess.run(
        [sys.executable, "-c", "from fewbits.cli.app import main; main()", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=HERE,
    )
    told = json.loads(done.stdout)
    chosen = next(made for made in told["contenders"] if made["name"] == told["chosen"])
    wide = next((made for made in told["contenders"] if made["name"] == "w16a16"), None)
    steps = [fork["step"] for fork in told["forks"]]
    share = chosen["bit_operations"] / wide["bit_operations"] if wide and wide["bit_operations"] else None
    return {
        "finding": told["verdict"]["finding"],
        "steps": steps,
        "chosen": chosen["name"],
        "precision": chosen["precision"],
        "float": told["float_row"]["score"],
        "score": chosen["score"],
        "drop": chosen["drop"],
        "max_drop": case.max_drop,
        "is_met": told["is_met"],
        "is_expected": chosen["step"] in case.expected,
        "share_of_w16a16": share,
        "checks": told["checks"],
        "wall_s": told["wall_s"],
        "peak_mb": told["peak_mb"],
        "told_mb": told_mb(told["preflight"], steps),
        "told_step1_s": told["preflight"]["seconds"],
        "forks": told["forks"],
    }


def told_mb(preflight: dict[str, Any], steps: list[str]) -> float:
    """Return the memory that was told beforehand of the steps that were then made."""
    later = {"litemp": ("litemp", "amp"), "improve": ("improve", "adaround", "narrow")}
    made = [preflight["later_mb"][name] for name, covered in later.items() if set(covered) & set(steps)]
    return float(max([preflight["step1_mb"], *made]))


def _is_function(flag: str) -> bool:
    return not flag.startswith("--") and flag not in ("top1", "top5")


def show(results: dict[str, Any]) -> None:
    rows = [
        (
            name, r["finding"], r["chosen"], r["precision"], r["float"], r["score"], r["drop"],
            record.verdict(r["is_met"]), r["share_of_w16a16"], r["wall_s"], record.verdict(r["wall_s"] <= MOST_S),
            r["peak_mb"], r["told_mb"], record.verdict(abs(r["told_mb"] / r["peak_mb"] - 1) <= MOST_MEMORY),
        )
        for name, r in results.items()
    ]  # fmt: skip
    header = (
        "network", "finding", "chosen", "precision", "float", "score", "drop", "goal", "of w16a16", "s", "time", "MB",
        "told MB", "memory",
    )  # fmt: skip
    record.table(header, rows)


if __name__ == "__main__":
    main()
