"""What the sections of docs/results.md share: recorded results in, Markdown out."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def load(name: str) -> tuple[dict[str, Any], str]:
    """Return results and the line that says when and where they were measured."""
    stored = json.loads((HERE / "results" / f"{name}.json").read_text())
    m = stored["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items() if k in ("onnxruntime", "numpy"))
    return stored["results"], f"*{m['date'][:10]}, {m['cpu']}, {m['cores']} cores, {versions}, commit {m['commit']}*\n"


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(str(c) for c in row) + " |\n" for row in lines)


def decimals(network: str) -> int:
    """Return the decimals of a network's scores."""
    return 3 if network in ("imdn", "stories") else 2
