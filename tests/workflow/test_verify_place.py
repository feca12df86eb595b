"""Verify in OpenVINO and on stand-ins: certificates, scores, localization, and what is refused."""

import importlib.util
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from fewbits.artifact import names
from fewbits.deployment import places
from fewbits.errors import MissingExtraError, ModelError, SpecError
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow.quantize import quantize
from fewbits.workflow.verify import verify
from fewbits.workflow.verify_score import AnySize

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO: pip install '.[openvino]'"
)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture(scope="module", params=["w8a8", "fp16"])
def run(request, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place") / request.param
    quantize(
        tiny.model, precision=request.param, data=tiny.calib, eval_data=tiny.evaluation, output=folder, ranges="mse"
    )
    return folder


@pytest.fixture
def stand_in(monkeypatch):
    """Let ONNX Runtime, with something added to an output, stand for OpenVINO."""

    def make(change):
        @contextmanager
        def open_(job):
            runner = open_session(job.model, policy=SessionPolicy.EXACT)
            yield lambda feeds: change(runner(feeds))

        row = places.Place("openvino", "a stand-in", lambda: None, open_, False, "numpy")
        monkeypatch.setattr(places, "PLACES", {**places.PLACES, "openvino": row})
        monkeypatch.setattr("fewbits.workflow.verify.PLACES", {**places.PLACES, "openvino": row})

    return make


def test_a_place_that_does_the_same_passes_with_its_score(run, tiny, stand_in):
    stand_in(lambda outputs: outputs)
    found = verify(run, on="openvino", data=tiny.evaluation, samples=3, metric="top1", eval_samples=20)
    assert found.passed
    score = found.certificate.score
    assert score.samples == 20
    assert score.sim == score.place
    assert (score.lost, score.interval) == (0.0, (0.0, 0.0))
    assert found.certificate.samples == 4 + 3
    document = json.loads((run / names.PLACE_CERTIFICATES["openvino"]).read_text())
    assert document["outputs"]["logits"]["passed"] is True
    assert document["place"] == "a stand-in"
    assert not any("score" in sentence for sentence in document["not_proven"])
    assert document["limits"][0] == "Only the 7 samples counted here were run."


def test_float_is_what_the_companion_was_improved_from(run, tiny, stand_in, tmp_path):
    stand_in(lambda outputs: outputs)
    shutil.copytree(run, tmp_path / "out")
    model = onnx.load(run / names.FLOAT)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b3")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([99, 0, 0, 0], np.float32), "b3"))
    onnx.save(model, tmp_path / "out" / names.REFERENCE)
    usual, other = (
        verify(folder, on="openvino", data=tiny.evaluation, samples=3, metric="top1").certificate
        for folder in (run, tmp_path / "out")
    )
    labels = np.load(tiny.evaluation)["labels"]
    assert other.score.float_ == pytest.approx(100 * (labels == 0).mean())
    assert usual.score.float_ != other.score.float_
    assert usual.score.sim == other.score.sim
    assert other.outputs["logits"].float_db < 5 < usual.outputs["logits"].float_db


@needs_torch
def test_fp16_is_compared_with_what_computes_in_it(run, stand_in):
    stand_in(lambda outputs: outputs)
    found = verify(run, on="openvino")
    is_half = run.name == "fp16"
    assert ("torch executor" in found.certificate.reference) is is_half
    assert (found.certificate.outputs["logits"].place_db is not None) is is_half  # ONNX Runtime is not torch


def test_a_place_that_does_something_else_fails_and_is_looked_into(run, stand_in):
    def louder(outputs):
        return {name: value + (name == "logits") * np.float32(2) * value for name, value in outputs.items()}

    stand_in(louder)
    found = verify(run, on="openvino")
    assert not found.passed
    output = found.certificate.outputs["logits"]
    assert output.place_db < 5
    assert sum(share for _, share in output.channels) == pytest.approx(1)
    localized = found.certificate.localized
    assert localized.output == "logits"
    assert set(localized.tapped_by_op) >= {"Conv", "Add", "Gemm"}
    if run.name == "w8a8":  # in fp16 the float16 tensor before the last Cast is looked at, which is not louder
        assert localized.tensors[0].node == "head"
        assert localized.tensors[0].alone_db == pytest.approx(-6.02, abs=0.01)
        assert {one.alone_db for one in localized.tensors[1:]} == {None}


@needs_openvino
def test_openvino_follows_the_simulation(run, tiny):
    found = verify(run, on="openvino", data=tiny.evaluation, metric="top1", eval_samples=40)
    assert found.passed, found.certificate.outputs
    assert abs(found.certificate.score.lost) <= 5
    assert found.certificate.conditions["versions"]["openvino"]


@needs_openvino
@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "w4a8"])
def test_models_for_openvino_are_followed_by_it(precision, tmp_path):
    quantize(
        DIGITS / "digits.onnx", precision=precision, data=DIGITS / "calib.npz", metric="sqnr", ranges="mse", samples=32,
        target="openvino", output=tmp_path / "o",
    )  # fmt: skip
    found = verify(tmp_path / "o", on="openvino")
    assert found.passed, found.certificate.outputs


@needs_openvino
def test_what_openvino_cannot_load_is_one_sentence(run, tmp_path):
    job = places.PlaceJob(tmp_path / "no.onnx", {}, None, tmp_path, 60)
    with pytest.raises(ModelError, match=r"OpenVINO cannot run 'no.onnx': .*"), places.PLACES["openvino"].open(job):
        pass


TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N, L] x, float[5] fixed) => (float[N, 1] y)
<int64[1] axes = {1}> { y = ReduceSum (x, axes) }"""


def test_a_place_is_opened_anew_for_each_size_and_takes_batches_apart(tmp_path):
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    opened, fed = [], []

    @contextmanager
    def open_(job):
        opened.append(dict(job.dims))

        def run(feeds):
            fed.append(feeds["x"].shape)
            return {"y": feeds["x"].sum(axis=1, keepdims=True)}

        yield run
        opened.append("closed")

    place = places.Place("openvino", "a stand-in", lambda: None, open_, False, "numpy")
    job = places.PlaceJob(tmp_path / "m.onnx", {}, None, tmp_path, 60)
    with AnySize(place, job) as served:
        found = served({"x": np.arange(6.0).reshape(3, 2), "fixed": np.ones(5)})
        np.testing.assert_array_equal(found["y"], [[1], [5], [9]])
        served({"x": np.ones((1, 4)), "fixed": np.ones(5)})
    assert fed == [(1, 2)] * 3 + [(1, 4)]
    assert opened == [{"N": 1, "L": 2}, "closed", {"N": 1, "L": 4}, "closed"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"on": "moon"}, SpecError, "Cannot verify on 'moon': choose one of ort-cpu, qnn-htp, openvino"),
        ({"metric": "top1", "data": "x.npz"}, SpecError, "On ort-cpu every byte is compared .*: leave --metric out"),
        ({"on": "openvino", "metric": "top1"}, SpecError, "A metric needs data to score on: add --data"),
        ({"on": "qnn-htp", "soc": "sm1"}, SpecError, "Unknown chip 'sm1'"),
    ],
)
def test_what_cannot_be_asked_is_refused(run, options, error, match):
    with pytest.raises(error, match=match):
        verify(run, **options)


def test_without_the_extra_it_says_which(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"OpenVINO is not installed: pip install 'fewbits\[openvino\]'"):
        verify(run, on="openvino")


def test_a_folder_without_samples_needs_data(run, tiny, tmp_path, stand_in):
    import shutil

    folder = shutil.copytree(run, tmp_path / "o")
    (folder / names.SAMPLES).unlink()
    with pytest.raises(ModelError, match=r"holds no samples to run \(samples.npz\): give some with --data"):
        verify(folder)
    stand_in(lambda outputs: outputs)
    found = verify(folder, on="openvino", data=tiny.calib, samples=2)
    assert found.certificate.samples == 2
    assert not found.passed  # the record vouches for samples that are gone
