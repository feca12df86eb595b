import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from pasted import assert_parses
from typer.testing import CliRunner

import fewbits
from fewbits.analysis.cost import cost_of, sizes_of
from fewbits.artifact import names
from fewbits.cli.app import app
from fewbits.errors import FewbitsError, OutputError, SpecError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.runtime.data import Preprocess
from fewbits.runtime.session import RunOptions
from fewbits.spec.target import load_target
from fewbits.workflow import candidates, ready
from fewbits.workflow.baseline import PRECISIONS, baseline
from fewbits.workflow.export import export
from fewbits.workflow.next_step import next_steps
from fewbits.workflow.verdict import Finding, Verdict
from fewbits.workflow.verify import verify


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline") / "run"
    return baseline(
        tiny.model, data=tiny.calib, eval_data=tiny.evaluation, max_drop=5, output=folder,
        precisions=["w8a8", "w8a16", "w16a16", "fp16", "w4a8"],
    )  # fmt: skip


def test_every_precision_is_scored_as_quantize_scores_it(run, tiny):
    for precision in ("w8a8", "w4a8"):
        alone = fewbits.quantize(tiny.model, precision=precision, data=tiny.calib, eval_data=tiny.evaluation)
        (candidate,) = (c for c in run.candidates if c.precision == precision)
        assert candidate.score.value == alone.score.value
        assert candidate.drop == alone.drop
        assert run.float_score.value == alone.float_score.value


def test_calibration_runs_once_for_all_precisions(run):
    assert run.calibration.statistics.samples == 24
    assert sum(stage == "calibrate" for stage in run.record.timings) == 1


def test_record_tells_scores_costs_and_verdict(run):
    document = json.loads((run.output / names.RECORD).read_text())
    assert document["verb"] == "baseline"
    assert [row["precision"] for row in document["rows"]] == [*PRECISIONS, "w4a8"]
    for row, candidate in zip(document["rows"], run.candidates, strict=True):
        assert row["score"] == candidate.score.value
        assert row["status"] == candidate.status.value
        assert row["latency_s"] is None
    assert document["verdict"]["finding"] == run.verdict.finding.value
    assert document["goal"]["max_drop"] == 5


def test_bit_operations_are_macs_times_widths(run):
    wide = run.record.float_row.bit_operations
    shares = {row.precision: wide // row.bit_operations for row in run.record.rows}
    assert shares == {"w8a8": 16, "w8a16": 8, "w16a16": 4, "fp16": 4, "w4a8": 32}
    # conv1 216 weights, conv2 576 on 8 x 8 pixels; head 32
    assert wide == ((216 + 576) * 64 + 32) * 32 * 32
    sizes = {row.precision: row.weight_bytes for row in run.record.rows}
    assert sizes["w4a8"] < sizes["w8a8"] < sizes["w8a16"] < sizes["w16a16"] < run.record.float_row.weight_bytes


@pytest.mark.parametrize("precision", ["w8a8", "fp16"])
def test_every_candidate_is_an_artifact_of_its_own(run, precision):
    assert verify(run.output / precision).passed
    assert set(names.KNOWN) >= {path.name for path in (run.output / precision).iterdir()}
    assert (run.output / precision / names.COMMANDS).is_file()


def test_open_dimensions_take_their_size_from_the_data():
    text = "g (float[batch, h, 8] x) => (float[batch, h, 4] y) {y = MatMul (x, w)}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 4), np.float32), "w"))
    model = prepare(load_model(proto)).model
    sizes = sizes_of(model, {"x": np.zeros((5, 7, 8), np.float32)})
    assert sizes == {"h": 7}
    assert cost_of(model, model, None, sizes).bit_operations == 7 * 8 * 4 * 1024
    assert cost_of(model, model, None, {}).bit_operations is None


def test_output_folder_of_a_run_comes_back_in_with_its_pins(run, tiny, tmp_path):
    fewbits.quantize(
        tiny.model, precision="w4a8", data=tiny.calib, encodings=run.output / "w4a8" / names.ENCODINGS,
        output=tmp_path / "improved",
    )  # fmt: skip
    again = baseline(tmp_path / "improved", data=tiny.calib, precisions=["w4a8", "w8a8", "fp16"])
    by_name = {c.precision: c for c in again.candidates}
    assert "w1" in by_name["w4a8"].record.pinned
    assert any(
        note.startswith("w8a8: 3 weights are pinned to 4-bit grids and keep their steps in 8 bits")
        for note in again.record.notes
    )
    assert any(note.startswith("fp16: ") and "fit no grid" in note for note in again.record.notes)


def test_what_the_target_lacks_is_left_out_with_the_reason(tiny):
    result = baseline(tiny.model, data=tiny.calib, precisions=["w8a8", "w16a16"], target="qnn-htp-v69")
    assert [c.precision for c in result.candidates] == ["w8a8"]
    assert "w16a16" in result.record.refused["w16a16"]
    with pytest.raises(SpecError, match="w16a16"):
        baseline(tiny.model, data=tiny.calib, precisions=["w16a16"], target="qnn-htp-v69")


def test_label_free_verdict_rests_on_a_stated_threshold(tiny):
    result = baseline(tiny.model, data=tiny.calib, metric="sqnr", precisions=["w8a8", "w8a16"])
    assert result.goal.text == "SQNR of at least 20 dB"
    assert result.verdict.finding is Finding.FINE
    strict = baseline(tiny.model, data=tiny.calib, metric="sqnr", precisions=["w8a8", "w8a16"], min_sqnr=90)
    assert strict.verdict.finding is Finding.INCOMPLETE
    assert strict.verdict.accepted is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": []}, "No precision was named"),
        ({"precisions": ["w9a9"]}, "Unknown precision 'w9a9'"),
        ({"precisions": ["fp32"]}, "fp32 is the float model itself"),
        ({"max_drop": "a lot"}, "is no figure"),
        ({"ranges": "best"}, "best"),
    ],
)
def test_options_are_refused_before_anything_runs(tiny, monkeypatch, options, message):
    monkeypatch.setattr(ready, "open_subject", None)
    with pytest.raises(SpecError, match=message):
        baseline(tiny.model, data=tiny.calib, **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt, FewbitsError("no")])
def test_finished_precisions_stay_where_the_run_is_stopped(tiny, tmp_path, monkeypatch, error):
    original = candidates.quantize_calibrated

    def stopping(calibration, precision, **options):
        if precision == "w16a16":
            raise error
        return original(calibration, precision, **options)

    monkeypatch.setattr(candidates, "quantize_calibrated", stopping)
    with pytest.raises((KeyboardInterrupt, FewbitsError)):
        baseline(tiny.model, data=tiny.calib, output=tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["w8a16", "w8a8"]
    assert verify(tmp_path / "run" / "w8a8").passed
    assert export(tmp_path / "run" / "w8a8", output=tmp_path / "out").precision == "w8a8"


def test_export_takes_what_was_accepted_or_named(run, tmp_path):
    assert run.verdict.accepted is not None
    chosen = export(run.output, output=tmp_path / "a")
    assert (chosen.precision, chosen.why) == (run.verdict.accepted, "the cheapest that the verdict accepted")
    assert verify(tmp_path / "a").passed
    assert export(run.output, output=tmp_path / "b", precision="fp16").precision == "fp16"
    assert (tmp_path / "b" / names.ARTIFACT).read_bytes() == (run.output / "fp16" / names.ARTIFACT).read_bytes()


def test_export_refuses_what_it_cannot_vouch_for(run, tmp_path):
    with pytest.raises(SpecError, match=r"has no 'w4a16': it has w8a8, w8a16, w16a16, fp16, w4a8"):
        export(run.output, output=tmp_path / "o", precision="w4a16")
    with pytest.raises(SpecError, match=r"There is no record\.json in .*nowhere"):
        export(tmp_path / "nowhere", output=tmp_path / "o")
    with pytest.raises(SpecError, match="holds w8a8 only"):
        export(run.output / "w8a8", output=tmp_path / "o", precision="fp16")
    with pytest.raises(SpecError, match="is the run itself"):
        export(run.output / "w8a8", output=run.output / "w8a8")
    copy = tmp_path / "copy"
    export(run.output, output=copy, precision="w8a8")
    (copy / names.FLOAT).write_bytes(b"other")
    with pytest.raises(OutputError, match=r"model\.float\.onnx' is missing or is not the file that was scored"):
        export(copy, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_baseline_is_no_model_and_no_artifact(run, tiny):
    with pytest.raises(SpecError, match=r"is a baseline: name one of its folders, such as .*w8a8"):
        verify(run.output)
    with pytest.raises(FewbitsError, match="of a baseline, the folder of one precision"):
        fewbits.quantize(run.output, data=tiny.calib)


@pytest.mark.parametrize("finding", Finding)
@pytest.mark.parametrize("output", [None, Path("run dir")])
def test_next_steps_are_commands_that_the_program_takes(finding, output):
    options = {
        "model": "my model.onnx", "data": "calib.npz", "eval_data": "eval.npz", "metric": "top1", "max_drop": "0.5%",
        "min_sqnr": None, "target": load_target("ort-cpu"), "samples": 99, "eval_samples": 7, "batch_size": 2,
        "ranges": "minmax", "weight_ranges": "absmax", "bias_correction": False,
        "dims": {"h": 8}, "simplify": False, "output": output,
        "preprocess": Preprocess(resize=256, crop=(224, 224), mean=(0.5, 0.4, 0.3), channel_order="bgr"),
        "higher_is_better": True, "precisions": ("w8a8", "w8a16"), "run_options": RunOptions("cuda", 2),
    }  # fmt: skip
    steps = next_steps(Verdict(finding, "w8a16", "", ()), options, output)
    assert steps
    for _, command in steps:
        assert_parses(command)
    text = " ".join(command for _, command in steps)
    if finding in (Finding.ACTIVATIONS, Finding.WEIGHTS, Finding.BOTH):
        for part in (
            "'my model.onnx'",
            "--samples 99",
            "--target ort-cpu",
            "--resize 256",
            "--crop 224,224",
            "--dim h=8",
            "--provider cuda",
            "--threads 2",
        ):
            assert part in text
    base = {Finding.WEIGHTS: "w8a16", Finding.BOTH: "w8a8"}.get(finding)
    improving = [command for _, command in steps if command.startswith("fewbits improve ")]
    assert [f"--precision {base}" in command for command in improving] == ([] if base is None else [True])


def test_steps_of_data_in_memory_name_them_in_capitals():
    options = {"model": b"", "data": {}, "ranges": "auto", "weight_ranges": "auto", "bias_correction": True}
    steps = next_steps(Verdict(Finding.ACTIVATIONS, "w8a16", "", ()), options, None)
    lines = [command for _, command in steps]
    assert [line.split(" --")[0] for line in lines] == [
        "fewbits quantize MODEL",
        "fewbits litemp MODEL",
        "fewbits analyze MODEL",
    ]
    assert all("--data DATA" in line for line in lines)


def test_command_prints_table_verdict_and_next_steps(tiny, tmp_path):
    words = ["baseline", str(tiny.model), "--data", str(tiny.calib), "--metric", "sqnr", "--precisions", "w8a8,w8a16"]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "r"), "--min-sqnr", "90"])
    assert result.exit_code == 0, result.output
    assert "goal: SQNR of at least 90 dB" in result.output
    assert re.search(r"w8a8 +\d+\.\d+ dB +too much", result.output)
    assert "verdict: not told by these precisions; none accepted" in result.output
    assert "# run all precisions of step 1" in result.output
    out = CliRunner().invoke(app, ["export", str(tmp_path / "r"), "-o", str(tmp_path / "x"), "-p", "w8a8", "--json"])
    assert json.loads(out.output)["precision"] == "w8a8"


def test_command_prints_one_json_object(tiny, tmp_path):
    words = ["baseline", str(tiny.model), "--data", str(tiny.calib), "--precisions", "w8a8", "--json"]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "r")])
    document = json.loads(result.output)
    assert document["rows"][0]["precision"] == "w8a8"
    assert document["next_steps"]
