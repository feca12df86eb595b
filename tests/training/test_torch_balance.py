"""Channels are balanced: the float network stays the same, and its grids cost less, where any channel is free."""

import dataclasses
import re

import numpy as np
import onnx
import pytest
from onnx import parser

import fewbits
from fewbits.artifact import names
from fewbits.runtime.session import RunOptions
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.improve_models import with_biases
from fewbits.workflow.quantized import quantize_calibrated

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_walk import Start  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402
from fewbits.spec.plan import Role  # noqa: E402
from fewbits.training import torch_qat  # noqa: E402
from fewbits.training.torch_balance import balance  # noqa: E402
from fewbits.training.torch_channels import FIXED, find_channels  # noqa: E402
from fewbits.training.torch_seen import Seen  # noqa: E402
from fewbits.training.torch_trainable import Trainable  # noqa: E402

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 3, 8, 8] image, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2, float[6, 4, 3, 3] w3,
   float[8, 10, 1, 1] w4, float[8] b4, float[8, 5] w5, float[1, 5] b5, float[3, 5] w6, float[3] b6)
  => (float[N, 3] y) <int64[2] parts = {4, 4}> {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [depthwise] b = Conv <group = 8, pads = [1, 1, 1, 1]> (a, w2, b2)
    [leaky] c = LeakyRelu (b)
    [cut] d, e = Split <axis = 1> (c, parts)
    [inner] f = Conv <pads = [1, 1, 1, 1]> (e, w3)
    [join] h = Concat <axis = -3> (d, f)
    [back] i = Conv (h, w4, b4)
    [residual] j = Add (i, a)
    [mean] k = GlobalAveragePool (j)
    [flatten] l = Flatten (k)
    [dense] m = Gemm (l, w5, b5)
    [relu] n = Relu (m)
    [head] y = Gemm <transB = 1> (n, w6, b6)
}"""
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (6, 4, 3, 3), "w4": (8, 10, 1, 1),
    "b4": (8,), "w5": (8, 5), "b5": (1, 5), "w6": (3, 5), "b6": (3,),
}  # fmt: skip
UNEVEN = {"w1": 8, "b1": 8, "w2": 8, "w3": 6, "w4": 8, "w5": 5}
"""Weights whose outputs differ in size: how many they have, along axis 0 but for `w5`."""
OPTIONS = RunOptions(threads=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(*, spread: float = 2.0, text: str = TEXT) -> bytes:
    """Return the network; channels differ by up to exp(2 `spread`)."""
    found, rng = parser.parse_model(text), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        found.graph.input.remove(next(value for value in found.graph.input if value.name == name))
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[-1])
        sizes = np.exp(rng.uniform(-spread, spread, UNEVEN.get(name, 1)))
        array *= sizes if name == "w5" else sizes.reshape(-1, *(1,) * (len(shape) - 1))
        found.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return found.SerializeToString()


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)


def started(precision: str = "w8a8", **options: object) -> Start:
    calibration = calibrate(model(**options), data={"image": images()}, run_options=OPTIONS, simplify=False)
    made = quantize_calibrated(calibration, precision, ranges="minmax", weight_ranges="absmax")
    current = with_biases(calibration.model, made.plan, made.encoded)
    return Start(calibration.model, current, made.plan, made.encodings)


def feeds() -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(images())}


def output(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(feeds())["y"].double()


def rounded(start: Start) -> torch.Tensor:
    return output(Trainable(start.current, start.plan, start.encodings).eval())


def error(start: Start) -> float:
    """Return the error of the quantized network, relative to the power of the output."""
    wanted = output(TorchGraph(start.reference))
    return float((rounded(start) - wanted).square().mean() / wanted.square().mean())


def balanced(start: Start):
    power = float(output(TorchGraph(start.reference)).square().mean())
    return balance(start, [feeds()], {"y": power})


@pytest.mark.parametrize("precision", ["w8a8", "w4a8", "w8a16"])
def test_the_float_network_computes_the_same(precision):
    start = started(precision)
    found = balanced(start)
    wanted, given = (output(TorchGraph(one.reference)) for one in (start, found.start))
    assert float((given - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert found.start.encodings.keys() == start.encodings.keys()


def test_the_error_of_rounded_activations_falls_as_expected():
    start = started("w16a8", spread=1.0)
    found = balanced(start)
    before, after = error(start), error(found.start)
    assert after < 0.7 * before
    assert before / 2 < found.before < 2 * before  # roundings are taken for independent
    assert after / 2 < found.after < 2 * after


def shift(start: Start) -> torch.Tensor:
    """Return how far rounding the weight of `dense` and its bias move the means of its outputs, in deviations."""
    graph, seen = TorchGraph(start.reference), Seen()
    seen.add(graph, feeds(), {}, torch.Generator())
    weight = torch.from_numpy(start.current.graph.initializers["w5"].const_value.numpy().copy())
    rounded_weight = Trainable(start.current, start.plan, start.encodings).quantizer(start.plan.inputs["dense", 1])(
        weight
    )
    bias = torch.from_numpy(start.current.graph.initializers["b5"].const_value.numpy().copy())
    moved = seen.mean["l"].float() @ rounded_weight.detach() + bias
    deviation = (seen.square["m"] - seen.mean["m"].square()).sqrt()
    return ((moved.double() - seen.mean["m"]) / deviation).abs().max()


def test_biases_make_up_for_what_rounded_weights_do_to_means():
    start = started("w4a16", spread=1.0)
    found = balanced(start).start
    assert float(shift(found)) < 1e-3
    assert float(shift(dataclasses.replace(found, current=found.reference))) > 1e-2


def test_grids_still_hold_all_values():
    found = balanced(started()).start
    student = Trainable(found.current, found.plan, found.encodings).eval()
    for name, value in student.graph.named_values():
        key = next((k for k, g in found.plan.grids.items() if g.tensor == name and g.role is Role.WEIGHT), None)
        if key is not None:
            low, high = found.encodings[key].range
            rows = value.detach().numpy().reshape(value.shape[0], -1)
            if len(rows) == low.size:
                assert (rows.min(1) >= 1.01 * low.ravel()).all(), name
                assert (rows.max(1) <= 1.01 * high.ravel()).all(), name


def test_what_meets_in_a_sum_has_one_factor_and_the_ends_have_none():
    start = started()
    graph = TorchGraph(start.reference)
    shapes = {"image": (1, 3, 8, 8)}
    channels = {"a": 8, "b": 8, "c": 8, "d": 4, "e": 4, "f": 6, "h": 10, "i": 8, "j": 8, "k": 8}
    shapes |= {name: (1, count, 8, 8) for name, count in channels.items()}
    shapes |= {"l": (1, 8), "m": (1, 5), "n": (1, 5), "y": (1, 3)}
    found = find_channels(graph, shapes, ["y"])
    same = found.classes
    for one, other in (("a", "i"), ("a", "j"), ("a", "k"), ("a", "l"), ("b", "c"), ("m", "n")):
        assert (same[one] == same[other]).all(), (one, other)
    assert (same["c"] == [*same["d"], *same["e"]]).all()
    assert (same["h"] == [*same["d"], *same["f"]]).all()
    free = [same[name] for name in ("a", "b", "f", "m")]
    assert len(set(np.concatenate(free))) == 8 + 8 + 6 + 5 == found.count - 1
    assert (same["image"] == FIXED).all()
    assert (same["y"] == FIXED).all()
    assert [layer.node for layer in found.layers] == ["first", "depthwise", "inner", "back", "dense", "head"]


def test_an_operator_that_is_not_homogeneous_fixes_what_it_reads_and_writes():
    text = TEXT.replace("c = LeakyRelu (b)", "c = Sigmoid (b)").replace("n = Relu (m)", "n = Tanh (m)")
    start = started(text=text)
    graph = TorchGraph(start.reference)
    shapes = {"image": (1, 3, 8, 8), "y": (1, 3), "m": (1, 5), "n": (1, 5), "l": (1, 8)}
    shapes |= dict.fromkeys("abcijk", (1, 8, 8, 8)) | {"d": (1, 4, 8, 8), "e": (1, 4, 8, 8), "f": (1, 6, 8, 8)}
    found = find_channels(graph, shapes | {"h": (1, 10, 8, 8)}, ["y"])
    for name in ("b", "c", "d", "e", "m", "n"):
        assert (found.classes[name] == FIXED).all(), name
    assert (found.classes["a"] != FIXED).all()


def test_a_network_without_free_channels_stays_as_it_is():
    fixed = TEXT
    for name in "abfijm":
        fixed = re.sub(rf"\b{name} = (.*)", rf"{name}_ = \1 {name} = Tanh ({name}_)", fixed, count=1)
    assert balanced(started(text=fixed)) is None


def trained(**options):
    return fewbits.qat.train(
        model(), data={"image": images()}, metric=lambda _: 0.0, higher_is_better=True, precision="w8a8", methods="qat",
        samples=64, run_options=OPTIONS, training=fewbits.Training(steps=2, rate=1e-6), **options,
    )  # fmt: skip


def balancing(result) -> list[str]:
    return [note for note in result.record.notes if "Before training, channels" in note]


def test_training_begins_with_it_where_held_out_samples_gain(monkeypatch):
    result = trained()
    (note,) = balancing(result)
    before, after = (float(word.rstrip(".")) for word in note.split(" from ")[1].split(" to "))
    assert after < before

    def spoilt(start, *others, **options):
        found = balance(start, *others, **options)
        wide = {
            key: dataclasses.replace(one, scale=30 * one.scale)
            if found.start.plan.grids[key].role is Role.ACTIVATION
            else one
            for key, one in found.start.encodings.items()
        }
        return dataclasses.replace(found, start=dataclasses.replace(found.start, encodings=wide))

    monkeypatch.setattr(torch_qat, "balance", spoilt)
    assert not balancing(trained())


def test_later_verbs_keep_a_balanced_network(tmp_path):
    assert balancing(trained(output=tmp_path / "out"))
    options = {"data": {"image": images()}, "metric": lambda _: 0.0, "higher_is_better": True, "run_options": OPTIONS}
    fewbits.quantize(tmp_path / "out", precision="w8a8", samples=64, output=tmp_path / "again", **options)
    one, two = ((tmp_path / name / names.ARTIFACT).read_bytes() for name in ("out", "again"))
    assert one == two
    assert fewbits.verify(tmp_path / "out").passed
