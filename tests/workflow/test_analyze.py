"""The verb analyze: its record and page, measured figures, its command, and what is refused."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from fewbits.analysis.sensitivity import PARTS
from fewbits.artifact import names
from fewbits.cli.app import app
from fewbits.errors import FewbitsError, MissingExtraError, SpecError
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.read import read_any
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE
from fewbits.workflow import analyze as module
from fewbits.workflow.analyze import analyze
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.quantized import quantize_calibrated

torch = pytest.importorskip("torch")

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
GROUPS = ["conv1", "conv2", "add", "mul", "pool", "head"]
OPTIONS = RunOptions(threads=1)
BRUTE = {"method": "brute-force", "precisions": ["w8a8"], "analysis_samples": 4, "samples": 8, "run_options": OPTIONS}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return analyze(
        DIGITS / "digits.onnx", data=DIGITS / "calib.npz", precisions=["w8a8", "w8a16"], analysis_samples=16,
        samples=64, confirm=3, worst=4, ranges="minmax", output=tmp_path_factory.mktemp("analyze") / "run",
        run_options=OPTIONS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    return analyze(
        tiny.model, data=tiny.calib, precisions=["w8a8", "fp16"], method="brute-force", analysis_samples=12,
        output=tmp_path_factory.mktemp("measured"), run_options=OPTIONS,
    )  # fmt: skip


def command(tiny, *words):
    given = ["analyze", tiny.model, "--data", tiny.calib, "--analysis-samples", 8, "--threads", 1, *words]
    return CliRunner().invoke(app, [str(word) for word in given])


def content(folder):
    """Return what a run wrote for people; the store of measured errors may stay for the next run."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != STORE}


def test_the_record_reads_back(digits, measured):
    for result in (digits, measured):
        record = read_any(result.output / names.RECORD)
        assert isinstance(record, AnalysisRecord)
        assert record.to_json() == result.record.to_json() == (result.output / names.RECORD).read_text()
        assert (record.verb, record.target, record.output_names) == ("analyze", "qnn-htp-v73", ("logits",))


def test_the_page_holds_the_groups(digits, measured):
    for result in (digits, measured):
        page = (result.output / "report.html").read_text()
        assert page.startswith("<!")
        assert all(row.name in page for row in result.record.groups)


def test_nothing_else_is_written(digits):
    assert sorted(content(digits.output)) == [names.RECORD, "report.html"]


def test_every_stage_is_timed(digits, measured):
    common = {"prepare", "calibrate", "quantize w8a8", "brute force", "look at tensors"}
    assert set(digits.record.timings) == {*common, "quantize w8a16", "one pass"}
    assert set(measured.record.timings) == {*common, "quantize fp16"}


def test_figures_of_the_record_are_those_of_the_sensitivity(digits):
    found, record = digits.sensitivity, digits.record
    assert (record.method, record.samples, record.probes) == ("one-pass", 16, found.probes)
    assert record.precisions == found.precisions == ("w8a8", "w8a16")
    assert [row.name for row in record.groups] == [group.name for group in found.groups]
    assert len(record.groups) == 69
    for row in record.groups:
        for precision in record.precisions:
            assert set(row.figures[precision]) == set(PARTS)
            for part, given in row.figures[precision].items():
                figure = found.figure(row.name, precision, part)
                assert (given.error, given.sqnr_db) == (figure.error, figure.sqnr_db)
                assert (given.low_db, given.high_db) == figure.interval_db
                assert given.low_db <= given.sqnr_db <= given.high_db


def test_rows_tell_what_a_group_is(digits):
    row = next(row for row in digits.record.groups if row.name == "node_Conv_473")
    assert (row.op, row.nodes, row.precision) == ("Conv", ("node_Conv_473",), "w8a8")
    assert row.macs == 16 * 64 * 8 * 8
    assert row.weights == 16 * 64 + 64


def test_the_most_sensitive_groups_are_measured_by_real_runs(digits):
    rows = {row.name: row.measured for row in digits.record.groups if row.measured}
    estimated = sorted(digits.record.groups, key=lambda row: -row.figures["w8a8"]["all"].error)
    assert set(rows) == {row.name for row in estimated[:3]}
    made = quantize_calibrated(digits.calibration, "w8a8", ranges="minmax")
    truth = brute_force(digits.calibration, [made], samples=16, groups=list(rows))
    for name, given in rows.items():
        assert given == {"w8a8": truth.figure(name, "w8a8").sqnr_db}
        assert digits.sensitivity.error(name, "w8a8") == truth.error(name, "w8a8")


def test_nothing_is_measured_where_nobody_asks(tiny):
    result = analyze(
        tiny.model, data=tiny.calib, method="one-pass", precisions=["W8A8", "w8a8"], confirm=0, run_options=OPTIONS
    )
    assert result.output is None
    assert result.record.precisions == ("w8a8",)
    assert not any(row.measured for row in result.record.groups)


def test_brute_force_measures_everything(measured):
    record = measured.record
    assert (record.method, record.samples, record.probes) == ("brute-force", 12, 0)
    truth = brute_force(
        measured.calibration, [quantize_calibrated(measured.calibration, p) for p in record.precisions], samples=12,
        parts=PARTS,
    )  # fmt: skip
    assert [row.name for row in record.groups] == GROUPS
    for row in record.groups:
        assert row.measured == {}
        assert set(row.figures["w8a8"]) == set(PARTS)
        assert set(row.figures["fp16"]) == {"all"}
        for precision, figures in row.figures.items():
            for part, figure in figures.items():
                assert figure.error == truth.figures[row.name, precision, part].error
                assert figure.low_db == figure.high_db == figure.sqnr_db


def test_tensors_and_findings_are_those_of_the_first_precision(digits):
    rows = {row.name: row for row in digits.record.tensors}
    assert list(rows) == list(digits.facts.tensors)
    assert rows["add_141"].bits == 8
    assert rows["blocks.3.body.0.weight"].role == "weight"
    assert len(digits.record.diagnoses) == len(digits.findings) <= 4
    for finding, told in zip(digits.findings, digits.record.diagnoses, strict=True):
        assert (finding.group, finding.cause, finding.sentence) == (told.group, told.cause, told.sentence)
        assert finding.group in {row.name for row in digits.record.groups}


def test_stages_are_told(tiny):
    told = []

    class Watcher:
        def __call__(self, stage, samples):
            told.append([stage, samples, 0])
            return self

        def advance(self, samples):
            told[-1][2] += samples

    analyze(tiny.model, data=tiny.calib, precisions=["w8a8"], method="one-pass", analysis_samples=8, confirm=2,
            run_options=OPTIONS, progress=Watcher())  # fmt: skip
    assert [stage for stage, _, _ in told] == [
        "prepare", "calibrate", "quantize w8a8", "one pass", "brute force w8a8", "look at tensors"
    ]  # fmt: skip
    assert told[3] == ["one pass", 8, 8]
    assert told[4] == ["brute force w8a8", 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": []}, "No precision was named: write --precisions w8a8"),
        ({"precisions": ["w8a8", "w9a9"]}, "Unknown precision 'w9a9'"),
        ({"precisions": ["fp32"]}, "fp32 is the float model itself"),
        ({"method": "two-pass"}, "Unknown method 'two-pass'"),
        ({"analysis_samples": 0}, "--analysis-samples 0 is impossible"),
        ({"probes": 0}, "--probes 0 is impossible"),
        ({"confirm": -1}, "--confirm -1 is impossible"),
        ({"worst": -1}, "--worst -1 is impossible"),
        ({"ranges": "best"}, "best"),
    ],
)
def test_options_are_refused_before_anything_runs(tiny, monkeypatch, tmp_path, options, message):
    monkeypatch.setattr(module, "open_subject", None)
    with pytest.raises(SpecError, match=message) as caught:
        analyze(tiny.model, data=tiny.calib, output=tmp_path / "run", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "limit of 0 is impossible"),
        ({"outputs": ["scores"]}, "The model has no output 'scores': it has logits"),
        ({"precisions": ["w16a16"], "target": "qnn-htp-v69"}, "w16a16"),
    ],
)
@pytest.mark.parametrize("method", ["one-pass", "brute-force"])
def test_what_does_not_fit_the_model_is_refused(tiny, tmp_path, method, options, message):
    with pytest.raises(FewbitsError, match=message):
        analyze(tiny.model, data=tiny.calib, output=tmp_path / "run", **{**BRUTE, "method": method, **options})
    assert content(tmp_path) == {}


def test_without_torch_one_pass_is_refused_and_brute_force_runs(tiny, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else original(name))
    for name in ("fewbits.analysis.torch_sensitivity", "fewbits.runtime.torch_graph", "torch"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_subject", None)
        with pytest.raises(MissingExtraError, match=r"fewbits\[torch\]"):
            analyze(tiny.model, data=tiny.calib, method="one-pass")
    for method in ("brute-force", "auto"):
        assert analyze(tiny.model, data=tiny.calib, **{**BRUTE, "method": method}).record.method == "brute-force"


@pytest.mark.parametrize("stage", ["brute_force", "tensor_facts", "diagnose", "report"])
def test_an_interrupted_run_leaves_nothing_half_written(tiny, tmp_path, monkeypatch, stage):
    def stopping(*arguments, **options):
        raise KeyboardInterrupt

    folder = tmp_path / "deep" / "run"
    monkeypatch.setattr(module, stage, stopping)
    with pytest.raises(KeyboardInterrupt):
        analyze(tiny.model, data=tiny.calib, output=folder, **BRUTE)
    assert content(tmp_path) == {}


def test_an_interrupted_run_leaves_an_earlier_one_as_it_was(tiny, tmp_path, monkeypatch):
    analyze(tiny.model, data=tiny.calib, output=tmp_path, **BRUTE)
    before = content(tmp_path)

    def stopping(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "diagnose", stopping)
    with pytest.raises(KeyboardInterrupt):
        analyze(tiny.model, data=tiny.calib, output=tmp_path, **BRUTE)
    assert content(tmp_path) == before


def test_runs_over_themselves(tiny, tmp_path):
    first = analyze(tiny.model, data=tiny.calib, output=tmp_path, **BRUTE)
    again = analyze(tiny.model, data=tiny.calib, output=tmp_path, **{**BRUTE, "analysis_samples": 5})
    assert (first.record.samples, again.record.samples) == (4, 5)
    assert read_any(tmp_path / names.RECORD).samples == 5
    assert sorted(content(tmp_path)) == [names.RECORD, "report.html"]


def test_command_prints_table_findings_and_page(tiny, tmp_path):
    result = command(tiny, "-o", tmp_path / "r", "--precisions", "w8a8,w4a8", "--method", "one-pass", "--confirm", 2)
    assert result.exit_code == 0, result.output
    record = read_any(tmp_path / "r" / names.RECORD)
    assert f"{tiny.model} for qnn-htp-v73: 6 groups, one-pass\n" in result.output  # a long path does not wrap the line
    confirmed = [row for row in record.groups if row.measured]
    assert len(confirmed) == 2
    for row in confirmed:
        (line,) = re.findall(rf"^.*\b{row.name} +{row.op} .*$", result.output, re.MULTILINE)
        assert f"{row.figures['w8a8']['all'].sqnr_db:.1f}" in line
        assert f"{row.measured['w8a8']:.1f}" in line
    listed = re.findall(rf"\b({'|'.join(GROUPS)}) +(?:Conv|Add|Mul|Global|Gemm)", result.output)
    assert sorted(listed) == sorted(GROUPS)
    assert "report.html" in result.output


def test_command_prints_one_json_object(tiny, tmp_path):
    result = command(tiny, "-o", tmp_path / "r", "--precisions", "w8a8", "--json")
    document = json.loads(result.stdout)
    stored = json.loads((tmp_path / "r" / names.RECORD).read_text())
    assert document.pop("output") == str(tmp_path / "r")
    assert document == stored
    assert [row["name"] for row in document["groups"]] == GROUPS
    assert document["options"]["analysis_samples"] == 8


def test_command_can_be_quiet(tiny, tmp_path):
    result = command(tiny, "-o", tmp_path / "r", "--precisions", "w8a8", "--method", "brute-force", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precisions", "w9a9"], "Unknown precision 'w9a9'"),
        (["--precisions", "w8a8,fp32"], "fp32 is the float model itself"),
        (["--precisions", ","], "No precision was named"),
        (["--method", "best"], "Unknown method 'best'"),
        (["--outputs", "scores"], "no output 'scores'"),
        (["--device", "abacus"], "on the device 'abacus'"),
    ],
)
def test_command_refuses_in_one_sentence(tiny, tmp_path, words, message):
    result = command(tiny, "-o", tmp_path / "r", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert content(tmp_path) == {}


def test_a_network_of_integers_is_refused(tmp_path):
    """There is nothing to quantize, and no float output to judge by."""
    text = "g (int64[N, 2] x) => (int64[N, 2] y) { y = Add (x, x) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    with pytest.raises(SpecError, match="No output to judge by: y hold no floats"):
        analyze(model, data={"x": np.arange(8).reshape(4, 2)}, output=tmp_path / "run", run_options=OPTIONS)
    assert content(tmp_path) == {}
