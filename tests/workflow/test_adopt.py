"""Grids that others chose: QDQ files and encodings files, ours and those of other tools, carried out as they are."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lint_models import Conv, conv
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from qdq_models import model, normal

import fewbits
from fewbits.artifact import names
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.encodings_versions import VERSIONS
from fewbits.errors import ModelError, SpecError
from fewbits.graph.load import load_model
from fewbits.quantization.profile import Profile
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.spec.dtypes import PerBlock
from fewbits.workflow.adopt import apply_encodings, import_qdq
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.export import export
from fewbits.workflow.quantize import quantize
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.writing import write_models

PROFILES = [
    Profile.parse(p) for p in ("w8a8", "w8a16", "w16a16", "w4a8", "w4a16", "fp16")
] + [
    Profile.parse("w8a8", {"conv2": "w8a16"}),
    Profile.parse("w8a8", {"conv1": "fp16", "head": "w4a8"}),
    Profile.parse("fp16", {"conv2": "w8a8", "pool": "w8a16"}),
    Profile.parse("w8a16", {"conv1": "fp32", "add": "w8a8"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


def outputs(path, feeds):
    return open_session(path, policy=SessionPolicy.EXACT)(feeds)["logits"]


def feeds(tiny):
    with np.load(tiny.calib) as data:
        return {"image": data["image"]}


def grids(plan, encodings):
    """Return every grid by its tensor and type: which of two grids of one tensor came first shows in keys only."""
    found = {(g.tensor, g.spec.dtype): (encodings[k].scale.tolist(), encodings[k].zero_point.tolist())
             for k, g in plan.grids.items()}  # fmt: skip
    assert len(found) == len(plan.grids)
    return found


def same_grids(made, adopted):
    assert grids(adopted.plan, adopted.encoded.encodings) == grids(made.plan, made.encodings)


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_import_finds_the_plan_that_made_the_file(tiny, calibration, tmp_path, profile):
    made = quantize_calibrated(calibration, profile, ranges="minmax")
    write_models(tmp_path, calibration, made)
    result = import_qdq(tmp_path / names.ARTIFACT, output=tmp_path / "in", data=tiny.calib)
    same_grids(made, result.adopted)
    plan = result.adopted.plan
    # widths of weights show at layers only: an Add of w4a8 is one of w8a8, too
    layers = ("conv1", "conv2", "head")
    assert {n: plan.nodes[n].precision for n in layers} == {n: made.plan.nodes[n].precision for n in layers}
    # an Erf that was left in float between grids is an integer Erf to whoever reads the file
    floats = [{n for n, p in nodes.items() if p.precision.is_float and n != "erf"}
              for nodes in (plan.nodes, made.plan.nodes)]  # fmt: skip
    assert floats[0] == floats[1]
    assert result.parity.sqnr_db == {"logits": None}
    assert (tmp_path / "in" / names.ARTIFACT).read_bytes() == (tmp_path / names.ARTIFACT).read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_apply_encodings_makes_the_file_again(tiny, calibration, tmp_path, profile, version):
    made = quantize_calibrated(calibration, profile, ranges="minmax", bias_correction=False)
    write_models(tmp_path, calibration, made)
    quantized = tmp_path / "run"
    apply_encodings(tmp_path / names.FLOAT, tmp_path / names.ENCODINGS, output=quantized)
    export(quantized, output=tmp_path / "out", encodings_version=version)
    again = apply_encodings(tmp_path / "out" / names.FLOAT, tmp_path / "out" / names.ENCODINGS, output=tmp_path / "in")
    same_grids(made, again.adopted)
    wanted = outputs(tmp_path / names.ARTIFACT, feeds(tiny))
    np.testing.assert_array_equal(outputs(tmp_path / "in" / names.ARTIFACT, feeds(tiny)), wanted)


@pytest.fixture(scope="module")
def blocked(tiny):
    """Return a calibration and a plan with two blocks of inputs for each output of the last layer."""
    calibration = calibrate(tiny.model, data=tiny.calib, target="ort-cpu")
    made = quantize_calibrated(calibration, "w4a8g4", ranges="minmax", bias_correction=False)
    assert made.plan.grids["w3"].spec.granularity == PerBlock(1, 4)
    assert made.encodings["w3"].scale.shape == (4, 2)
    return calibration, made


def test_import_finds_scales_per_block(tiny, blocked, tmp_path):
    calibration, made = blocked
    write_models(tmp_path, calibration, made)
    result = import_qdq(tmp_path / names.ARTIFACT, output=tmp_path / "in", data=tiny.calib)
    same_grids(made, result.adopted)
    assert str(result.adopted.plan.nodes["head"].precision) == "w4a8g4"
    assert result.parity.sqnr_db == {"logits": None}
    assert (tmp_path / "in" / names.ARTIFACT).read_bytes() == (tmp_path / names.ARTIFACT).read_bytes()


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "0.6.1"])
def test_apply_encodings_finds_scales_per_block(tiny, blocked, tmp_path, version):
    calibration, made = blocked
    write_models(tmp_path, calibration, made)
    apply_encodings(tmp_path / names.FLOAT, tmp_path / names.ENCODINGS, output=tmp_path / "run", target="ort-cpu")
    export(tmp_path / "run", output=tmp_path / "out", encodings_version=version)
    again = apply_encodings(tmp_path / "out" / names.FLOAT, tmp_path / "out" / names.ENCODINGS, output=tmp_path / "in")
    same_grids(made, again.adopted)
    wanted = outputs(tmp_path / names.ARTIFACT, feeds(tiny))
    np.testing.assert_array_equal(outputs(tmp_path / "in" / names.ARTIFACT, feeds(tiny)), wanted)


def test_the_oldest_encodings_have_no_scales_per_block(blocked, tmp_path):
    calibration, made = blocked
    write_models(tmp_path, calibration, made)
    apply_encodings(tmp_path / names.FLOAT, tmp_path / names.ENCODINGS, output=tmp_path / "run", target="ort-cpu")
    with pytest.raises(SpecError, match=r"0\.6\.1 has no PER_BLOCK grids, as 'w3' has: use 1\.0\.0"):
        export(tmp_path / "run", output=tmp_path / "out", encodings_version="0.6.1")


def test_import_says_of_every_node_what_blocks_it_has(tiny, tmp_path):
    graph = model(
        "g (float[N, 8] x) => (float y) { [first] a = MatMul (x, w) [act] b = Relu (a) [last] y = MatMul (b, v) }",
        w=normal(8, 6), v=normal(6, 3),
    )  # fmt: skip
    onnx.save(ir.to_proto(graph), tmp_path / "m.onnx")
    data = {"x": normal(16, 8)}
    quantize(tmp_path / "m.onnx", data=data, precision="w4a8g4", target="ort-cpu", output=tmp_path / "run")
    found = import_qdq(tmp_path / "run" / names.ARTIFACT, output=tmp_path / "in", data=data, target="ort-cpu")
    assert {str(plan.precision) for plan in found.adopted.plan.nodes.values()} == {"w4a8g4"}


def test_other_verbs_go_on_from_an_imported_model(tiny, calibration, tmp_path):
    write_models(tmp_path, calibration, quantize_calibrated(calibration, "w8a8", ranges="percentile:99"))
    imported = import_qdq(tmp_path / names.ARTIFACT, output=tmp_path / "in", data=tiny.calib)
    assert fewbits.verify(tmp_path / "in").passed
    again = quantize(tmp_path / "in", data=tiny.calib, ranges="minmax")
    assert set(again.quantized.pinned) == set(imported.record.pinned)
    for name in imported.record.pinned:
        np.testing.assert_array_equal(again.encodings[name].scale, imported.adopted.encoded.encodings[name].scale)
    wider = quantize(tmp_path / "in", data=tiny.calib, ranges="minmax", precision="w8a16")
    assert wider.encodings["r"].spec.bits == 16


class Reader(CalibrationDataReader):
    def __init__(self, array):
        self.items = iter([{"image": array[i : i + 1]} for i in range(len(array))])

    def get_next(self):
        return next(self.items, None)


@pytest.mark.parametrize("activation", [QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16])
def test_import_reads_what_onnxruntime_writes(tiny, tmp_path, activation):
    quantize_static(
        tiny.model, tmp_path / "ort.onnx", Reader(feeds(tiny)["image"]), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=activation, weight_type=QuantType.QInt8,
    )  # fmt: skip
    result = import_qdq(tmp_path / "ort.onnx", output=tmp_path / "in", data=tiny.calib)
    assert result.parity.sqnr_db == {"logits": None}
    plan = result.adopted.plan
    assert {grid.tensor for grid in plan.grids.values()} >= {"image", "w1", "w2", "w3", "b1", "b2", "b3", "r", "s"}
    assert str(plan.nodes["conv1"].precision) == ("w8a16" if activation is QuantType.QUInt16 else "w8a8")
    float_model = open_session(tmp_path / "in" / names.FLOAT)
    original = open_session(tiny.model)
    wanted, found = original(feeds(tiny))["logits"], float_model(feeds(tiny))["logits"]
    assert 10 * np.log10((wanted**2).mean() / ((wanted - found) ** 2).mean()) > 30  # weights are rounded, no more
    # minmax, pinned: what is not a grid of this target is named, and the model can be improved all the same
    assert quantize(tmp_path / "in", data=tiny.calib, ranges="minmax").drop.value < 30


def aimet_file(tmp_path, encodings, version="1.0.0"):
    path = tmp_path / "aimet.encodings"
    path.write_text(json.dumps({"version": version, **encodings}))
    return path


def activation(name, scale=0.05, zero=128):
    return {
        "name": name, "bw": 8, "dtype": "INT", "enc_type": "PER_TENSOR", "is_sym": False, "offset": [-zero],
        "scale": [scale],
    }  # fmt: skip


def test_encodings_of_aimet_are_completed(tiny, tmp_path):
    """AIMET writes no grid for biases and for what only passes values on."""
    weights = [
        {"name": name, "bw": 8, "dtype": "INT", "enc_type": "PER_CHANNEL", "is_sym": True, "offset": [-128.0] * count,
         "scale": [0.003 + 0.001 * i for i in range(count)]}
        for name, count in (("w1", 8), ("w2", 8), ("w3", 4))
    ]  # fmt: skip
    acts = [activation(name) for name in ("image", "r", "c", "s", "e", "m", "g", "logits")]
    path = aimet_file(tmp_path, {"activation_encodings": acts, "param_encodings": weights})
    result = apply_encodings(tiny.model, path, output=tmp_path / "out")
    plan, encodings = result.adopted.plan, result.adopted.encoded.encodings
    np.testing.assert_array_equal(encodings["b1"].scale, np.float32(0.05) * encodings["w1"].scale)
    assert plan.grids["f"].shares == "g"
    assert result.adopted.notes == (
        "1 tensors have no grid of their own and take that of what they pass on.",
        "3 biases got their int32 grid from the scales of input and weight.",
    )
    complete = read_encodings(tmp_path / "out" / names.ENCODINGS, load_model(tiny.model).graph)
    assert {"b1", "b2", "b3", "f"} <= set(complete)
    lowest = load_model(tmp_path / "out" / names.ARTIFACT).graph.initializers["w1_q"].const_value.numpy().min()
    assert lowest == -128  # AIMET's signed grids use their lowest code, where weights are clipped


def test_a_gap_is_named(tiny, tmp_path):
    there = [activation("image"), activation("r"), activation("m")]
    path = aimet_file(tmp_path, {"activation_encodings": there, "param_encodings": []})
    result = apply_encodings(tiny.model, path, output=tmp_path / "out")
    assert result.adopted.notes[-1] == (
        "3 tensors between integer operators have no grid and stay float, where a converter may calibrate them on its "
        "own: 'c', 's', 'g'."
    )
    assert result.adopted.plan.reasons["e"].endswith("has no grid for its output")


def test_lpbq_is_the_product_of_its_scales(tiny, tmp_path):
    scale, factors = np.arange(1, 5) / 100, np.arange(1, 9)
    entry = {
        "name": "w3", "bw": 8, "compressed_bw": 4, "dtype": "INT", "enc_type": "LPBQ", "is_sym": True, "block_size": 4,
        "scale": scale.tolist(), "offset": [-128] * 4, "per_block_int_scale": factors.tolist(),
    }  # fmt: skip
    path = aimet_file(tmp_path, {"activation_encodings": [activation("f")], "param_encodings": [entry]})
    apply_encodings(tiny.model, path, output=tmp_path / "out")
    graph = load_model(tmp_path / "out" / names.ARTIFACT).graph
    (node,) = [n for n in graph if n.op_type == "DequantizeLinear" and n.attributes.get_int("block_size", 0)]
    wanted = scale.astype(np.float32)[:, None] * factors.astype(np.float32).reshape(4, 2)
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), wanted)
    weight = load_model(tiny.model).graph.initializers["w3"].const_value.numpy()
    codes = node.inputs[0].const_value.numpy().astype(np.int8)
    np.testing.assert_array_equal(codes, np.clip(np.rint(weight / np.repeat(wanted, 4, 1)), -8, 7))


def test_import_takes_files_that_lint_complains_of(tmp_path):
    onnx.save(conv(Conv(bias_factor=3.0)), tmp_path / "m.onnx")
    result = import_qdq(tmp_path / "m.onnx", output=tmp_path / "in")
    assert result.parity.sqnr_db == {"y": None}
    assert {finding.rule for finding in result.lint.findings} == {"bias-scale"}


def test_import_shows_where_onnxruntime_makes_a_float_layer_an_integer_one(tmp_path):
    onnx.save(conv(Conv(float_weight=True)), tmp_path / "m.onnx")
    result = import_qdq(tmp_path / "m.onnx", output=tmp_path / "in")
    assert {finding.rule for finding in result.lint.findings} == {"bare-float"}
    assert 20 < result.parity.sqnr_db["y"] < 60  # the plan keeps it float, onnxruntime does not


def test_what_is_no_qdq_model_is_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match="holds no QuantizeLinear or DequantizeLinear: it is a float model"):
        import_qdq(tiny.model, output=tmp_path / "in")
    quantize_static(
        tiny.model, tmp_path / "q.onnx", Reader(feeds(tiny)["image"][:2]), quant_format=QuantFormat.QOperator
    )
    with pytest.raises(ModelError, match=r"computes in integers with QLinear.*only the QDQ form can be read"):
        import_qdq(tmp_path / "q.onnx", output=tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_half_a_pair_is_refused(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 21]> g (uint8[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {3}>
    { d = DequantizeLinear (x, s, z)  y = Relu (d) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"DequantizeLinear .* without its other half: models whose inputs or outputs"):
        import_qdq(tmp_path / "m.onnx", output=tmp_path / "in")


def test_encodings_of_another_model_are_refused(tiny, tmp_path):
    path = aimet_file(tmp_path, {"activation_encodings": [activation("other")], "param_encodings": []})
    with pytest.raises(SpecError, match=r"None of the 1 grids of the encodings file .* belongs to a float tensor"):
        apply_encodings(tiny.model, path, output=tmp_path / "out")
    with pytest.raises(SpecError, match=r"encodings file 'no.json' does not exist"):
        apply_encodings(tiny.model, "no.json", output=tmp_path / "out")
