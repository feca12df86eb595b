"""The section of step 4."""

from dataclasses import replace

import pytest
from sample_records import SHARED, baseline_record
from test_page import Reader, page_of

from fewbits.reporting.html.improvements import improved
from fewbits.reporting.html.sources import Source
from fewbits.reporting.record import RunRecord

CLE = {
    "name": "cle", "seconds": 0.5, "changed": 0, "declined": {"no pair": ["a", "b<i>"]}, "objective": None,
    "layers": [], "output": None, "score": None, "kept": False, "reason": "it changed nothing",
}  # fmt: skip
GPTQ = {
    "name": "gptq", "seconds": 12.0, "changed": 2, "declined": {}, "objective": [0.01, 0.001],
    "layers": [["a", 0.1, 0.001], ["b<i>", 0.01, 0.0]], "output": {"error": 0.05, "sqnr_db": 14.0}, "score": 71.0,
    "kept": True, "reason": "",
}  # fmt: skip


def run_record(**changes):
    improvement = {
        "precision": "w4a8", "methods": [CLE, GPTQ], "float": 71.87, "before": 68.1, "after": 71.0,
        "output_before": {"error": 0.1, "sqnr_db": None}, "evaluations": 2,
        "next_steps": [["check what is handed over", "fewbits verify out"]],
    }  # fmt: skip
    scores = {
        "metric": "top1", "unit": "%", "higher_is_better": True, "float": 71.87, "quantized": 71.0, "drop": 0.87,
        "drop_interval": [0.2, 1.4], "samples": 2000, "is_on_calibration_data": False,
    }  # fmt: skip
    facts = {
        "verb": "adaround", **SHARED, "precision": {"w4a8": 9}, "declined": {}, "profile": {}, "scores": scores,
        "widened": {}, "notes": (), "pinned": ("w",), "trials": (), "files": {}, "improvement": improvement,
    }  # fmt: skip
    return RunRecord(**(facts | changes))


def test_the_section_is_there_only_where_weights_were_improved():
    assert "weights" in Reader(page_of(run_record())).ids
    assert "weights" in Reader(page_of(run_record(), baseline_record())).ids
    for record in (run_record(improvement={}), baseline_record()):
        page = page_of(record)
        assert "weights" not in Reader(page).ids
        assert "#weights" not in page


def test_every_method_is_a_row_below_what_was_before():
    page = page_of(run_record())
    assert 'href="#weights"' in page
    assert "w4a8: 68.10\N{NO-BREAK SPACE}% before, 71.00\N{NO-BREAK SPACE}% after" in page
    assert "it changed nothing" in page
    assert "b&lt;i&gt;" in page
    assert "<i>" not in page.split('id="weights"')[1].split("</section>")[0]
    assert "fewbits verify out" in page


def test_layers_are_drawn_on_one_logarithmic_axis():
    (run,) = improved([Source("out", run_record())])
    before, cle, gptq = run.rows
    assert (before.name, before.error, before.sqnr, before.is_kept) == ("none", "0.10", "", False)
    assert (cle.bars, cle.is_last, cle.declined) == ((), False, (("no pair", "a, b<i>"),))
    assert (gptq.is_last, gptq.objective) == (True, "0.01 to 0.001")
    (first, second) = gptq.bars
    assert (first.left, first.right) == (394.0, 6.0)
    assert (second.left, second.right) == (200.0, 6.0)  # zero is at the end
    assert gptq.ends == ("0.001", "0.10")


@pytest.mark.parametrize("layers", [[["a", None, None]], [["a", 0.0, 0.0]], [["a", 0.5, 0.5]]])
def test_layers_without_figures_do_no_harm(layers):
    record = run_record()
    record = replace(record, improvement={**record.improvement, "methods": [{**GPTQ, "layers": layers}]})
    assert "Step 4: better weights" in page_of(record)
