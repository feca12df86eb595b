"""What lint says of healthy and faulty QDQ files, and whether Qualcomm's compiler agrees."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from lint_models import INT4, Conv, Norm, Product, conv, model_of
from typer.testing import CliRunner

from fewbits.artifact.folder import temporary_folder
from fewbits.cli.app import app
from fewbits.deployment.certificate import sqnr
from fewbits.deployment.places import PLACES, PlaceJob
from fewbits.deployment.qnn_graph import compiled_types
from fewbits.errors import ModelError, RefusedError, SpecError
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.soc import find_soc
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.compile import compile as compile_model
from fewbits.workflow.lint import lint
from fewbits.workflow.quantized import quantize_calibrated

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
INT16 = np.dtype(np.int16)
U16 = np.uint16

CASES = {
    "healthy": (Conv(), None),
    "healthy, 16-bit activations": (Conv(activation=U16), None),
    "healthy, int4": (Conv(weight=INT4), None),
    "healthy, one scale": (Conv(one_scale=True), None),
    "healthy, a grid before LeakyRelu": (Conv(follower="LeakyRelu"), None),
    "healthy, int16 activations": (Conv(activation=np.int16), None),
    "zero points per channel": (Conv(weight_zero=3), "weight-symmetry"),
    "healthy, one zero point": (Conv(weight_zero=3, one_scale=True), None),
    "Erf": (Conv(follower="Erf"), "no-integer-form"),
    "Mish": (Conv(follower="Mish"), "no-integer-form"),
    "LayerNormalization, int16 activations": (Norm(activation=np.int16), "activation-type"),
    "int4 with one scale": (Conv(weight=INT4, one_scale=True), "int4-one-scale"),
    "int4 with one channel": (Conv(weight=INT4, channels=1), "int4-one-scale"),
    "scales per block": (Conv(block=8), "weight-blocks"),
    "scales per block, int4": (Conv(weight=INT4, block=8), "weight-blocks"),
    "a block of all inputs": (Conv(block=16), "weight-blocks"),
    "no grid before LeakyRelu": (Conv(follower="LeakyRelu", grid_between=False), "missing-grid"),
    "no grid before Tanh": (Conv(follower="Tanh", grid_between=False), "missing-grid"),
    "types in and out": (Conv(written=U16), "mixed-types"),
    "LayerNormalization": (Norm(), None),
    "LayerNormalization, 16 bits": (Norm(activation=U16, gamma=U16, zero=32768), None),
    "LayerNormalization, uint8 gamma": (Norm(activation=U16), None),
    "LayerNormalization, zero point 0": (Norm(activation=U16, gamma=U16), "gamma-type"),
    "LayerNormalization, int8 gamma": (Norm(gamma=np.int8), "gamma-type"),
    "MatMul of 8 bits": (Product(np.uint8, np.uint8), None),
    "MatMul, int16 second": (Product(), None),
    "MatMul, uint8 second": (Product(second=np.uint8), None),
}  # fmt: skip
CHANGED = {
    "another bias scale": (Conv(activation=U16, bias_factor=0.5), "bias-scale"),
    "int16 weights up to the top": (Conv(activation=U16, weight=INT16, int16_unit=4681), "int16-codes"),
    "a bare float Conv": (Conv(float_weight=True), "bare-float"),
    "MatMul, uint16 second": (Product(second=U16), "second-operand"),
}
FLOAT = {"scales per block, 16-bit activations": (Conv(activation=U16, block=8), "weight-blocks")}
needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="needs Qualcomm's backend: pip install '.[qnn]'"
)


def written(case, folder):
    onnx.save(model_of(case), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("name", [*CASES, *CHANGED, *FLOAT])
def test_each_fault_is_named_and_nothing_else(name, tmp_path):
    case, rule = {**CASES, **CHANGED, **FLOAT}[name]
    found = lint(written(case, tmp_path), soc="sm8550")
    assert [finding.rule for finding in found.findings] == ([rule] if rule else [])
    for finding in found.findings:
        assert finding.node in ("conv", "norm", "matmul", "after")
        assert finding.says
        assert finding.fix
        assert finding.outcome == ("changed" if name in CHANGED else "float" if name in FLOAT else "refused")


@needs_qnn
@pytest.mark.parametrize("name", CASES)
def test_the_compiler_refuses_what_lint_says_and_nothing_else(name, tmp_path):
    case, rule = CASES[name]
    model = written(case, tmp_path)
    if rule is None:
        assert compile_model(model, soc="sm8550").passed
        return
    with pytest.raises(RefusedError):
        compile_model(model, soc="sm8550")


@needs_qnn
@pytest.mark.parametrize("name", FLOAT)
def test_the_compiler_runs_in_float_what_lint_says(name, tmp_path):
    made = compile_model(written(FLOAT[name][0], tmp_path), soc="sm8550")
    assert not made.passed
    assert [wrong[0] for wrong in made.types.wrong] == ["conv"]


def on_the_emulator(model, soc="sm8550"):
    """Return the SQNR of the emulator against the file executed as written, and the types that it was compiled in."""
    feeds = {"x": np.random.default_rng(1).uniform(-2, 2, shape_of(model)).astype(np.float32)}
    with temporary_folder() as scratch:
        with PLACES["qnn-htp"].open(PlaceJob(model, {}, find_soc(soc), scratch, 300)) as served:
            found = served(feeds)["y"]
        wrong = compiled_types(model, scratch).wrong
    exact = open_session(model, policy=SessionPolicy.EXACT)(feeds)["y"]
    return sqnr([exact], [found]) or np.inf, wrong


def shape_of(model):
    return [dim.dim_value for dim in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]


@needs_qnn
@pytest.mark.parametrize(
    ("healthy", "faulty"),
    [
        (Conv(activation=U16, bias_unit=10**6), Conv(activation=U16, bias_unit=10**6, bias_factor=0.5)),
        (Product(), Product(second=U16)),
        (Conv(activation=U16, weight=INT16), Conv(activation=U16, weight=INT16, int16_unit=4681)),
    ],
    ids=["bias scale", "second operand", "int16 codes"],
)
def test_what_lint_calls_changed_is_changed_on_the_emulator(healthy, faulty, tmp_path):
    good, _ = on_the_emulator(written(healthy, tmp_path))
    bad, wrong = on_the_emulator(written(faulty, tmp_path))
    assert not wrong  # the types are as the file says: only the values tell
    assert good > 60
    assert bad < good - 15


@needs_qnn
def test_a_bare_float_layer_is_an_integer_one_to_an_ordinary_session(tmp_path):
    """The trap is onnxruntime's optimizer; the compiler without it computes what the file says, and in float."""
    model = written(Conv(float_weight=True), tmp_path)
    feeds = {"x": np.random.default_rng(1).uniform(-2, 2, shape_of(model)).astype(np.float32)}
    ordinary = open_session(model, policy=SessionPolicy.PLAIN)(feeds)["y"]
    convolved = numpy_of(model, feeds["x"])
    steps = np.abs(ordinary - convolved) / (8 / 255)
    assert steps.max() > 0.51  # more than rounding to the grid of the output
    made = compile_model(model, soc="sm8550", output=tmp_path / "out")
    assert made.types.wrong == (("conv", "Conv", "uint8", "float32"),)
    assert set(made.files) == {"report"}  # nothing is handed over


def numpy_of(model, x):
    """Return what the float Conv gives on the quantized input, before the grid of the output."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    scale, zero = values["x0_s"], values["x0_z"].astype(np.float32)
    seen = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    return np.einsum("oihw,nixy->noxy", values["w"], seen)


def as_constant_nodes(model):
    """Hand every constant out by a node of its own, as some exporters do."""
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    del model.graph.initializer[:]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


@pytest.mark.parametrize("name", [*CASES, *CHANGED])
def test_constants_may_be_nodes(name, tmp_path):
    case, rule = {**CASES, **CHANGED, **FLOAT}[name]
    onnx.save(as_constant_nodes(model_of(case)), tmp_path / "m.onnx")
    assert [finding.rule for finding in lint(tmp_path / "m.onnx", soc="sm8550").findings] == ([rule] if rule else [])


def test_zero_points_may_be_left_out(tmp_path):
    model = conv(Conv(weight=INT4, one_scale=True))
    for node in model.graph.node:
        if node.name in ("w", "b"):
            del node.input[2]
    onnx.save(model, tmp_path / "m.onnx")
    assert [finding.rule for finding in lint(tmp_path / "m.onnx").findings] == ["int4-one-scale"]


def test_chips_have_limits_of_their_own(tmp_path):
    model = written(Conv(activation=U16, weight=INT16), tmp_path)
    assert lint(model, soc="sm8550").passed
    (finding,) = lint(model, soc="sm8450").findings
    assert (finding.rule, finding.says) == ("weight-type", "its weight is int16, and qnn-htp-v69 has int4, int8")
    if importlib.util.find_spec("onnxruntime_qnn") is not None:
        with pytest.raises(RefusedError, match="does not take Conv 'conv"):
            compile_model(model, soc="sm8450")


@pytest.mark.parametrize(("gamma", "zero", "passed"), [(np.uint8, 0, True), (U16, 32768, False)])
def test_gammas_of_16_bits_begin_with_v73(gamma, zero, passed, tmp_path):
    model = written(Norm(activation=U16, gamma=gamma, zero=zero), tmp_path)
    assert lint(model, soc="sm8550").passed
    assert lint(model, soc="sm8450").passed is passed
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return
    if passed:
        assert compile_model(model, soc="sm8450").passed
    else:
        with pytest.raises(RefusedError, match="does not take LayerNormalization 'norm'"):
            compile_model(model, soc="sm8450")


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8", "fp16"])
def test_what_fewbits_writes_has_no_findings(precision, tmp_path):
    options = RunOptions(threads=1)
    calibration = calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=16, run_options=options)
    (tmp_path / "m.onnx").write_bytes(quantize_calibrated(calibration, precision, ranges="mse").to_bytes())
    found = lint(tmp_path / "m.onnx", soc="sm8550")
    assert found.passed, found.findings
    assert found.operators > 60
    on_6490 = lint(tmp_path / "m.onnx", soc="qcs6490")
    rules = {finding.rule for finding in on_6490.findings}
    assert rules == {"fp16": {"no-fp16"}, "w16a16": {"weight-type"}}.get(precision, set())


def test_command_prints_findings_with_their_fix_and_exits_with_one(tmp_path):
    model = written(Conv(weight=INT4, one_scale=True), tmp_path)
    result = CliRunner().invoke(app, ["lint", str(model)])
    assert result.exit_code == 1
    assert "for qnn-htp-v73: 1 findings in 1 operators" in result.output
    assert "int4-one-scale: the compiler will refuse it (1)" in result.output
    assert "fix: store its codes as int8" in result.output
    document = json.loads(CliRunner().invoke(app, ["lint", str(model), "--json"]).stdout)
    assert document["findings"][0]["rule"] == "int4-one-scale"
    assert CliRunner().invoke(app, ["lint", str(written(Conv(), tmp_path))]).exit_code == 0


def test_what_cannot_be_looked_at_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is not an ONNX file, or it is cut short"):
        lint(tmp_path / "bad.onnx")
    with pytest.raises(SpecError, match="sm8550 follows qnn-htp-v73, not qnn-htp-v69: leave one of"):
        lint(written(Conv(), tmp_path), soc="sm8550", target="qnn-htp-v69")
