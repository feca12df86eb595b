"""Models with operators of the user's own: run with a shared library, left float, with quantized neighbours."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from kinds_of_models import LAYERS, normal, written
from typer.testing import CliRunner

from fewbits import quantize, verify
from fewbits.cli import app
from fewbits.errors import ModelError, SpecError
from fewbits.runtime.session import RunOptions, open_session

TEXT = """g (float[N, 4] x) => (float[N, 5] y) {
    h = MatMul (x, u)  s = my.ops.Swirl (h)  y = MatMul (s, m) }"""


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.mktemp("custom") / "swirl.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, Path(__file__).with_name("swirl.c")], check=True)
    return made


@pytest.fixture
def swirling(tmp_path) -> tuple[Path, Path]:
    model = written(TEXT, domains='"my.ops": 1', u=normal(4, 4, seed=5), m=LAYERS["m"])
    onnx.save(model, tmp_path / "swirl.onnx")
    np.savez(tmp_path / "x.npz", x=normal(16, 4))
    return tmp_path / "swirl.onnx", tmp_path / "x.npz"


def on(library) -> RunOptions:
    return RunOptions(threads=1, custom_op_libraries=(str(library),))


def test_a_session_runs_custom_operators(library, swirling):
    x = normal(3, 4)
    (y,) = open_session(swirling[0], options=on(library))({"x": x}).values()
    h = x @ normal(4, 4, seed=5)
    np.testing.assert_allclose(y, (h * np.abs(h)) @ LAYERS["m"], rtol=1e-5, atol=1e-5)


def test_what_stands_behind_a_custom_operator_is_quantized(library, swirling, tmp_path):
    """onnx infers no type behind it; the runtime knows."""
    result = quantize(swirling[0], data=swirling[1], output=tmp_path / "out", metric="sqnr", run_options=on(library))
    plans = {node.op: node for node in result.plan.nodes.values()}
    assert str(plans["MatMul"].precision) == "w8a8"
    assert plans["Swirl"].reason == "operator my.ops::Swirl is not part of ONNX"
    assert {"h", "s", "x", "y"} <= set(result.plan.grids)
    assert result.score.value > 30


def test_verify_loads_the_named_library_and_never_that_of_the_record(library, swirling, tmp_path):
    quantize(swirling[0], data=swirling[1], output=tmp_path / "out", run_options=on(library))
    with pytest.raises(
        SpecError, match=r"was scored with the custom operator library .*swirl\.so.*--custom-op-library"
    ):
        verify(tmp_path / "out")
    assert verify(tmp_path / "out", custom_op_libraries=[str(library)]).certificate.passed


def test_without_the_library_the_operator_is_named(swirling):
    with pytest.raises(ModelError, match=r"my\.ops:Swirl.*--custom-op-library"):
        quantize(swirling[0], data=swirling[1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"library '.*lib\.so' cannot be read: No such file or directory\. Check the path\.$"),
        (b"no library", r"cannot use the custom operator library '.*lib\.so'.*RegisterCustomOps.*on this machine\.$"),
    ],
)
def test_a_library_that_is_none_is_named(swirling, tmp_path, content, said):
    if content is not None:
        (tmp_path / "lib.so").write_bytes(content)
    with pytest.raises(SpecError, match=said):
        quantize(swirling[0], data=swirling[1], run_options=on(tmp_path / "lib.so"))


def test_scores_are_remembered_by_the_content_of_the_library(library, tmp_path):
    first, copy, other = on(library), tmp_path / "copy.so", tmp_path / "other.so"
    copy.write_bytes(library.read_bytes())
    other.write_bytes(library.read_bytes() + b"\0")
    assert on(copy).identity() == first.identity()
    assert on(other).identity() != first.identity()
    assert RunOptions().identity() == ("CPUExecutionProvider",)


@pytest.mark.slow
def test_the_command_line_takes_a_library_into_worker_processes(library, swirling, tmp_path):
    words = ["analyze", swirling[0], "--data", swirling[1], "-o", tmp_path / "out", "--workers", 2]
    words += ["--threads", 1, "--method", "brute-force", "--custom-op-library", library, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["options"]["run_options"]["custom_op_libraries"] == [str(library)]
