"""What every benchmark shares: its command line, the machine it ran on, and the JSON that it leaves behind."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = ("fewbits", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxslim")


def parser(description: str, *, repeats: int = 1) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--threads", type=int, default=2, help="intra-op threads of every session")
    made.add_argument("--repeats", type=int, default=repeats, help="rounds of every measurement, taken in turn")
    made.add_argument("--results", type=Path, default=HERE / "results", help="folder for the JSON")
    return made


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Return date, processor and versions: what a figure must be read with."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {p: v for p in packages if (v := _version(p))},
        "commit": _commit(),
    }


def start(title: str) -> dict[str, Any]:
    """Print the title and the machine, and return the machine as it was before the run."""
    found = machine()
    versions = " ".join(f"{k} {v}" for k, v in found["versions"].items())
    print(f"# {title}\n{found['date']}  {found['cpu']}, {found['cores']} cores, load {found['load_1min']}")
    print(f"{found['system']}, python {found['python']}, {versions}, commit {found['commit']}\n", flush=True)
    return found


def save(name: str, args: argparse.Namespace, found: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write results/<name>.json and return its path."""
    options = {k: v for k, v in vars(args).items() if k != "results" and not isinstance(v, Path)}
    path: Path = args.results / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": found, "options": options, "results": results}, indent=1)
    path.write_text(text + "\n")
    print(f"\nwritten: {path.name}", flush=True)
    return path


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns; floats get three significant decimals."""
    texts = [list(header), *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))
    print(flush=True)


def verdict(is_met: bool) -> str:
    """Return the word that a table shows for a limit."""
    return "pass" if is_met else "MISS"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return "-" if value is None else str(value)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    wide = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f in flags]
    return f"{name or platform.processor() or 'unknown processor'} ({' '.join(wide)})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    try:
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
