"""The table of node models in docs/guide.md is the one that was recorded."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_guide_shows_the_recorded_counts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import page_nodes

    assert page_nodes.guide_part() in (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def test_recorded_counts_add_up(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import page_nodes

    results, _ = page_nodes.load("backend_nodes")
    for precision in page_nodes.PRECISIONS:
        found = results[precision]
        assert sum(found["messages of refusals"].values()) == found["models"]["refused"]
        assert sum(found["models"].values()) == results["onnx_cases"]
        assert found["breaches"] == 0
