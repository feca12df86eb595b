"""What becomes of a model with an operator that onnxruntime has and the torch executor lacks."""

import numpy as np
import onnx
import pytest

import fewbits
from fewbits.errors import MissingOperatorError, SpecError

HEAD = (
    '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) '
)
BODY = (
    "{ a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = Relu (a) c = Conv (b, w2) d = com.microsoft.QuickGelu (c) "
    "y = Conv (d, w3) }"
)
LACKING = "has no operator com.microsoft::QuickGelu, which node"


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(HEAD + BODY)
    shapes = {"w1": (6, 3, 3, 3), "w2": (6, 6, 1, 1), "w3": (4, 6, 1, 1)}
    for name, shape in shapes.items():
        array = (rng.standard_normal(shape) * np.geomspace(0.1, 1, shape[0]).reshape(-1, 1, 1, 1)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(made)
    return made


@pytest.fixture
def given():
    x = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    return {"data": {"x": x}, "samples": 16}


def test_groups_are_ranked_by_brute_force_and_it_is_said(model, given, caplog):
    found = fewbits.analyze(model, precisions=("w8a8",), **given)
    assert found.sensitivity.method == "brute-force"
    assert LACKING in caplog.text


def test_one_pass_that_was_asked_for_is_refused(model, given):
    with pytest.raises(MissingOperatorError, match=LACKING):
        fewbits.analyze(model, precisions=("w8a8",), method="one-pass", **given)


def test_searches_rank_by_brute_force(model, given, caplog):
    found = fewbits.litemp(model, base="w8a8", high="w8a16", metric="sqnr", score_all=True, **given)
    assert len(found.steps) > 1
    fewbits.amp(model, candidates=("w8a8", "w8a16"), metric="sqnr", min_sqnr=45.0, max_evaluations=3, **given)
    assert caplog.text.count(LACKING) == 2


def test_improve_keeps_what_needs_no_torch_and_says_why_the_rest_was_not_tried(model, given):
    found = fewbits.improve(model, precision="w8a8", metric="sqnr", target="ort-cpu", **given)
    reasons = {row.name: row.reason for row in found.methods}
    assert LACKING in reasons["gptq"]
    assert LACKING not in reasons["cle"]


def test_a_method_that_was_named_is_refused(model, given):
    with pytest.raises(MissingOperatorError, match=LACKING):
        fewbits.improve(model, precision="w4a8", methods="gptq", metric="sqnr", **given)


def test_nothing_to_improve_names_the_operator(given):
    alone = onnx.parser.parse_model(HEAD + "{ d = com.microsoft.QuickGelu (x) y = Conv (d, w3) }")
    wide = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    alone.graph.initializer.append(onnx.numpy_helper.from_array(wide, "w3"))
    with pytest.raises(SpecError, match=LACKING):
        fewbits.improve(alone, precision="w4a8", metric="sqnr", **given)


@pytest.mark.parametrize("goal", ["enough", "smallest"])
def test_auto_comes_to_its_end(model, given, tmp_path, caplog, goal):
    found = fewbits.auto(model, metric="sqnr", min_sqnr=60.0, goal=goal, output=tmp_path / "out", **given)
    assert found.record.is_met
    assert LACKING in caplog.text
    assert any(LACKING in fork.found for fork in found.record.forks)
