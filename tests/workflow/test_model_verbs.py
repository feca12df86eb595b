import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.artifact import names
from fewbits.errors import MetricError, ModelError, SpecError
from fewbits.reporting.record import plain, read_record
from fewbits.workflow.evaluate import evaluate
from fewbits.workflow.inspect import inspect
from fewbits.workflow.prepare import prepare
from fewbits.workflow.targets import targets


def test_prepare_writes_an_equivalent_model(tiny, tmp_path):
    result = prepare(tiny.model, output=tmp_path / "p.onnx", data=tiny.calib, samples=5)
    assert onnx.load(tmp_path / "p.onnx").graph.output[0].name == "logits"
    assert result.parity.feeds == "the data"
    assert result.parity.samples == 5
    assert result.parity.max_abs["logits"] < 1e-5


def test_prepare_labels_random_feeds_as_such_and_repeats_them(tiny):
    first, second = prepare(tiny.model), prepare(tiny.model)
    assert first.parity.feeds == "random feeds"
    assert first.parity == second.parity
    assert first.output is None


def test_prepare_says_why_nothing_was_compared():
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> g (float[T] x) => (float[1, 7] y) '
        "<int64[2] s = {1, 7}> { y = Reshape(x, s) }"
    )
    result = prepare(onnx.parser.parse_model(text))
    assert "could not run the model" in result.parity.reason


def test_inspect_says_what_a_target_quantizes_and_why_not(tiny):
    result = inspect(tiny.model)
    rows = {row.op: row for row in result.operators}
    assert (rows["Conv"].nodes, rows["Conv"].quantized) == (2, 2)
    assert rows["Erf"].quantized == 0
    assert rows["Erf"].reasons == {"HTP has no integer Erf outside a Gelu": 1}
    assert result.summary.total_macs == (8 * 3 + 8 * 8) * 9 * 64 + 4 * 8
    assert inspect(tiny.model, target="ort-cpu").target == "ort-cpu"


def test_inspect_takes_an_output_folder(quantized_folder):
    assert inspect(quantized_folder).summary.operators["Conv"] == 2


def test_evaluate_scores_any_file(tiny, quantized_folder):
    assert evaluate(tiny.model, data=tiny.evaluation).score.value == 100.0
    result = evaluate(quantized_folder, data=tiny.evaluation, metric="sqnr")
    assert result.model.endswith(names.ARTIFACT)
    assert str(result.reference).endswith(names.FLOAT)
    assert 10 < result.score.value < 60
    same = evaluate(tiny.model.read_bytes(), data=tiny.calib, metric="agreement", reference=tiny.model, samples=7)
    assert same.score.value == 100.0
    assert same.score.samples == 7


def test_evaluate_needs_a_reference_for_sqnr(tiny):
    with pytest.raises(MetricError, match="--reference"):
        evaluate(tiny.model, data=tiny.calib, metric="sqnr")


def test_evaluate_fixes_dimensions(tiny):
    result = evaluate(tiny.model, data=tiny.evaluation, dims={"N": 4})
    assert result.score.samples == 40
    with pytest.raises(SpecError, match="no open dimension 'M'"):
        evaluate(tiny.model, data=tiny.evaluation, dims={"M": 4})


def test_a_missing_model_is_named():
    with pytest.raises(ModelError, match=r"'none\.onnx' does not exist"):
        inspect("none.onnx")


def test_targets_lists_every_profile():
    assert {"ort-cpu", "qnn-htp-v73"} <= {target.name for target in targets()}


def test_read_record_refuses_what_is_no_record(tmp_path):
    path = tmp_path / "record.json"
    for text, match in (("{", "cannot be read"), ("[]", "cannot be read"), ('{"schema": 99}', "newer fewbits")):
        path.write_text(text)
        with pytest.raises(SpecError, match=match):
            read_record(path)


def test_plain_keeps_json_valid(tmp_path):
    assert plain({"a": float("inf"), "b": (1, tmp_path), "c": {2: None}, "d": np.float64(1.5)}) == {
        "a": None, "b": [1, str(tmp_path)], "c": {"2": None}, "d": 1.5,
    }  # fmt: skip
