"""Peak memory of verbs without a ceiling and below one that bites, each in a fresh process; results are compared.

The ceiling lies halfway between what a verb says it needs at least (found by asking for 1 MB) and what it takes without
one; where it says more than it takes, the ceiling is what it says: then nothing bites, and the figure is an upper one.
`auto` may leave steps out below its ceiling, and then has other files.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record

VERBS: Mapping[str, Mapping[str, Any]] = {
    "quantize": {"precision": "w8a8"},
    "baseline": {"precisions": ("w8a8", "w8a16")},
    "analyze": {"precisions": ("w8a8", "w8a16"), "confirm": 2},
    "litemp": {"base": "w8a8", "high": "w8a16", "percents": (10,), "score_all": True},
    "amp": {"candidates": ("w8a8", "w8a16"), "min_sqnr": 60.0, "max_evaluations": 3},
    "improve": {"precision": "w4a8", "methods": "gptq", "auto": False},
    "balance": {"precision": "w4a8", "methods": "balance,gptq", "auto": False},
    "adaround": {"precision": "w4a8", "methods": "adaround"},
    "by block": {"precision": "w4a8", "methods": "adaround"},
    "qat": {"precision": "w4a8"},
    "auto": {"min_sqnr": 40.0},
}
NETWORKS = ("resnet56", "mobilenetv2", "imdn")
SCORED = {"metric": "sqnr", "eval_samples": 8}
MORE = 2.0  # MB above what is told


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--verbs", nargs="*", default=list(VERBS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args, *args.child)))
        return
    found = record.start(f"ceilings: {args.samples} samples, {args.threads} threads")
    path = args.results / "ceilings.json"
    rows = json.loads(path.read_text())["results"]["rows"] if path.exists() else []
    for network in args.networks:
        for verb in args.verbs:
            rows = [row for row in rows if (row["network"], row["verb"]) != (network, verb)]
            rows.append({**one(args, network, verb), "measured": found["date"], "commit": found["commit"]})
            print(rows[-1], flush=True)
            record.save("ceilings", args, found, {"rows": rows})
    show(rows)


def one(args: argparse.Namespace, network: str, verb: str) -> dict[str, Any]:
    """Return the peaks of one verb on one network, and how far its results are apart."""
    free, held, told = child(args, network, verb, "-"), child(args, network, verb, "1MB"), 0
    while "told_mb" in held:  # `auto` refuses twice: before anything runs, and behind its preflight
        told = max(told, held["told_mb"])
        ceiling = round(max((free["peak_mb"] + told) / 2, told + MORE))
        held = child(args, network, verb, f"{ceiling}MB")
    figures = [(a, held["figures"][key]) for key, a in free["figures"].items()]
    apart = max((abs(a - b) / max(abs(a), 1e-30) for a, b in figures), default=0.0)
    return {
        "network": network, "verb": verb, "samples": args.samples, "free_mb": free["peak_mb"], "told_mb": told,
        "ceiling_mb": ceiling, "held_mb": held["peak_mb"], "free_s": free["wall_s"], "held_s": held["wall_s"],
        "is_equal": free["files"] == held["files"] and apart == 0, "apart": apart,
        **({"steps": free["steps"], "held_steps": held["steps"]} if free["steps"] else {}),
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table, and whether every ceiling held."""
    names = ("network", "verb", "free_mb", "told_mb", "ceiling_mb", "held_mb", "is_equal", "apart", "free_s", "held_s")
    record.table(names, [[row[name] for name in names] for row in rows])
    is_held = all(row["held_mb"] <= row["ceiling_mb"] for row in rows)
    print(f"below every ceiling: {record.verdict(is_held)}; equal: {record.verdict(all(r['is_equal'] for r in rows))}")


def child(args: argparse.Namespace, network: str, verb: str, memory: str) -> dict[str, Any]:
    """Return what one fresh process measured."""
    given = ("--samples", str(args.samples), "--threads", str(args.threads), "--child", network, verb, memory)
    done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(args: argparse.Namespace, name: str, verb: str, memory: str) -> dict[str, Any]:
    """Return the peak of this process, seconds, and what the verb wrote; or what it says it needs."""
    import fewbits
    from fewbits.errors import SpecError
    from fewbits.improvement.methods import Effort
    from fewbits.runtime.memory import peak_mb
    from fewbits.runtime.session import RunOptions
    from fewbits.training.schedule import Training
    from networks import NETWORKS as KNOWN
    from networks import RESNET20

    network, begin = {**KNOWN, "resnet20": RESNET20}[name], time.perf_counter()
    options = {**VERBS[verb], **({} if verb == "analyze" else SCORED)}
    if verb in ("adaround", "by block"):
        options["effort"] = Effort(iterations=20, granularity="block" if verb == "by block" else "layer")
    if verb == "qat":
        options["training"] = Training(steps=20)
    others = {"qat": fewbits.qat.train, "balance": fewbits.improve, "by block": fewbits.adaround}
    call = others[verb] if verb in others else getattr(fewbits, verb)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        try:
            call(
                network.path, data=lambda: network.calibration(args.samples), samples=args.samples, output=output,
                run_options=RunOptions(threads=args.threads), memory=None if memory == "-" else memory, **options,
            )  # fmt: skip
        except SpecError as error:
            figure = re.search(r"take (\d+) MB", str(error))
            if figure is None or memory == "-":
                raise
            return {"told_mb": int(figure[1])}
        files = {str(p.relative_to(output)): digest(p) for p in sorted(output.rglob("*")) if is_result(p)}
        document = json.loads((output / "record.json").read_text())
    figures = {
        f"{group['name']}/{precision}/{part}": one["error"]
        for group in document.get("groups") or ()
        for precision, parts in group.get("figures", {}).items()
        for part, one in parts.items()
    }
    return {
        "peak_mb": round(peak_mb() or 0.0, 1), "wall_s": round(time.perf_counter() - begin, 1), "files": files,
        "figures": figures, "steps": [fork["step"] for fork in document.get("forks") or ()],
    }  # fmt: skip


def is_result(path: Path) -> bool:
    """Whether a file is of those that are the same in every run."""
    return path.suffix == ".onnx" or path.name.endswith("encodings.json")


def digest(path: Path) -> str:
    """Return a hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
