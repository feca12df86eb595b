"""Compile, estimate and emulate the example with Qualcomm's own tools, where they are installed."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewbits.artifact import names
from fewbits.cli.app import app
from fewbits.deployment.qnn_graph import CompiledTypes
from fewbits.deployment.qnn_profile import Estimate
from fewbits.errors import ModelError, SpecError
from fewbits.graph.load import load_model
from fewbits.graph.save import save_model
from fewbits.runtime.session import RunOptions
from fewbits.spec.soc import find_soc
from fewbits.workflow.compile import CompileResult, estimate, open_job
from fewbits.workflow.compile import compile as compile_model
from fewbits.workflow.quantize import quantize
from fewbits.workflow.verify import verify

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
DIMS = {"batch": 1}
has_torch = importlib.util.find_spec("torch") is not None
needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="needs Qualcomm's backend: pip install '.[qnn]'"
)


@pytest.fixture(scope="module", params=["w8a8", "w8a16", "fp16"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qnn") / request.param
    quantize(
        DIGITS / "digits.onnx", precision=request.param, data=DIGITS / "calib.npz", metric="sqnr", ranges="mse",
        samples=32, run_options=RunOptions(threads=1), output=folder,
    )  # fmt: skip
    return folder


@needs_qnn
def test_every_operator_is_compiled_in_its_type(run, tmp_path):
    made = compile_model(run, soc="sm8650", dims=DIMS, output=tmp_path, dlc=True)
    assert made.passed
    assert made.types.checked >= 60
    assert {path.name for path in tmp_path.iterdir()} == {
        "context.onnx", "context_qnn.bin", "model.dlc", "compile.json",
    }  # fmt: skip
    assert made.binary_bytes == (tmp_path / "context_qnn.bin").stat().st_size
    report = json.loads((tmp_path / "compile.json").read_text())
    assert report["soc"]["id"] == 57
    assert report["dims"] == DIMS


@needs_qnn
def test_nothing_but_the_report_is_left_where_types_differ(run, tmp_path, monkeypatch):
    compile_model(run, soc="sm8650", dims=DIMS, output=tmp_path, dlc=True)
    wrong = CompiledTypes({"float32": 1}, 1, (), (("head", "Gemm", "uint8", "float32"),))
    monkeypatch.setattr("fewbits.workflow.compile.compiled_types", lambda model, folder: wrong)
    words = ["compile", str(run), "--soc", "sm8650", "--dim", "batch=1", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "1 operators were compiled in another type" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["compile.json"]


@needs_qnn
def test_estimates_repeat_and_are_remembered(run):
    first = estimate(run, soc="soc77", dims=DIMS)
    again = estimate(run, soc=77, dims=DIMS)
    anew = compile_model(run, soc=77, dims=DIMS).estimate
    assert (first.is_cached, again.is_cached) == (False, True)
    assert first.estimate == again.estimate == anew
    assert 0 < first.estimate.low_us <= first.estimate.latency_us <= first.estimate.high_us


def test_an_estimate_is_of_these_weights(run, tmp_path, monkeypatch):
    compiled, known = [], []

    def count(model, **_options):
        compiled.append(model)
        return CompileResult(find_soc("soc77"), CompiledTypes({}, 0, (), ()), Estimate(*range(1, 8), 0), 1, {}, {})

    monkeypatch.setattr("fewbits.workflow.compile.need_qnn", lambda: None)
    monkeypatch.setattr("fewbits.workflow.compile.compile", count)
    save_model(load_model(run / names.ARTIFACT), tmp_path / names.ARTIFACT, external_bytes=0)
    for changes in (False, False, True):
        if changes:
            weights = next(tmp_path.glob("*.data"))
            weights.write_bytes(bytes(weights.stat().st_size))
        known.append(estimate(tmp_path, soc="soc77", dims=DIMS).is_cached)
    assert known == [False, True, False]
    assert len(compiled) == 2


@needs_qnn
def test_the_emulator_follows_the_simulation(run):
    found = verify(run, on="qnn-htp", soc="sm8550", data=DIGITS / "eval.npz", metric="top1", eval_samples=40)
    document = json.loads((run / names.PLACE_CERTIFICATES["qnn-htp"]).read_text())
    assert document["conditions"]["soc"]["name"] == "sm8550"
    assert document["conditions"]["operators_checked"] >= 60
    assert document["score"]["samples"] == 40
    assert abs(document["score"]["lost"]) <= 5.1  # two of 40
    if run.name != "fp16":
        assert found.passed, found.certificate.outputs
        return
    assert "float16" in document["reference"] or not has_torch
    # what the compiler fuses around Sigmoid it computes less finely than float16; no operator alone is off
    localized = found.certificate.localized
    assert localized.tapped_db > localized.db + 10
    assert localized.tapped_by_op["Conv"] > localized.db + 10
    assert localized.tapped_by_op["Gemm"] < localized.db + 3
    assert localized.tensors[0].alone_db > 60


@needs_qnn
def test_a_changed_file_does_not_pass_on_the_emulator(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "o")
    (folder / names.ENCODINGS).write_text("{}")
    result = CliRunner().invoke(app, ["verify", str(folder), "--on", "qnn-htp", "--quiet"])
    assert result.exit_code == 1
    assert "model.encodings.json is missing or is not the file that was recorded" in result.stderr


@needs_qnn
def test_what_the_compiler_does_not_take_is_named(tmp_path):
    """An activation that it wants a grid before, and has none."""
    (tmp_path / "t.toml").write_text('extends = "qnn-htp-v73"\n[fused]\nConv = ["LeakyRelu"]\n')
    quantize(
        DIGITS / "digits.onnx", precision="w8a8", data=DIGITS / "calib.npz", metric="sqnr", ranges="mse", samples=32,
        run_options=RunOptions(threads=1), output=tmp_path / "o", target=tmp_path / "t.toml",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"Qualcomm's compiler for sm8550 .* does not take .*: quantize with --target"):
        compile_model(tmp_path / "o", soc="sm8550", dims=DIMS)
    result = CliRunner().invoke(app, ["compile", str(tmp_path / "o"), "--soc", "sm8550", "--dim", "batch=1"])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


@needs_qnn
def test_commands_print_what_was_found(run, tmp_path):
    words = [str(run), "--dim", "batch=1", "--quiet"]
    assert CliRunner().invoke(app, ["compile", *words, "--soc", "sm8750", "-o", str(tmp_path)]).exit_code == 0
    table = CliRunner().invoke(app, ["estimate", *words[:-1], "--soc", "soc77"])
    assert (table.exit_code, "us on soc77" in table.output) == (0, True)
    document = json.loads(CliRunner().invoke(app, ["estimate", *words[:-1], "--soc", "77", "--json"]).stdout)
    assert document["is_estimate"] is True


def test_open_dimensions_are_asked_for(tmp_path):
    model = DIGITS / "digits.onnx"
    with pytest.raises(SpecError, match="needs the size of every dimension: add, with your sizes, --dim batch=1"):
        open_job(model, "sm8550", None)
    with pytest.raises(SpecError, match="no open dimension 'h': it has batch"):
        open_job(model, "sm8550", {"batch": 1, "h": 8})
    assert open_job(model, 43, DIMS).dims == DIMS
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="is not an ONNX file, or it is cut short"):
        open_job(tmp_path / "bad.onnx", 43, None)


def test_a_chip_without_estimates_is_refused():
    with pytest.raises(SpecError, match="no latency estimates for sm8650: it has them for soc52, soc77"):
        estimate(DIGITS / "digits.onnx", soc="sm8650", dims=DIMS)


def test_chips_are_listed():
    result = CliRunner().invoke(app, ["chips"])
    assert result.exit_code == 0
    assert "sm8850" in result.output
    listed = json.loads(CliRunner().invoke(app, ["chips", "--json"]).stdout)["chips"]
    assert listed[0]["target"] == "qnn-htp-v68"
