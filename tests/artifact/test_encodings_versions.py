"""Layouts 0.6.1 and 2.0.0: what they look like, and that nothing is lost on the way there and back."""

import json

import numpy as np
import pytest

import fewbits
from fewbits.artifact import names
from fewbits.artifact.encodings_json import encodings_document
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.encodings_versions import VERSIONS, as_1_0_0, as_version
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


def made(calibration, profile):
    found = quantize_calibrated(calibration, profile, ranges="minmax")
    return found, encodings_document(calibration.model.graph, found.plan, found.encodings, producer="0")


PROFILES = ["w8a8", "w8a16", "w16a16", "w4a8", "w6a6", Profile.parse("w8a8", {"head": "fp16", "conv2": "w8a16"})]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_every_way_is_lossless(calibration, tmp_path, version, profile):
    found, document = made(calibration, profile)
    there = json.loads(json.dumps(as_version(document, version)))
    assert there["version"] == version
    back = as_1_0_0(there)
    for section in ("activation_encodings", "param_encodings"):
        assert {e["name"]: e for e in back[section]} == {e["name"]: e for e in document[section]}
    assert back["fewbits"] == document["fewbits"]
    (tmp_path / "e.json").write_text(json.dumps(there))
    read = read_encodings(tmp_path / "e.json", calibration.model.graph)
    for name, encoding in read.items():
        assert encoding.spec == found.encodings[name].spec
        np.testing.assert_array_equal(encoding.scale, found.encodings[name].scale)
        np.testing.assert_array_equal(encoding.zero_point, found.encodings[name].zero_point)


def test_0_6_1_has_a_grid_per_channel_with_its_ends(calibration):
    found, document = made(calibration, "w8a8")
    there = as_version(document, "0.6.1")
    (grid,) = there["activation_encodings"]["r"]
    encoding = found.encodings["r"]
    assert grid["offset"] == -float(encoding.zero_point)
    assert grid["is_symmetric"] == "False"
    assert grid["max"] - grid["min"] == pytest.approx(255 * float(encoding.scale))
    assert len(there["param_encodings"]["w1"]) == 8
    assert {g["offset"] for g in there["param_encodings"]["w1"]} == {-128.0}
    assert there["param_encodings"]["b1"][0]["bitwidth"] == 32
    assert there["quantizer_args"] == {
        "activation_bitwidth": 8, "param_bitwidth": 8, "dtype": "int", "is_symmetric": True,
        "per_channel_quantization": True, "quant_scheme": "post_training_tf",
    }  # fmt: skip


def test_0_6_1_says_float16_in_its_own_words(calibration):
    _, document = made(calibration, Profile.parse("w8a8", {"head": "fp16"}))
    assert as_version(document, "0.6.1")["param_encodings"]["w3"] == [{"bitwidth": 16, "dtype": "float"}]


def test_2_0_0_is_flat_and_speaks_onnx(calibration):
    found, document = made(calibration, Profile.parse("w8a8", {"head": "fp16"}))
    grids = {grid["name"]: grid for grid in as_version(document, "2.0.0")["encodings"]}
    assert grids["image"] == {
        "name": "image", "output_dtype": "uint8", "y_scale": float(found.encodings["image"].scale),
        "y_zero_point": int(found.encodings["image"].zero_point),
    }  # fmt: skip
    assert (grids["w1"]["output_dtype"], grids["w1"]["axis"], len(grids["w1"]["y_scale"])) == ("int8", 0, 8)
    assert "y_zero_point" not in grids["w1"]
    assert "y_zero_point" not in grids["r"]  # after Relu: 0
    assert grids["b1"]["output_dtype"] == "int32"
    assert "w3" not in grids


def test_files_of_aimet_are_read(calibration, tmp_path):
    old = {
        "version": "0.6.1", "producer": {}, "quantizer_args": {},
        "activation_encodings": {
            "r": [{"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "offset": -3.0, "scale": 0.5}]
        },
        "param_encodings": {"w1": [
            {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "offset": -128.0, "scale": 0.1}
        ] * 8},
    }  # fmt: skip
    new = {
        "version": "2.0.0",
        "encodings": [
            {"name": "r", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 3},
            {"name": "w1", "output_dtype": "int8", "axis": 0, "y_scale": [0.1] * 8},
        ],
    }
    found = []
    for document in (old, new):
        (tmp_path / "e.json").write_text(json.dumps(document))
        found.append(read_encodings(tmp_path / "e.json", calibration.model.graph))
    for left, right in zip(*(one.values() for one in found), strict=True):
        assert left.spec == right.spec
        np.testing.assert_array_equal(left.scale, right.scale)
        np.testing.assert_array_equal(left.zero_point, right.zero_point)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"version": "3.0"}, r"cannot be read. It has version '3.0'; fewbits reads 0.6.1, 1.0.0, 2.0.0"),
        ({"version": "2.0.0"}, "not what its version demands: KeyError 'encodings'"),
        ({"version": "0.6.1", "activation_encodings": {"x": []}}, r"not what its version demands: IndexError"),
        ({"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "float", "y_scale": 1}]}, "ValueError"),
        ({"version": "2.0.0", "encodings": [{"name": "w", "output_dtype": "int4", "y_scale": [], "block_size": 4}]},
         "KeyError 'axis'"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(calibration, tmp_path, document, message):
    (tmp_path / "e.json").write_text(json.dumps(document))
    with pytest.raises(SpecError, match=message):
        read_encodings(tmp_path / "e.json", calibration.model.graph)


@pytest.mark.parametrize("version", ["0.6.1", "2.0.0"])
def test_export_writes_the_version_and_vouches_for_it(quantized_folder, tmp_path, version):
    fewbits.export(quantized_folder, output=tmp_path / "out", encodings_version=version)
    assert json.loads((tmp_path / "out" / names.ENCODINGS).read_text())["version"] == version
    assert fewbits.verify(tmp_path / "out").passed


@pytest.mark.parametrize("version", VERSIONS)
def test_export_writes_the_commands_for_the_layout(quantized_folder, tmp_path, version):
    fewbits.export(quantized_folder, output=tmp_path / "out", encodings_version=version)
    text = (tmp_path / "out" / names.COMMANDS).read_text()
    assert f"{names.ENCODINGS} has AIMET's layout {version}." in text
    assert ("\nqnn-onnx-converter" in text) == (version != "2.0.0")
    same = text == (quantized_folder / names.COMMANDS).read_text()
    assert same == (version == "1.0.0")


def test_users_write_into_the_commands_and_older_folders_have_none(quantized_folder, tmp_path):
    fewbits.export(quantized_folder, output=tmp_path / "a")
    (tmp_path / "a" / names.COMMANDS).write_text("# my chip\n")
    assert fewbits.verify(tmp_path / "a").passed
    fewbits.export(tmp_path / "a", output=tmp_path / "b")
    (tmp_path / "b" / names.COMMANDS).unlink()
    fewbits.export(tmp_path / "b", output=tmp_path / "c")
    assert (tmp_path / "c" / names.COMMANDS).read_text() == (quantized_folder / names.COMMANDS).read_text()


def test_an_unknown_version_is_refused_and_nothing_written(quantized_folder, tmp_path):
    with pytest.raises(SpecError, match=r"Unknown encodings version '9': write one of 0.6.1, 1.0.0, 2.0.0"):
        fewbits.export(quantized_folder, output=tmp_path / "out", encodings_version="9")
    assert not (tmp_path / "out").exists()
