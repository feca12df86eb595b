import json

import numpy as np
import pytest

from fewbits.artifact.encodings_json import encodings_document
from fewbits.artifact.encodings_read import read_encodings
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.spec.dtypes import DType, PerChannel, PerTensor, QuantSpec
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


def document_of(calibration, profile):
    made = quantize_calibrated(calibration, profile)
    return made, encodings_document(calibration.model.graph, made.plan, made.encodings, producer="0")


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8", "w4a4", "w6a6", "w3a16"])
def test_read_encodings_gives_back_every_grid(calibration, tmp_path, precision):
    made, document = document_of(calibration, precision)
    path = tmp_path / "e.json"
    path.write_text(json.dumps(document))
    found = read_encodings(path, calibration.model.graph)
    assert set(found) == set(made.encodings)
    for name, encoding in found.items():
        assert encoding.spec == made.encodings[name].spec
        np.testing.assert_array_equal(encoding.scale, made.encodings[name].scale)
        np.testing.assert_array_equal(encoding.zero_point, made.encodings[name].zero_point)


def test_encodings_document_covers_float_tensors_with_their_width(calibration):
    _, document = document_of(calibration, Profile.parse("w8a8", {"head": "fp16"}))
    entries = {e["name"]: e for section in ("activation", "param") for e in document[f"{section}_encodings"]}
    assert entries["logits"] == {"name": "logits", "bw": 16, "dtype": "FLOAT", "enc_type": "PER_TENSOR"}
    assert entries["w3"]["dtype"] == "FLOAT"
    assert entries["e"]["dtype"] == "INT"  # what Erf computes in float, Mul reads on a grid
    graph = calibration.model.graph
    tensors = {str(v.name) for node in graph for v in node.outputs} | set(graph.initializers) | {"image"}
    assert tensors - set(entries) == {"a"}  # inside Conv + Relu


def test_encodings_document_keeps_a_second_grid_of_a_tensor_apart(calibration):
    made, document = document_of(calibration, Profile.parse("w8a8", {"conv2": "w8a16"}))
    extra = {entry["key"] for entry in document["fewbits"]["conversions"]}
    assert extra == {key for key, grid in made.plan.grids.items() if key != grid.tensor}
    assert extra


def test_read_encodings_understands_a_file_of_aimet(calibration, tmp_path):
    entries = {
        "version": "1.0.0",
        "activation_encodings": [
            {"name": "r", "bw": 8, "dtype": "INT", "enc_type": "PER_TENSOR", "is_sym": False, "offset": [-143.0],
             "scale": [0.5]},
            {"name": "s", "bw": 16, "dtype": "FLOAT", "enc_type": "PER_TENSOR"},
        ],
        "param_encodings": [
            {"name": "w1", "bw": 8, "dtype": "INT", "enc_type": "PER_CHANNEL", "is_sym": True,
             "offset": [-128] * 8, "scale": [0.25] * 8},
        ],
    }  # fmt: skip
    path = tmp_path / "aimet.json"
    path.write_text(json.dumps(entries))
    found = read_encodings(path, calibration.model.graph)
    assert found.keys() == {"r", "w1"}
    assert found["r"].spec == QuantSpec(DType.UINT8, 8, is_symmetric=False, granularity=PerTensor())
    assert int(found["r"].zero_point) == 143
    assert found["w1"].spec == QuantSpec(DType.INT8, 8, is_symmetric=True, granularity=PerChannel(0))
    assert not found["w1"].zero_point.any()


def test_offsets_of_signed_grids_count_from_the_lowest_code(calibration):
    made, document = document_of(calibration, "w4a8")
    weights = {e["name"]: e for e in document["param_encodings"]}
    assert weights["w1"]["offset"] == [-8.0] * 8
    assert weights["w1"]["bw"] == 4
    activations = {e["name"]: e for e in document["activation_encodings"]}
    assert activations["image"]["offset"] == [-float(made.encodings["image"].zero_point)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read as JSON"),
        ('{"version": "0.5.0"}', "version '0.5.0'; fewbits reads 0.6.1, 1.0.0, 2.0.0"),
        ('{"version": "1.0.0"}', "lacks the list 'activation_encodings'"),
        ('{"version": "1.0.0", "activation_encodings": [{"name": "r"}], "param_encodings": []}', "entry that cannot"),
        ("[]", "version None"),
    ],
)
def test_read_encodings_refuses_what_is_no_encodings_file(calibration, tmp_path, text, match):
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=match):
        read_encodings(path, calibration.model.graph)


def test_read_encodings_names_a_missing_file(calibration, tmp_path):
    with pytest.raises(SpecError, match="does not exist"):
        read_encodings(tmp_path / "none.json", calibration.model.graph)
