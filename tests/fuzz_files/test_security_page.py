"""docs/security.md: the tests that it names are there, and its figures are those that were recorded."""

import json
import re
from pathlib import Path

from file_kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FOUND = json.loads((ROOT / "benchmarks" / "results" / "fuzz_files.json").read_text())["results"]


def test_every_test_that_the_page_names_is_there():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert not [name for name in named if not any(f"def {name}(" in text for text in texts.values())]
    assert set(re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)`", PAGE)) <= set(texts)


def test_the_figures_are_those_that_were_recorded():
    total = FOUND["total"]
    assert total["tried"] >= 10_000
    assert (total["unexpected"], total["crashed"], FOUND["said"]) == (0, 0, [])
    assert set(FOUND["kinds"]) == set(KINDS)
    for name, row in FOUND["kinds"].items():
        cells = (name, row["tried"], row["read"], row["refused"], f"{row['slowest_ms']:.0f}", f"{row['peak_mb']:.0f}")
        assert f"| {' | '.join(map(str, cells))} |" in PAGE, name
    assert f"{total['tried']:,} damaged files" in PAGE
