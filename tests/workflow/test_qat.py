"""Step 5: training without labels by the verb, and in a loop of the user's own, to the ordinary artifact."""

import copy

import numpy as np
import pytest
from workers_cases import CALIB, EVAL, MODEL

import fewbits
from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.improvement.methods import METHODS, Kind, parse_methods
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.workflow.improve_steps import check_order
from fewbits.workflow.qat import train, trainable
from fewbits.workflow.quantize import quantize
from fewbits.workflow.verify import verify

torch = pytest.importorskip("torch")

ONE = RunOptions(threads=1)
SCORED = {"data": CALIB, "eval_data": EVAL, "samples": 256, "run_options": ONE}
SHORT = fewbits.Training(steps=80, rate=0.006)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The digits example in w4a4, trained without labels."""
    output = tmp_path_factory.mktemp("qat") / "out"
    return train(MODEL, precision="w4a4", methods="qat", training=SHORT, output=output, **SCORED)


def test_training_brings_outputs_and_score_closer_to_float(run):
    (row,) = run.methods
    assert run.score.value > run.before.value
    assert row.output.error < 0.9 * run.record.improvement["output_before"]["error"]
    before, after = row.objective
    assert after < before
    assert any("Training took 80 steps" in note for note in run.record.notes)


def test_what_was_trained_is_pinned_and_kept_by_later_verbs(run, tmp_path):
    again = quantize(run.output, precision="w4a4", output=tmp_path / "again", **SCORED)
    assert set(run.record.pinned) == set(run.quantized.pinned)
    assert len(run.quantized.pinned) > 4
    for key, encoding in run.quantized.encodings.items():
        assert np.array_equal(again.encodings[key].scale, encoding.scale), key
        assert np.array_equal(again.encodings[key].zero_point, encoding.zero_point), key
    assert (tmp_path / "again" / names.ARTIFACT).read_bytes() == (run.output / names.ARTIFACT).read_bytes()
    assert again.score.value == run.score.value
    assert verify(run.output).passed


def test_the_float_model_as_it_was_travels_along(run):
    assert run.float_score.value == run.before.value + run.record.improvement["before_drop"]
    assert (run.output / names.REFERENCE).is_file()


def test_a_module_made_of_a_run_refers_to_the_float_model_as_it_was(run):
    module = trainable(run.output, data=CALIB, precision="w4a4", samples=64, run_options=ONE).eval()
    name, images = module.graph.input_names[0], np.load(EVAL)["image"][:100]
    with torch.no_grad():
        (found,) = module.reference({name: torch.from_numpy(images)}).values()
        (trained,) = module.graph({name: torch.from_numpy(images)}).values()
    (wanted,) = open_session(run.output / names.REFERENCE, options=ONE)({name: images}).values()
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3 * np.abs(wanted).max())
    assert np.abs(trained.numpy() - wanted).max() > 0.05 * np.abs(wanted).max()


def test_equal_seeds_give_equal_bytes(tmp_path):
    training = fewbits.Training(steps=8, rate=0.002, seed=3)
    for name in ("one", "two"):
        train(MODEL, precision="w4a4", methods="qat", training=training, output=tmp_path / name, **SCORED)
    one, two = ((tmp_path / name / names.ARTIFACT).read_bytes() for name in ("one", "two"))
    assert one == two


def test_nothing_follows_training_and_auto_does_not_train():
    with pytest.raises(SpecError, match="gptq would undo qat: name qat last"):
        check_order(parse_methods("qat,gptq"))
    check_order(parse_methods("cle,gptq,qat"))
    assert [method.name for method in METHODS if method.kind is Kind.TRAIN] == ["qat"]


def labelled(module: torch.nn.Module, steps: int) -> list[float]:
    """Train in a loop of one's own, with labels; return the losses."""
    calib = np.load(EVAL)
    feeds, labels = (torch.from_numpy(calib[name]) for name in (module.graph.input_names[0], "labels"))
    optimizer = torch.optim.Adam(module.parameter_groups(1e-3, scale_lr=1e-3))
    losses = []
    module.train()
    for step in range(steps):
        part = slice(64 * step % 512, 64 * step % 512 + 64)
        (logits,) = module(feeds[part]).values()
        loss = torch.nn.functional.cross_entropy(logits, labels[part].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def module():
    """The digits example in w4a4 after a loop with labels."""
    made = trainable(MODEL, data=CALIB, precision="w4a4", samples=256, run_options=ONE)
    losses = labelled(made, 40)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    return made.eval()


def test_the_exported_file_computes_what_the_module_does(module, tmp_path):
    found = module.export(tmp_path / "out", metric="top1", eval_data=EVAL)
    strict = open_session(tmp_path / "out" / names.ARTIFACT, policy=SessionPolicy.EXACT, options=ONE)
    images = np.load(EVAL)[module.graph.input_names[0]][:200]
    feeds = {module.graph.input_names[0]: images}
    with torch.no_grad():
        (mine,) = module(torch.from_numpy(images)).values()
    (theirs,) = strict.run(strict.output_names, feeds).values()
    scale = float(np.ravel(found.encodings[strict.output_names[0]].scale)[0])
    off = np.abs(np.rint((mine.numpy() - theirs) / scale))
    assert (off <= 1).mean() >= 0.999
    assert (mine.numpy().argmax(1) == theirs.argmax(1)).mean() > 0.99
    assert verify(tmp_path / "out").passed
    again = quantize(tmp_path / "out", precision="w4a4", data=CALIB, eval_data=EVAL, metric="top1", run_options=ONE)
    assert again.score.value == found.score.value


def test_weights_and_scales_survive_save_and_load(module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "state.pt")
    fresh = trainable(MODEL, data=CALIB, precision="w4a4", samples=256, run_options=ONE)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for other in (fresh, copy.deepcopy(module)):
        for name, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        one, two = module.finish(), other.finish()
        assert all(np.array_equal(e.scale, two.encodings[k].scale) for k, e in one.encodings.items())


def test_a_torch_module_becomes_trainable_in_one_call():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    net.append(torch.nn.Linear(4 * 36, 10))
    name = np.load(CALIB).files[0]
    images = np.load(CALIB)[name][:64]
    made = fewbits.qat.from_torch(net, torch.zeros(2, 1, 8, 8), data=images, precision="w8a8", run_options=ONE)
    with torch.no_grad():
        wanted = net.eval()(torch.from_numpy(images))
        (given,) = made.eval()(torch.from_numpy(images)).values()
    error = (given - wanted).pow(2).mean() / wanted.var()
    assert float(error) < 1e-3
    assert any(p.requires_grad for p in made.parameters())
