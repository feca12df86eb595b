"""Command convert, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from fewbits.cli import app
from fewbits.cli.convert import parse_dtypes, parse_dynamic, parse_shapes
from fewbits.errors import SpecError

pytest.importorskip("torch")

ZOO = Path(__file__).parents[1] / "workflow" / "torch_models.py"
CNN = f"{ZOO}:cnn"


def fewbits(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """Run a command that must be refused: exit code 2, one sentence on stderr, nothing on stdout."""
    result = fewbits("convert", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_convert_in_a_process_of_its_own_prints_json_or_one_sentence_and_nothing_else(tmp_path):
    """What the exporter logs and prints, while it is imported and where it fails, stays out of both streams."""
    code = (
        "import sys; from fewbits.cli import main\n"
        "for arguments in (sys.argv[1:4], sys.argv[4:]):\n"
        "    sys.argv[1:] = ['convert', *arguments, '-o', 'new/m.onnx', '--json']\n"
        "    try: main()\n"
        "    except SystemExit as end: code = end.code\n"
        "sys.exit(code)\n"
    )
    commands = [CNN, "--input-shape=1,3,8,8", "--dynamic-batch", f"{ZOO}:Branch", "--input-shape=1,3"]
    done = subprocess.run(
        [sys.executable, "-c", code, *commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "data-dependent" in line
    document = json.loads(done.stdout)
    assert document["output"] == "new/m.onnx"
    assert document["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert all(one["sqnr_db"]["output"] is None or one["sqnr_db"]["output"] > 90 for one in document["parity"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.onnx"]
    onnx.checker.check_model(str(tmp_path / "new" / "m.onnx"), full_check=True)


def test_convert_prints_ends_parity_and_file(tmp_path):
    result = fewbits(
        "convert", f"{ZOO}:Transformer", "--input-shape", "tokens=1,7", "--input-dtype", "tokens=int64", "--dynamic",
        "tokens:1=length", "--output-name", "logits", "--opset", 22, "-o", tmp_path / "m.onnx",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "ONNX opset 22" in result.stdout
    assert "[1, length, 50]" in result.stdout
    assert "other sizes: tokens [1, 8]" in result.stdout
    assert f"written: {tmp_path / 'm.onnx'}" in result.stdout.replace("\n", "")
    assert result.stderr == ""


def test_convert_refuses_in_one_sentence(tmp_path):
    out = ("-o", tmp_path / "m.onnx")
    assert "No inputs are given: add --input-shape" in refused(CNN, *out)
    assert "Missing option" in refused(CNN, "--input-shape", "1,3,8,8")
    assert "no module 'no_such_package'" in refused("no_such_package:f", "--input-shape", "1", *out)
    assert "data-dependent" in refused(f"{ZOO}:Branch", "--input-shape", "1,3", *out)
    assert "--opset" in refused(CNN, "--input-shape", "1,3,8,8", "--opset", "9", *out)
    assert "it is a folder" in refused(CNN, "--input-shape", "1,3,8,8", "-o", tmp_path)
    assert "do not exist" in refused(CNN, "--input-shape", "1,3,8,8", "--weights", "none.pt", *out)
    assert not list(tmp_path.iterdir())


def test_texts_become_shapes_types_and_dimensions():
    assert parse_shapes(None) is None
    assert parse_shapes(["1,3", "2, 4"]) == [(1, 3), (2, 4)]
    assert parse_shapes(["a=1,3", "b=2"]) == {"a": (1, 3), "b": (2,)}
    assert parse_dtypes(None) is None
    assert parse_dtypes(["int64"]) == "int64"
    assert parse_dtypes(["a=int64", "b=bool"]) == {"a": "int64", "b": "bool"}
    assert parse_dynamic(None) is None
    assert parse_dynamic(["a:1=n", "a:2=m"]) == {"a": {1: "n", 2: "m"}}


@pytest.mark.parametrize(
    ("parse", "texts", "match"),
    [
        (parse_shapes, ["1,x"], "--input-shape '1,x' is no shape"),
        (parse_shapes, ["=1"], "is no shape"),
        (parse_shapes, ["1,0"], "is no shape"),
        (parse_shapes, [""], "is no shape"),
        (parse_shapes, ["a=1", "a=2"], "gives 'a' twice"),
        (parse_shapes, ["a=1", "2"], "name all of them, or none"),
        (parse_dtypes, ["int64", "int32"], "one type for all inputs"),
        (parse_dtypes, ["a=int64", "int32"], "one type for all inputs"),
        (parse_dynamic, ["a=n"], "is not INPUT:AXIS=NAME"),
        (parse_dynamic, ["a:x=n"], "is not INPUT:AXIS=NAME"),
        (parse_dynamic, ["a:1"], "is not INPUT:AXIS=NAME"),
    ],
)
def test_texts_of_another_form_are_refused(parse, texts, match):
    with pytest.raises(SpecError, match=match):
        parse(texts)
