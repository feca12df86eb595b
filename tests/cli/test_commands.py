"""The command line as a user runs it."""

import json
import os
import subprocess
import sys

import pytest
from command_line import fewbits, ok

from fewbits.artifact import names
from fewbits.workflow import finish as ending


@pytest.fixture
def quantized(tiny, tmp_path):
    ok("quantize", tiny.model, "--data", tiny.calib, "--eval-data", tiny.evaluation, "-o", tmp_path / "out", "-q")
    return tmp_path / "out"


def test_quantize_prints_scores_precisions_and_files(tiny, tmp_path):
    result = ok("quantize", tiny.model, "--data", tiny.calib, "--eval-data", tiny.evaluation, "-o", tmp_path / "out")
    assert "top1 on 40 samples" in result.stdout
    assert "scored on the calibration data" not in result.stdout
    assert "100.00 %" in result.stdout
    assert "Erf: HTP has no integer Erf" in result.stdout
    assert names.ARTIFACT in result.stdout
    assert result.stderr == ""


def test_quantize_says_that_it_scored_on_the_calibration_data(tiny, tmp_path):
    result = ok("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out", "--precision", "w8a16")
    assert "agreement on 24 samples, scored on the calibration data" in result.stdout


def test_json_is_one_object_and_nothing_else(tiny, tmp_path):
    out = tmp_path / "out"
    result = ok("quantize", tiny.model, "--data", tiny.calib, "-o", out, "--metric", "sqnr", "--json")
    document = json.loads(result.stdout)
    assert document["scores"]["metric"] == "sqnr"
    assert document["output"] == str(out)
    assert result.stderr == ""
    for command in (
        ("inspect", tiny.model),
        ("targets",),
        ("verify", out),
        ("evaluate", out, "--data", tiny.evaluation),
        ("prepare", tiny.model, "-o", tmp_path / "p.onnx"),
    ):
        assert isinstance(json.loads(ok(*command, "--json").stdout), dict)


def test_quiet_prints_nothing(tiny, quantized, tmp_path):
    for command in (
        ("inspect", tiny.model),
        ("verify", quantized),
        ("evaluate", quantized, "--data", tiny.evaluation),
        ("prepare", tiny.model, "-o", tmp_path / "p.onnx"),
    ):
        assert ok(*command, "-q").output == ""


def test_inspect_and_prepare_print_tables(tiny, tmp_path):
    text = ok("inspect", tiny.model, "--target", "qnn-htp-v73").stdout
    assert "[N, 3, 8, 8]" in text
    assert "HTP has no integer Erf" in text
    text = ok("prepare", tiny.model, "-o", tmp_path / "p.onnx", "--data", tiny.calib).stdout
    assert "16 samples of the data" in text
    assert (tmp_path / "p.onnx").is_file()


def test_verify_exits_with_1_where_a_byte_differs(quantized):
    assert "passed" in ok("verify", quantized).stdout
    data = bytearray((quantized / names.SAMPLES).read_bytes())
    (quantized / names.SAMPLES).write_bytes(bytes(data) + b"\0")
    result = fewbits("verify", quantized)
    assert result.exit_code == 1
    assert result.stderr.startswith("verify failed: samples.npz is missing or is not the file")
    assert json.loads(fewbits("verify", quantized, "--json").stdout)["passed"] is False


def test_options_reach_the_record(tiny, tmp_path):
    (tmp_path / "p.json").write_text('{"head": "fp16"}')
    ok(
        "quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "o", "--precision", "w8a16", "--samples", 9,
        "--eval-samples", 5, "--ranges", "percentile:99.9", "--weight-ranges", "absmax", "--profile",
        tmp_path / "p.json", "--dim", "N=1", "--threads", 1, "--batch-size", 3, "--target", "ort-cpu",
        "--no-simplify", "--metric", "sqnr@logits",
    )  # fmt: skip
    record = json.loads((tmp_path / "o" / names.RECORD).read_text())
    assert record["options"]["ranges"] == "percentile:99.9"
    assert record["options"]["dims"] == {"N": 1}
    options = {"provider": "cpu", "threads": 1, "custom_op_libraries": [], "at_once": 0}
    assert record["options"]["run_options"] == options
    assert record["target"] == "ort-cpu"
    assert record["data"]["calibration"]["samples"] == 9
    assert record["scores"]["samples"] == 5
    assert record["profile"] == {"head": "fp16"}


def test_image_options_make_a_preprocess():
    from fewbits.cli.options import parse_preprocess
    from fewbits.runtime.data import PRESETS

    nothing = dict.fromkeys(("resize", "crop", "mean", "std", "scale", "channel_order", "layout"))
    assert parse_preprocess(None, **nothing) is None
    assert parse_preprocess("imagenet", **nothing) == PRESETS["imagenet"]
    made = parse_preprocess(
        "imagenet", **(nothing | {"resize": "64", "crop": "32,48", "mean": "0.5", "layout": "nhwc"})
    )
    assert (made.resize, made.crop, made.mean, made.layout) == (64, (32, 48), (0.5,), "nhwc")
    assert made.std == PRESETS["imagenet"].std


def test_ctrl_c_exits_with_130_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ending, "write_samples_of", interrupted)
    result = fewbits("quantize", tiny.model, "--data", tiny.calib, "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr.strip() == "error: interrupted; nothing is half-written, and what was finished is kept."
    assert not list(tmp_path.iterdir())


def test_help_lists_the_commands_in_the_order_of_the_workflow():
    text = ok("--help").stdout
    names = ("convert", "inspect", "prepare", "quantize", "baseline", "evaluate", "export", "verify", "targets")
    places = [text.index(f"│ {name} ") for name in names]
    assert places == sorted(places)


def test_program_in_a_process_of_its_own(tiny, tmp_path):
    code = "import sys; sys.argv[0] = 'fewbits'; from fewbits.cli import main; main()"
    command = [sys.executable, "-c", code, "quantize", str(tiny.model), "--data", str(tiny.calib)]
    environment = {**os.environ, "COLUMNS": "100"}
    good = subprocess.run(
        [*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, env=environment, check=False
    )
    assert good.returncode == 0, good.stderr
    assert good.stderr == ""
    assert (tmp_path / "out" / names.ARTIFACT).is_file()
    bad = subprocess.run([*command, "-o", "x", "--precision", "w1a1"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: Unknown precision 'w1a1'")
    assert "Traceback" not in bad.stderr


def test_import_and_apply_encodings_make_folders_that_other_commands_take(tiny, quantized, tmp_path):
    taken = ok("import", quantized / names.ARTIFACT, "-o", tmp_path / "in", "--data", tiny.calib)
    said = " ".join(taken.stdout.split())
    assert "logits: equal (rebuilt from plan and encodings, against the file as it is, on the data)" in said
    assert "3 weight, 3 bias; nodes: 9 w8a8" in said
    ok("verify", tmp_path / "in")
    applied = ("apply-encodings", quantized / names.FLOAT, quantized / names.ENCODINGS, "-o", tmp_path / "made")
    document = json.loads(ok(*applied, "--json").stdout)
    assert document["grids"]["bias"] == 3
    assert document["parity"]["feeds"] == "random feeds"
    assert names.COMMANDS in {path.name for path in (tmp_path / "made").iterdir()}
    again = ok("quantize", tmp_path / "made", "--data", tiny.calib, "-o", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["scores"]["drop"] < 20
