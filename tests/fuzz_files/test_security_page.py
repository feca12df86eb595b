"""docs/security.md: the tests that it names are there, and its figures are those that were recorded."""

import json
import re
from pathlib import Path
from typing import Any

from file_kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
RUNS = {"fuzz_files_1": 1_000_000, "fuzz_files_2": 2_000_000, "fuzz_files_3": 3_000_000, "fuzz_files": 4_000_000}
"""Record -> number of its first case."""


def recorded(name: str) -> dict[str, Any]:
    """Return the recorded run of that name."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def test_every_test_that_the_page_names_is_there():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert not [name for name in named if not any(f"def {name}(" in text for text in texts.values())]
    assert set(re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)`", PAGE)) <= set(texts)


def test_the_figures_are_those_that_were_recorded():
    for name, first in RUNS.items():
        run, total = recorded(name), recorded(name)["results"]["total"]
        assert run["options"]["first"] == first
        assert total["tried"] >= 10_000
        assert len(run["results"]["said"]) == total["unexpected"] + total["crashed"]
        assert f"| {first:,} | {total['tried']:,} | {total['unexpected']} | {total['crashed']} |" in PAGE
    kinds = recorded("fuzz_files")["results"]["kinds"]
    assert set(kinds) == set(KINDS)
    for name, row in kinds.items():
        counts = [row[key] for key in ("tried", "read", "refused", "unexpected")]
        cells = (name, *counts, f"{row['slowest_ms']:.0f}", f"{row['peak_mb']:.0f}")
        assert f"| {' | '.join(map(str, cells))} |" in PAGE, name
