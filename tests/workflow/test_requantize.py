"""Models that are quantized already: recognized, refused in a sentence, and taken in as the float model behind them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from kinds_of_models import normal, written
from onnxruntime import quantization
from typer.testing import CliRunner

import fewbits
from fewbits.cli import app
from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.graph.quantized import quantized_nodes
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.requantize import float_behind

OPTIONS = RunOptions(threads=1)
TEXT = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu (c)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    s = Sigmoid (p)  a = Add (p, s)  m = Mul (a, s)  k = Concat <axis = 1> (m, s)  d = Conv (k, v)
    t = LeakyRelu <alpha = 0.2> (d)  g = GlobalAveragePool (t)  f = Flatten (g)  h = MatMul (f, u)
    y = Gemm (h, z, q) }"""
WEIGHTS = {
    "w": normal(4, 3, 3, 3), "b": normal(4), "v": normal(4, 8, 3, 3), "u": normal(4, 6), "z": normal(6, 5),
    "q": normal(5),
}  # fmt: skip
X = normal(16, 3, 8, 8, seed=3)


class Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter([{"x": sample[None]} for sample in X])

    def get_next(self):
        return next(self.left, None)


def static(form, per_channel=False):
    def make(source: Path, target: Path) -> None:
        quantization.quantize_static(source, target, Reader(), quant_format=form, per_channel=per_channel)

    return make


FORMS = {
    "QDQ": static(quantization.QuantFormat.QDQ),
    "QOperator": static(quantization.QuantFormat.QOperator),
    "QOperator per channel": static(quantization.QuantFormat.QOperator, per_channel=True),
    "dynamic": quantization.quantize_dynamic,
}


@pytest.fixture(scope="module", params=FORMS)
def made(request, tmp_path_factory) -> tuple[onnx.ModelProto, Path]:
    folder = tmp_path_factory.mktemp("forms")
    model = written(TEXT, **WEIGHTS)
    onnx.save(model, folder / "float.onnx")
    FORMS[request.param](folder / "float.onnx", folder / "q.onnx")
    return model, folder / "q.onnx"


def outputs(model: bytes | Path) -> np.ndarray:
    (y,) = open_session(model, options=OPTIONS)({"x": X}).values()
    return y


def test_a_quantized_model_is_refused_and_the_ways_out_are_named(made, tmp_path):
    _, path = made
    for call in (
        lambda: fewbits.quantize(path, data={"x": X}, output=tmp_path / "out"),
        lambda: fewbits.prepare(path, output=tmp_path / "p.onnx"),
    ):
        with pytest.raises(
            ModelError, match=r"q\.onnx' is quantized already \(\d+ \w+.*`fewbits prepare --requantize`"
        ):
            call()
    assert list(tmp_path.iterdir()) == []


def test_requantize_brings_back_the_float_model(made, tmp_path):
    before, path = made
    result = fewbits.prepare(path, requantize=True, output=tmp_path / "float.onnx", run_options=OPTIONS)
    assert quantized_nodes(result.model) == {}
    kinds = {node.op_type for node in result.model.graph}
    assert {"Conv", "MaxPool", "Sigmoid", "Concat", "GlobalAveragePool"} <= kinds
    assert result.changes[0].name == "requantize"
    assert "took out" in result.changes[0].changed[0]
    wanted, given, rounded = outputs(before.SerializeToString()), outputs(tmp_path / "float.onnx"), outputs(path)
    assert sqnr_db(wanted, given) > 25
    assert sqnr_db(wanted, given) > sqnr_db(wanted, rounded)  # only the weights are still rounded


def test_what_comes_back_is_quantized_as_usual(made, tmp_path):
    before, path = made
    fewbits.prepare(path, requantize=True, output=tmp_path / "float.onnx", run_options=OPTIONS)
    fewbits.quantize(tmp_path / "float.onnx", data={"x": X}, output=tmp_path / "out", run_options=OPTIONS)
    assert sqnr_db(outputs(before.SerializeToString()), outputs(tmp_path / "out" / "model.qdq.onnx")) > 20


def test_the_command_line_refuses_and_requantizes(made, tmp_path):
    _, path = made
    target = tmp_path / "float.onnx"
    refused = CliRunner().invoke(app, ["prepare", str(path), "-o", str(target)])
    assert refused.exit_code == 2
    assert "--requantize" in refused.stderr
    done = CliRunner().invoke(app, ["prepare", str(path), "-o", str(target), "--requantize", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "took out" in done.stdout
    assert quantized_nodes(load_model(target)) == {}


def test_a_float_model_needs_no_requantizing():
    model = load_model(written(TEXT, **WEIGHTS))
    assert quantized_nodes(model) == {}
    same, report = float_behind(model, "it")
    assert same is model
    assert report.changed == ()


def test_weights_behind_dequantize_linear_alone_are_a_quantized_model():
    text = "g (float[N, 4] x) => (float[N, 5] y) { w = DequantizeLinear <axis = 1> (codes, scales)  y = MatMul (x, w) }"
    codes = np.random.default_rng(0).integers(-127, 128, (4, 5), np.int8)
    model = load_model(written(text, codes=codes, scales=np.linspace(0.01, 0.05, 5, dtype=np.float32)))
    with pytest.raises(ModelError, match=r"quantized already \(1 DequantizeLinear\).*`fewbits import`"):
        fewbits.quantize(model, data={"x": normal(4, 4)})
    behind, _ = float_behind(model, "it")
    assert [node.op_type for node in behind.graph] == ["MatMul"]
    x = normal(3, 4)
    (wanted,), (given,) = (open_session(to_bytes(m), options=OPTIONS)({"x": x}).values() for m in (model, behind))
    assert np.array_equal(wanted, given)


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("g (uint8[2, 4] x, int8[4, 3] w) => (int32[2, 3] y) { y = MatMulInteger (x, w) }", "MatMulInteger"),
        (
            """g (float[2, 4] x, int8[4, 3] w) => (int32[2, 3] y, uint8[2, 4] c) {
            c, s, z = DynamicQuantizeLinear (x)  y = MatMulInteger (c, w, z) }""",
            "DynamicQuantizeLinear",
        ),
    ],
)
def test_integers_that_have_no_float_form_are_named(text, operator):
    with pytest.raises(ModelError, match=f"the model 'it' computes in integers with {operator}"):
        float_behind(load_model(written(text)), "it")
