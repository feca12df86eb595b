"""Channels rescaled before rounding: the float model in their sizes is kept, and later runs aim at it."""

import shutil

import numpy as np
import onnx
import pytest
from workers_cases import CALIB, MODEL

from fewbits.artifact import names
from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.export import export
from fewbits.workflow.improve import improve
from fewbits.workflow.improve_models import floating_model
from fewbits.workflow.qat import trainable
from fewbits.workflow.quantize import quantize
from fewbits.workflow.source import open_source
from fewbits.workflow.subject import open_subject
from fewbits.workflow.verify import verify

pytest.importorskip("torch")

from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch

ONE = RunOptions(threads=1)
SCORED = {"data": CALIB, "samples": 32, "metric": "sqnr", "precision": "w4a8", "ranges": "minmax", "run_options": ONE}


def improved(model, methods: str, **options: object):
    return improve(model, methods=methods, auto=False, **{**SCORED, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The digits example, equalized and rounded: Clips became one Min with a bound per channel."""
    output = tmp_path_factory.mktemp("unrounded") / "out"
    improved(MODEL, "cle,gptq", output=output)
    return output


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def weights(model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def digits(count: int = 16) -> dict[str, np.ndarray]:
    with np.load(CALIB) as arrays:
        return {"image": arrays["image"][:count]}


def assert_alike(one, other):
    """Assert that two runs ended with the same weights and outputs."""
    left, right = (weights(found.calibration.model) for found in (one, other))
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_allclose(values, right[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert one.score.value == pytest.approx(other.score.value, abs=0.01)


@pytest.mark.parametrize(
    ("first", "precision"), [("cle", "w4a8"), ("cle,seq-mse", "w4a8"), ("balance,bias-correction", "w8a8")]
)
def test_two_runs_end_as_one_does(tmp_path, first, precision):
    improved(MODEL, first, precision=precision, output=tmp_path / "out")
    one = improved(MODEL, f"{first},gptq", precision=precision)
    two = improved(tmp_path / "out", "gptq", precision=precision)
    assert all(row.changed and row.kept for row in (*one.methods, *two.methods))
    assert_alike(one, two)


def test_the_float_model_of_equalized_weights_is_kept(folder):
    assert (folder / names.UNROUNDED).is_file()
    subject = open_subject(folder, data=CALIB)
    floating, which, notes = floating_model(subject)
    assert (which, notes) == ("unrounded", ())
    assert floating is subject.source.unrounded
    wanted, given = (weights(model) for model in (floating, subject.model))
    for name in (name for name in subject.source.pinned if name in wanted):
        step = np.abs(wanted[name]).reshape(len(wanted[name]), -1).max(axis=1).max() / 7
        assert np.abs(given[name] - wanted[name]).max() < 4 * step, name
    one, two = (open_session(folder / name)(digits())["logits"] for name in (names.UNROUNDED, names.REFERENCE))
    np.testing.assert_allclose(one, two, atol=1e-3 * np.abs(two).max())


def test_a_module_to_train_refers_to_it(folder):
    module = trainable(folder, data=CALIB, samples=32, precision="w4a8", run_options=ONE)
    wanted = TorchGraph(load_model(folder / names.UNROUNDED)).eval()
    one, two = (graph(feeds_to_torch(digits(), "cpu"))["logits"] for graph in (module.reference, wanted))
    np.testing.assert_array_equal(one.detach().numpy(), two.detach().numpy())


def test_it_goes_on_to_the_next_folder(folder, tmp_path):
    again = quantize(folder, output=tmp_path / "again", **SCORED)
    export(again.output, output=tmp_path / "handed")
    kept = [model_key(load_model(path / names.UNROUNDED)) for path in (folder, tmp_path / "again", tmp_path / "handed")]
    assert len(set(kept)) == 1
    assert names.UNROUNDED in again.record.files
    assert verify(folder).passed


def test_scores_stay_those_against_the_model_as_it_was(tmp_path):
    """Replacing Clips changes what the network computes: what it lost by that is counted, before rounding and after."""
    one = improved(MODEL, "cle,gptq", clips="replace", output=tmp_path / "out")
    subject = open_subject(tmp_path / "out", data=CALIB)
    assert floating_model(subject)[1] == "unrounded"
    assert model_key(subject.reference_model) == model_key(open_source(MODEL).model)
    assert quantize(tmp_path / "out", **SCORED).score.value == pytest.approx(one.score.value, abs=0.01)


@pytest.mark.parametrize(("methods", "there"), [("cle", False), ("gptq", False), ("cle,gptq", True)])
def test_it_is_written_where_it_differs_from_what_lies_there(tmp_path, methods, there):
    run = improved(MODEL, methods, output=tmp_path / "out")
    assert (tmp_path / "out" / names.UNROUNDED).is_file() is there
    assert (names.UNROUNDED in run.record.files) is there
    which = {"cle": "companion", "gptq": "reference", "cle,gptq": "unrounded"}
    assert floating_model(open_subject(tmp_path / "out", data=CALIB))[1] == which[methods]


def test_a_run_without_it_removes_that_of_an_earlier_one(copied):
    quantize(MODEL, output=copied, **SCORED)
    assert not (copied / names.UNROUNDED).exists()


def test_it_is_missed_where_it_is_gone(copied):
    (copied / names.UNROUNDED).unlink()
    with pytest.raises(
        ModelError, match=r"lacks model\.unrounded\.onnx, the float model that its weights were rounded from"
    ):
        open_source(copied)


def test_one_of_another_network_is_refused(copied):
    model = onnx.load(copied / names.UNROUNDED)
    model.graph.node[0].name = "another"
    onnx.save(model, copied / names.UNROUNDED)
    with pytest.raises(ModelError, match=r"model\.unrounded\.onnx in '.*' has other nodes or constants than model\.fl"):
        open_source(copied)
