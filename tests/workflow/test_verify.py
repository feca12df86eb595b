import json
import shutil

import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.artifact.samples import Samples, read_samples, write_samples
from fewbits.errors import ModelError, SpecError
from fewbits.workflow.quantize import quantize
from fewbits.workflow.verify import verify


@pytest.fixture
def folder(quantized_folder, tmp_path):
    return shutil.copytree(quantized_folder, tmp_path / "out")


def rehash(folder, name):
    """Make the record vouch for a changed file, so that only the outputs can tell."""
    record = json.loads((folder / names.RECORD).read_text())
    record["files"][name]["sha256"] = sha256(folder / name)
    (folder / names.RECORD).write_text(json.dumps(record))


def test_verify_passes_on_what_quantize_wrote(folder):
    result = verify(folder)
    assert result.passed
    assert result.certificate.samples == 4
    parity = result.certificate.outputs["logits"]
    assert (parity.differing, parity.values) == (0, 16)
    assert parity.float_db is not None
    assert 10 < parity.float_db < 60
    document = json.loads((folder / names.CERTIFICATE).read_text())
    assert document["passed"] is True
    assert document["conditions"]["versions"]["onnxruntime"]
    assert document["not_proven"]


def test_verify_runs_further_samples(folder, tiny):
    result = verify(folder, data=tiny.evaluation, samples=6)
    assert result.passed
    assert result.certificate.samples == 10


def test_verify_fails_where_one_weight_was_changed(folder):
    model = onnx.load(folder / names.ARTIFACT)
    weight = next(t for t in model.graph.initializer if t.name == "w3_q")
    codes = onnx.numpy_helper.to_array(weight).copy()
    codes[0, 0] = -codes[0, 0] or 5
    weight.CopyFrom(onnx.numpy_helper.from_array(codes, weight.name))
    onnx.save(model, folder / names.ARTIFACT)
    result = verify(folder)
    assert not result.passed
    assert result.damaged == (names.ARTIFACT,)
    rehash(folder, names.ARTIFACT)
    result = verify(folder)
    assert not result.passed
    assert result.damaged == ()
    assert 1 <= result.certificate.differing <= 4


def test_verify_fails_on_a_single_bit_of_a_stored_output(folder):
    samples = read_samples(folder / names.SAMPLES)
    first = samples.outputs[0]["logits"].copy()
    first[0, 0] = np.nextafter(first[0, 0], np.float32(np.inf))
    write_samples(folder / names.SAMPLES, Samples(samples.feeds, ({"logits": first}, *samples.outputs[1:])))
    rehash(folder, names.SAMPLES)
    result = verify(folder)
    assert result.certificate.differing == 1
    assert json.loads((folder / names.CERTIFICATE).read_text())["passed"] is False


def test_verify_refuses_what_it_cannot_do(folder, tmp_path):
    with pytest.raises(SpecError, match="Cannot verify on 'phone': choose one of ort-cpu"):
        verify(folder, on="phone")
    with pytest.raises(SpecError, match=r"no record\.json"):
        verify(tmp_path)
    (folder / names.SAMPLES).unlink()
    with pytest.raises(ModelError, match=r"holds no samples to run \(samples\.npz\): give some with --data"):
        verify(folder)


def test_verify_refuses_an_artifact_scored_elsewhere(folder):
    record = json.loads((folder / names.RECORD).read_text())
    record["options"]["run_options"] = {"provider": "cuda", "threads": 0}
    (folder / names.RECORD).write_text(json.dumps(record))
    with pytest.raises(SpecError, match="scored on 'cuda'"):
        verify(folder)


def test_verify_tells_what_a_session_with_default_options_makes_of_it(tmp_path):
    """onnxruntime runs int8 MatMul under 16-bit activations with 8-bit activations unless it is told not to."""
    rng = np.random.default_rng(3)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 8, 64] x) => (float[N, 8, 32] y) { y = MatMul(x, w) }'
    )
    weight = rng.standard_normal((64, 32)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    feeds = {"x": rng.standard_normal((8, 8, 64)).astype(np.float32)}
    quantize(model, data=feeds, precision="w8a16", output=tmp_path / "out")
    parity = verify(tmp_path / "out").certificate.outputs["y"]
    assert parity.differing == 0
    assert parity.plain_db is not None
    assert parity.plain_db < 60
    assert parity.exact_db is None or parity.exact_db > 90
