"""A plan as a module to train: it learns, evaluates as it will be exported, and hands back pins for the export."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from fewbits.artifact import names
from fewbits.artifact.encodings_json import encodings_document
from fewbits.errors import DataError, ModelError, SpecError
from fewbits.graph.save import to_bytes
from fewbits.quantization.profile import Profile
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.spec.dtypes import PerBlock
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Role
from fewbits.workflow.calibrate import calibrate, calibrate_subject
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.source import _pinned as stored_pins
from fewbits.workflow.stages import Stages

torch = pytest.importorskip("torch")

from trainable_cases import (  # noqa: E402
    DIGITS,
    OPTIONS,
    PRECISIONS,
    SHAPES,
    assert_same,
    calibration,
    feeds,
    images,
    made_of,
    outputs,
    train,
    trainable,
    trained,
)

from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402
from fewbits.runtime.torch_quantize import QuantizedGraph  # noqa: E402
from fewbits.training.torch_lsq import LearnedQuantizer  # noqa: E402
from fewbits.training.torch_trainable import Trainable  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_begins_as_the_quantized_model(precision):
    made = made_of(precision)
    wanted = QuantizedGraph(TorchGraph(calibration().model), made.plan, made.encodings).eval()
    net = trainable(precision).eval()
    # what is quantized has its own grid of biases; those given by calibration had wider weights, where any had
    given = net.finish().encodings
    for key, encoding in made.encodings.items():
        assert given[key].scale.tobytes() == encoding.scale.tobytes(), key
        assert given[key].zero_point.tolist() == encoding.zero_point.tolist(), key
    assert_same(outputs(net), outputs(wanted))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_evaluation_is_what_the_finished_encodings_say(precision):
    net, made = trained(precision), made_of(precision)
    found = net.finish()
    wanted = QuantizedGraph(TorchGraph(found.model), made.plan, found.encodings).eval()
    assert found.encodings.keys() == made.plan.grids.keys()
    assert_same(outputs(net), outputs(wanted))
    biases = [key for key, grid in made.plan.grids.items() if grid.role is Role.BIAS]
    assert biases
    for key in biases:
        source, weight = (found.encodings[parent].scale for parent in made.plan.grids[key].scaled_by)
        np.testing.assert_array_equal(found.encodings[key].scale, source * weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_ordinary_export_takes_every_grid_over(precision):
    net = trained(precision)
    found = net.finish()
    subject = calibration().subject
    source = replace(subject.source, model=found.model, pinned=found.pinned)
    again = calibrate_subject(replace(subject, source=source), samples=48, stages=Stages())
    made = quantize_calibrated(again, precision)
    assert made.pinned.keys() == found.pinned.keys()
    assert made.encodings.keys() == found.encodings.keys()
    for key, encoding in found.encodings.items():
        assert made.encodings[key].scale.tobytes() == encoding.scale.tobytes(), key
        assert made.encodings[key].zero_point.tolist() == encoding.zero_point.tolist(), key
    session = open_session(to_bytes(made.model), policy=SessionPolicy.EXACT, options=OPTIONS)
    exported, ours = session({"image": images()}), outputs(net)
    for name, value in ours.items():
        step = float(found.encodings[name].scale)
        np.testing.assert_allclose(exported[name], value, atol=(2.01 if precision != "w4a16" else 60) * step)
        assert np.mean(np.abs(exported[name] - value) > 0.01 * step) < 0.1 or precision == "w4a16"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_few_steps_lower_the_loss(precision):
    net = trainable(precision)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    losses = train(net, steps=25)
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    after = dict(net.named_parameters())
    learned = [name for name, value in after.items() if value.requires_grad]
    still = [name for name in learned if torch.equal(after[name], before[name])]
    assert all(name.endswith("zero_share") for name in still), still  # of ranges by minmax, some clip nothing
    assert any(name.endswith("zero_share") for name in set(learned) - set(still))
    assert {f"graph.{name}" for name in SHAPES if name != "half"} <= set(learned)


def test_parameters_have_onnx_names_and_grids_that_operators_fix_do_not_learn():
    net, plan = trainable(), made_of("w4a8").plan
    assert set(SHAPES) <= {name.removeprefix("graph.") for name, _ in net.named_parameters()}
    (fixed,) = {key for key, grid in plan.grids.items() if grid.fixed_range is not None and grid.tensor == "side"}
    for key, grid in plan.grids.items():
        quantizer = net.quantizer(key)
        if grid.role is Role.BIAS:
            assert not list(quantizer.parameters())
        else:
            assert isinstance(quantizer, LearnedQuantizer)
            is_fixed = plan.grids[plan.source(key)].fixed_range is not None
            assert (quantizer.ratio is None) is is_fixed, key
    assert net.quantizer(fixed).ratio is None
    assert {grid.role for grid in plan.grids.values()} == set(Role)


def test_grids_that_share_an_encoding_learn_it_together():
    net, plan = trainable(), made_of("w4a8").plan
    shared = {key: plan.source(key) for key, grid in plan.grids.items() if grid.shares is not None}
    assert "c" in shared
    for key, source in shared.items():
        assert net.quantizer(key) is net.quantizer(source)
    groups = net.parameter_groups(1e-3)
    scales = groups[-1]["params"]
    assert len({id(value) for value in scales}) == len(scales)


def test_grids_can_be_kept_fixed():
    net = trainable(fixed=["w1", "y"])
    before = net.finish().encodings
    train(net, steps=3)
    after = net.finish().encodings
    for key in before:
        is_same = np.array_equal(before[key].scale, after[key].scale)
        assert is_same is (key in ("w1", "y", "side", "e")), key
    with pytest.raises(SpecError, match="no grid 'nothing' that could be kept fixed"):
        trainable(fixed=["nothing"])


def test_groups_hold_every_parameter_that_learns_once():
    net = trainable()
    groups = {group["name"]: group for group in net.parameter_groups(1e-3, scale_lr=1e-2, weight_decay=0.1)}
    names = {id(value): name for name, value in net.named_parameters()}
    found = [names[id(value)] for group in groups.values() for value in group["params"]]
    assert sorted(found) == sorted(name for name, value in net.named_parameters() if value.requires_grad)
    assert {names[id(v)] for v in groups["weights"]["params"]} == {f"graph.w{i}" for i in range(1, 6)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "weights": 0.1, "biases": 0.0, "scales": 0.0,
    }  # fmt: skip
    assert [group["lr"] for group in groups.values()] == [1e-3, 1e-3, 1e-2]
    assert net.parameter_groups(1e-3)[-1]["lr"] == 1e-3


def test_state_and_copies_keep_every_bit():
    net = trained("w8a8")
    other = trainable("w8a8")
    assert other.load_state_dict(net.state_dict()).missing_keys == []
    copied = copy.deepcopy(net)
    for one in (other.eval(), copied):
        assert_same(outputs(one), outputs(net))
        ours, theirs = one.finish().encodings, net.finish().encodings
        assert all(ours[key].scale.tobytes() == theirs[key].scale.tobytes() for key in theirs)
        assert all(ours[key].zero_point.tolist() == theirs[key].zero_point.tolist() for key in theirs)
    before = outputs(net)
    train(copied, steps=2)
    assert_same(outputs(net), before)  # a copy shares nothing that changes
    assert outputs(copied.eval())["y"].tobytes() != before["y"].tobytes()


def test_finishing_changes_nothing_and_leaves_the_model_alone():
    net = trained("w8a8")
    before = outputs(net)
    found = net.finish()
    assert_same(outputs(net), before)
    start = calibration().model.graph.initializers
    assert not np.array_equal(start["w1"].const_value.numpy(), found.model.graph.initializers["w1"].const_value.numpy())
    np.testing.assert_array_equal(
        found.model.graph.initializers["w1"].const_value.numpy(), net.graph.known("w1").detach().numpy()
    )
    assert not {key for key in found.pinned if made_of("w8a8").plan.grids[key].role is Role.BIAS}


def test_biases_are_float_while_training_and_stored_in_evaluation():
    net = trainable("w8a8")
    bias, quantizer = net.graph.known("b4"), net.quantizer("b4")
    assert quantizer(bias) is bias
    net.eval()
    found = quantizer(bias).detach().numpy()
    scale = net.finish().encodings["b4"].scale
    np.testing.assert_allclose(found / scale, np.rint(found / scale), rtol=1e-6)
    assert (np.abs(found - bias.detach().numpy()) <= 0.501 * scale).all()
    assert not np.array_equal(found, bias.detach().numpy())
    assert found.shape == (1, 6)


def test_a_bias_that_outgrows_int32_gets_a_coarser_grid_as_in_export():
    net = trainable("w8a8").eval()
    with torch.no_grad():
        net.graph.known("b1")[0] = 1e7
    found = net.finish()
    source, weight = (found.encodings[key].scale for key in made_of("w8a8").plan.grids["b1"].scaled_by)
    wider = found.encodings["b1"].scale > source * weight
    assert wider.tolist() == [True] + [False] * 7
    wanted = QuantizedGraph(TorchGraph(found.model), made_of("w8a8").plan, found.encodings).eval()
    assert_same(outputs(net), outputs(wanted))


def mixed():
    """Return a quantized model in which a tensor is read on two grids."""
    wide = {name: Profile.parse("w4a16").default for name in ("join", "unbiased", "dense", "norm")}
    return quantize_calibrated(calibration(), Profile(Profile.parse("w8a8").default, wide), ranges="minmax")


def test_second_grids_of_a_tensor_are_learned_and_pinned_too(tmp_path):
    made = mixed()
    second = [key for key, grid in made.plan.grids.items() if key != grid.tensor]
    assert len(second) > 1
    net = Trainable(calibration().model, made.plan, made.encodings)
    train(net, steps=5)
    found = net.eval().finish()
    assert all(not np.array_equal(found.encodings[key].scale, made.encodings[key].scale) for key in second)
    again = quantize_calibrated(calibration(), made.profile, pinned=found.pinned)
    for key, pin in found.pinned.items():
        assert again.encodings[key].scale.tobytes() == pin.scale.tobytes(), key
        assert again.encodings[key].zero_point.tolist() == pin.zero_point.tolist(), key
    graph = calibration().model.graph
    document = encodings_document(graph, made.plan, found.encodings, producer="0")
    (tmp_path / names.ENCODINGS).write_text(json.dumps(document))
    read = stored_pins(tmp_path, tuple(found.pinned), graph)
    assert read.keys() == found.pinned.keys()
    for key, pin in found.pinned.items():
        assert read[key].scale.tobytes() == pin.scale.tobytes(), key
        assert read[key].zero_point.tolist() == pin.zero_point.tolist(), key


def test_feeds_go_by_name_or_by_position():
    net = trained("w8a8")
    with torch.no_grad():
        by_position = {name: value.numpy() for name, value in net(feeds()["image"]).items()}
    assert_same(by_position, outputs(net))
    with pytest.raises(DataError, match=r"reads 1 inputs \(image\), and was given 2"):
        net(feeds()["image"], feeds()["image"])
    with pytest.raises(DataError, match="lack the input 'image'"):
        net({})


def test_autocast_trains():
    net = trainable("w8a8")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(value.float().square().mean() for value in net(feeds()).values())
    loss.backward()
    for name, value in net.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.dtype == value.grad.dtype == torch.float32
            assert value.grad.isfinite().all(), name
    exact = trainable("w8a8")
    sum(value.square().mean() for value in exact(feeds()).values()).backward()
    mine, theirs = (one.graph.known("w5").grad.flatten() for one in (net, exact))
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.99


def test_half_nodes_are_rounded_and_pass_gradients():
    halves = dict.fromkeys(("dense", "norm", "shares", "head"), Profile.parse("fp16").default)
    profile = Profile(Profile.parse("w8a8").default, halves)
    made = quantize_calibrated(calibration(), profile, ranges="minmax")
    net = Trainable(calibration().model, made.plan, made.encodings).eval()
    wanted = QuantizedGraph(TorchGraph(calibration().model), made.plan, made.encodings).eval()
    assert str(made.plan.nodes["dense"].precision) == "fp16"
    found = outputs(net)
    assert_same(found, outputs(wanted))
    np.testing.assert_array_equal(found["y"], found["y"].astype(np.float16).astype(np.float32))
    net.train()(feeds())["y"].sum().backward()
    assert net.graph.known("w4").grad.any()
    assert "w4" not in net.finish().encodings


def test_a_huge_learning_rate_leaves_grids_that_are_grids():
    net = trainable("w8a8")
    optimizer = torch.optim.Adam(net.parameter_groups(1e-3, scale_lr=1e6))
    for sign in (1, -1, 1):
        optimizer.zero_grad()
        (sign * net(feeds())["y"].sum()).backward()
        optimizer.step()
        for encoding in net.finish().encodings.values():
            assert (encoding.scale > 0).all()
    assert all(np.isfinite(value).all() for value in outputs(net.eval()).values())


def test_what_diverged_is_not_finished():
    net = trainable("w8a8")
    with torch.no_grad():
        net.graph.known("w4")[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"'graph\.w4' became NaN or Inf in training"):
        net.finish()


def test_a_grid_that_cannot_be_learned_is_named():
    made = made_of("w8a8")
    grid, before = made.plan.grids["w4"], made.encodings["w4"]
    spec = replace(before.spec, granularity=PerBlock(0, 4))
    blocks = Encoding(spec, np.ones((2, 6), np.float32), np.zeros((2, 6), np.int64))
    plan = replace(made.plan, grids={**made.plan.grids, "w4": replace(grid, spec=spec)})
    with pytest.raises(SpecError, match=r"The grid 'w4' cannot be trained: .* per-block"):
        Trainable(calibration().model, plan, {**made.encodings, "w4": blocks})


def test_the_digits_network_trains_on_labels():
    source = calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=64, run_options=OPTIONS)
    made = quantize_calibrated(source, "w4a8", ranges="minmax")
    net = Trainable(source.model, made.plan, made.encodings)
    x = torch.from_numpy(np.load(DIGITS / "calib.npz")["image"][:64])
    with torch.no_grad():
        labels = TorchGraph(source.model)({"image": x})["logits"].argmax(1)
    optimizer = torch.optim.SGD(net.parameter_groups(1e-2), momentum=0.9)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x)["logits"], labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
