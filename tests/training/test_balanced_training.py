"""Training begins with balanced channels where held-out samples gain by it, and hands on the float model in them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import fewbits
from fewbits.artifact import names
from fewbits.graph.load import load_model
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.improve_models import floating_model
from fewbits.workflow.subject import open_subject

torch = pytest.importorskip("torch")

from fewbits.spec.plan import Role  # noqa: E402
from fewbits.training import torch_qat  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SCORED = {"data": DIGITS / "calib.npz", "metric": lambda _: 0.0, "higher_is_better": True, "samples": 128,
          "ranges": "minmax", "precision": "w8a8", "run_options": RunOptions(threads=1)}  # fmt: skip


def trained(methods: str = "qat", model: Path = DIGITS / "digits.onnx", **options: object):
    """Train for next to nothing: what differs is what comes before it."""
    training = fewbits.Training(steps=2, rate=1e-6)
    return fewbits.qat.train(model, methods=methods, training=training, **SCORED, **options)


def balancing(result) -> list[str]:
    return [note for note in result.record.notes if "Before training, channels" in note]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("balanced") / "out"
    (note,) = balancing(trained(output=output))
    before, after = (float(word.rstrip(".")) for word in note.split(" from ")[1].split(" to "))
    assert after < before
    return output


def test_it_does_not_where_held_out_samples_lose(monkeypatch):
    original = torch_qat.balance

    def spoilt(start, *others):
        found = original(start, *others)
        activations = [key for key, grid in start.plan.grids.items() if grid.role is Role.ACTIVATION]
        given = found.start.encodings
        wide = {key: dataclasses.replace(given[key], scale=30 * given[key].scale) for key in activations}
        return dataclasses.replace(found, start=dataclasses.replace(found.start, encodings={**given, **wide}))

    monkeypatch.setattr(torch_qat, "balance", spoilt)
    assert not balancing(trained())


def test_what_is_balanced_is_not_balanced_again(folder):
    result = trained("balance,qat")
    assert result.methods[0].changed
    assert not balancing(result)
    assert not balancing(trained(model=folder))


def test_later_verbs_keep_a_balanced_network(folder, tmp_path):
    fewbits.quantize(folder, output=tmp_path / "again", **SCORED)
    assert (folder / names.ARTIFACT).read_bytes() == (tmp_path / "again" / names.ARTIFACT).read_bytes()
    one, two = (model_key(load_model(path / names.UNROUNDED)) for path in (folder, tmp_path / "again"))
    assert one == two
    assert fewbits.verify(folder).passed


def test_the_float_model_of_a_balanced_folder_is_in_its_channels(folder):
    """Weights are next to untrained: what they are rounded from is what they are, but for rounding."""
    floating, which, notes = floating_model(open_subject(folder, data=SCORED["data"]))
    assert (which, notes) == ("unrounded", ())
    companion, original = (load_model(folder / name).graph for name in (names.FLOAT, names.REFERENCE))
    moved = 0
    for name in (layer.inputs[1].name for layer in companion if layer.op_type in ("Conv", "Gemm")):
        given, wanted, before = (
            of.initializers[name].const_value.numpy() for of in (companion, floating.graph, original)
        )
        assert np.linalg.norm(given - wanted) < 0.03 * np.linalg.norm(wanted), name
        moved += np.linalg.norm(wanted - before) > 0.1 * np.linalg.norm(before)
    assert moved > 10
    feeds = {"image": np.load(SCORED["data"])["image"][:8]}
    one, two = (open_session(folder / name)(feeds)["logits"] for name in (names.UNROUNDED, names.REFERENCE))
    np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(two).max())
