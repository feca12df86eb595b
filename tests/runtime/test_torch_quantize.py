"""Fake quantization in torch: the bits of the numpy arithmetic, straight-through gradients, onnxruntime's integers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewbits.graph.save import to_bytes
from fewbits.numerics.affine import SMALLEST_SCALE, bias_encoding, encoding_from_range, fake_quantize
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.dtypes import DType, PerBlock, PerChannel, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Role
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sessions import with_outputs

torch = pytest.importorskip("torch")

from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch  # noqa: E402
from fewbits.runtime.torch_quantize import FakeQuantizer, QuantizedGraph, as_half  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
OPTIONS = RunOptions(threads=1)
GRIDS = [
    (DType.UINT8, 8, False), (DType.INT8, 8, False), (DType.INT8, 8, True), (DType.UINT16, 16, False),
    (DType.INT16, 16, True), (DType.INT4, 4, True), (DType.UINT4, 4, False), (DType.INT8, 6, True),
    (DType.UINT8, 5, False), (DType.INT4, 3, True), (DType.INT4, 2, True), (DType.INT32, 32, True),
]  # fmt: skip
SPECIAL = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 1e-38])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_bits(x: np.ndarray, encoding: Encoding) -> None:
    with torch.no_grad():
        found = FakeQuantizer(encoding, x.shape)(torch.from_numpy(x)).numpy()
    wanted = fake_quantize(x, encoding)
    assert found.dtype == np.float32
    known = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(found), ~known)
    np.testing.assert_array_equal(found[known].view(np.int32), wanted[known].view(np.int32))


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    dtype, bits, is_symmetric = draw(st.sampled_from(GRIDS))
    bounds = st.floats(-1e6, 1e6, width=32)
    low, high = sorted((draw(bounds), draw(bounds)))
    return encoding_from_range(low, high, QuantSpec(dtype, bits, is_symmetric=is_symmetric))


@given(encodings(), hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32)))
@settings(deadline=None)
def test_the_bits_are_those_of_the_numpy_arithmetic(encoding, x):
    assert_same_bits(x, encoding)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_ties_and_extremes_have_the_bits_of_the_numpy_arithmetic(grid):
    dtype, bits, is_symmetric = grid
    spec = QuantSpec(dtype, bits, is_symmetric=is_symmetric)
    for low, high in ((-1.0, 2.0), (0.0, 6.0), (-3e-3, 1e-3), (0.0, 0.0), (-1e30, 1e30)):
        encoding = encoding_from_range(low, high, spec)
        ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * encoding.scale
        ends = np.float32([*encoding.range, np.nextafter(low, -1), np.nextafter(high, 9)])
        assert_same_bits(np.concatenate([ties, np.nextafter(ties, np.float32(0)), ends, SPECIAL]), encoding)
    assert_same_bits(SPECIAL, Encoding(spec, np.float32(SMALLEST_SCALE).reshape(()), np.zeros((), np.int64)))


@pytest.mark.parametrize("granularity", [PerChannel(0), PerChannel(1), PerChannel(-1), PerBlock(1, 4)], ids=str)
@pytest.mark.parametrize("grid", GRIDS[1:7], ids=str)
def test_scales_along_a_tensor_have_the_bits_of_the_numpy_arithmetic(grid, granularity):
    dtype, bits, is_symmetric = grid
    rng = np.random.default_rng(4)
    shapes = {PerChannel(0): (5,), PerChannel(1): (6,), PerChannel(-1): (3,), PerBlock(1, 4): (5, 2, 3)}
    high = 10.0 ** rng.uniform(-3, 2, shapes[granularity])
    encoding = encoding_from_range(-high, 0.7 * high, QuantSpec(dtype, bits, is_symmetric, granularity))
    assert_same_bits(
        (rng.standard_normal((5, 6, 3)) * 10.0 ** rng.uniform(-3, 2, (5, 6, 3))).astype(np.float32), encoding
    )


@pytest.mark.parametrize("weight_scale", [np.float32(1e-3), np.float32([1e-3, 2e-5, 1e-9])])
def test_biases_have_the_bits_of_the_numpy_arithmetic(weight_scale):
    x = np.float32([[0.1, -7.3, 0.5], [1e-7, 123.456, -1e4]])
    encoding = bias_encoding(0.0173, weight_scale)
    for row in x:
        assert_same_bits(row, encoding)


def test_gradients_are_one_inside_the_range_and_zero_outside():
    encoding = Encoding(QuantSpec(DType.UINT8, 8, is_symmetric=False), np.float32(0.5).reshape(()), np.array(10))
    low, high = (float(end) for end in encoding.range)
    inside = [low, low - 0.2, low + 0.01, 0.0, 0.3, high, high + 0.2]  # less than half a step beyond rounds to the end
    outside = [low - 0.3, -1e9, high + 0.3, float("inf"), float("-inf")]
    x = torch.tensor([*inside, *outside], requires_grad=True)
    factors = torch.arange(1.0, 1 + len(x))
    (FakeQuantizer(encoding)(x).nan_to_num() * factors).sum().backward()
    assert x.grad.tolist() == [*factors[: len(inside)].tolist(), *[0.0] * len(outside)]


def test_a_quantizer_that_is_off_gives_back_the_tensor():
    quantizer = FakeQuantizer(encoding_from_range(-1, 1, QuantSpec(DType.INT8, 8, is_symmetric=True)))
    x = torch.tensor([0.123, 5.0])
    assert not torch.equal(quantizer(x), x)
    quantizer.is_on = False
    assert quantizer(x) is x


def test_half_is_what_numpy_rounds_to():
    rng = np.random.default_rng(5)
    x = np.concatenate([(rng.standard_normal(500) * 10.0 ** rng.uniform(-9, 6, 500)).astype(np.float32), SPECIAL])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = x.astype(np.float16).astype(np.float32)
    for needs_gradient in (False, True):
        found = as_half(torch.from_numpy(x).requires_grad_(needs_gradient)).detach().numpy()
        assert np.array_equal(found, wanted, equal_nan=True)
        assert np.isinf(found).any()


def test_gradients_pass_straight_through_half():
    x = torch.tensor([1.00001, 1e9, float("-inf"), 1e-12], requires_grad=True)
    as_half(x).backward(torch.arange(1.0, 5.0))
    assert x.grad.tolist() == [1, 2, 3, 4]


@dataclass
class Teacher:
    """A hook that hands every node onnxruntime's own values, and counts how far the node's outputs are from them."""

    sim: QuantizedGraph
    taught: dict[str, Any]
    shares: dict[str, float] = field(default_factory=dict)

    def read(self, step, position, value):
        return self.sim.read(step, position, value)

    def wrote(self, step, inputs, outputs):
        found = list(self.sim.wrote(step, inputs, outputs))
        for i, name in enumerate(step.writes[: len(found)]):
            if (key := self.sim.plan.outputs.get(name)) is not None:
                steps = torch.round((found[i] - self.taught[name]) / self.sim.quantizer(key).scale)
                self.shares[name] = float((steps.abs() <= 1).double().mean())
                found[i] = self.taught[name]
        return tuple(found)


@dataclass
class Notes:
    """A hook that does what a quantized graph does and keeps what every node hands on."""

    sim: QuantizedGraph
    kept: dict[str, Any] = field(default_factory=dict)

    def read(self, step, position, value):
        return self.sim.read(step, position, value)

    def wrote(self, step, inputs, outputs):
        found = self.sim.wrote(step, inputs, outputs)
        self.kept.update(zip(step.writes, found, strict=False))
        return found


@pytest.fixture(scope="module")
def calibration():
    return calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=64, run_options=OPTIONS)


@pytest.fixture(scope="module")
def graph(calibration):
    return TorchGraph(calibration.model).eval()


@pytest.fixture(scope="module")
def feeds():
    return {"image": np.load(DIGITS / "calib.npz")["image"][:8]}


def made_of(calibration, graph, precision):
    made = quantize_calibrated(calibration, precision, ranges="minmax")
    return made, QuantizedGraph(graph, made.plan, made.encodings, made.encoded.biases).eval()


def exact(model, feeds):
    return open_session(to_bytes(model), policy=SessionPolicy.EXACT, options=OPTIONS)(feeds)


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w4a8"])
def test_every_node_computes_onnxruntimes_integers(calibration, graph, feeds, precision):
    made, sim = made_of(calibration, graph, precision)
    ends = {value.name for value in made.model.graph.outputs}
    names = {name: name if name in ends else f"{name}_dq" for name in made.plan.outputs}
    values = exact(with_outputs(made.model, tuple(names.values())), feeds)
    teacher = Teacher(sim, {name: torch.from_numpy(np.array(values[out])) for name, out in names.items()})
    with torch.no_grad():
        graph(feeds_to_torch(feeds), teacher)
    assert set(teacher.shares) == set(made.plan.outputs)
    assert len(teacher.shares) > 60
    assert min(teacher.shares.values()) >= 0.999, min(teacher.shares, key=teacher.shares.__getitem__)


@pytest.mark.parametrize(("precision", "least_db"), [("w8a16", 60), ("fp16", 40)])
def test_the_network_computes_what_onnxruntime_does(calibration, graph, feeds, precision, least_db):
    made, sim = made_of(calibration, graph, precision)
    with torch.no_grad():
        found = sim(feeds_to_torch(feeds))["logits"].numpy()
    assert sqnr_db(exact(made.model, feeds)["logits"], found) >= least_db


def test_half_precision_rounds_what_every_node_reads_and_writes(calibration, graph, feeds):
    made, sim = made_of(calibration, graph, "fp16")
    notes = Notes(sim)
    with torch.no_grad():
        graph(feeds_to_torch(feeds), notes)
    halves = [name for name, node in made.plan.nodes.items() if str(node.precision) == "fp16"]
    assert len(halves) == len(graph.steps)
    for name, value in notes.kept.items():
        assert torch.equal(value, value.half().float()), name
    (step, *_) = graph.steps
    with torch.no_grad():
        assert torch.equal(sim.read(step, 0, value + 1e-5), (value + 1e-5).half().float())


def test_scales_and_coordinates_of_half_nodes_stay_float32():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    resized (float[1, 3, 10, 10] x) => (float[1, 3, 13, 13] y)
    <float[4] scales = {1.0, 1.0, 1.3, 1.3}> {
        y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , scales)
    }"""
    x = np.random.default_rng(0).standard_normal((1, 3, 10, 10)).astype(np.float32)
    calibration = calibrate(onnx.parser.parse_model(text), data={"x": x}, run_options=OPTIONS)
    made, sim = made_of(calibration, TorchGraph(calibration.model), "fp16")
    with torch.no_grad():
        found = sim(feeds_to_torch({"x": x}))["y"].numpy()
    wanted = exact(made.model, {"x": x})["y"]
    assert found.shape == wanted.shape == (1, 3, 13, 13)
    assert np.abs(found - wanted).max() < 2e-3


def test_switched_off_it_is_the_float_network(calibration, graph, feeds):
    made, sim = made_of(calibration, graph, "w4a8")
    given = feeds_to_torch(feeds)
    assert made.encoded.biases  # corrected biases belong to rounded weights
    with torch.no_grad():
        wanted, on = graph(given)["logits"], sim(given)["logits"]
        sim.switch(False)
        off = sim(given)["logits"]
        sim.switch(True)
        again = sim(given)["logits"]
    assert torch.equal(off, wanted)
    assert not torch.equal(on, wanted)
    assert torch.equal(again, on)


def test_a_key_switches_its_own_tensor_only(calibration, graph, feeds):
    made, sim = made_of(calibration, graph, "w8a8")
    given, key = feeds_to_torch(feeds), "add_141"
    order = [name for step in graph.steps for name in step.writes]
    with torch.no_grad():
        sim.switch(False)
        graph(given, before := Notes(sim))
        sim.switch(True, [key])
        graph(given, after := Notes(sim))
    for name in order[: order.index(key)]:
        assert torch.equal(after.kept[name], before.kept[name]), name
    wanted = fake_quantize(before.kept[key].numpy(), made.encodings[key])
    assert np.array_equal(after.kept[key].numpy(), wanted)
    assert not torch.equal(after.kept["logits"], before.kept["logits"])


def test_a_weight_switches_its_own_node_only(calibration, graph, feeds):
    made, sim = made_of(calibration, graph, "w8a8")
    key, weights = "blocks.3.body.0.weight", dict(graph.named_parameters())
    assert made.plan.grids[key].role is Role.WEIGHT
    sim.switch(False)
    sim.switch(True, [key])
    for step in graph.steps:
        for i, name in enumerate(step.reads):
            if name not in weights:
                continue
            with torch.no_grad():
                seen = sim.read(step, i, weights[name])
            if name == key:
                wanted = fake_quantize(weights[name].detach().numpy(), made.encodings[key])
                assert np.array_equal(seen.numpy(), wanted)
            else:
                assert seen is weights[name], name


def test_state_can_be_loaded_again(calibration, graph, feeds):
    _, sim = made_of(calibration, graph, "w8a8")
    _, other = made_of(calibration, TorchGraph(calibration.model), "w8a8")
    state = sim.state_dict()
    assert "quantizers.blocks.0.body.0.weight.scale" in state
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            value.mul_(0.7)
        assert other.load_state_dict(state).missing_keys == []
        given = feeds_to_torch(feeds)
        assert torch.equal(other(given)["logits"], sim(given)["logits"])
    with pytest.raises(RuntimeError, match=r"quantizers\.no\.such\.scale"):
        other.load_state_dict({**state, "quantizers.no.such.scale": torch.ones(())})


def test_gradients_reach_the_weights_through_the_grids(calibration, feeds):
    _, sim = made_of(calibration, TorchGraph(calibration.model), "w8a8")
    sim(feeds_to_torch(feeds))["logits"].square().sum().backward()
    trained = {name: value for name, value in sim.graph.named_parameters() if value.requires_grad}
    assert len(trained) == 66
    for name, value in trained.items():
        if name.endswith("weight"):
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
            assert value.grad.any(), name


@pytest.mark.parametrize("shape", ["[5]", "[1, 5]", "[1, 1]", "[1]", ""])
def test_biases_that_broadcast_are_stored_as_vectors(shape):
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N, 6] x, float[6, 5] w, float{shape} b) => (float[N, 5] y) {{ [head] y = Gemm (x, w, b) }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    sizes = {"w": (6, 5), "b": tuple(int(n) for n in shape.strip("[]").split(",") if n)}
    for name, size in sizes.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(size, np.float32), name))
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
    feeds = {"x": rng.standard_normal((32, 6), np.float32)}
    calibration = calibrate(model.SerializeToString(), data=feeds, run_options=OPTIONS)
    made, sim = made_of(calibration, TorchGraph(calibration.model).eval(), "w8a8")
    with torch.no_grad():
        found = sim(feeds_to_torch(feeds))["y"].numpy()
    step = float(made.encodings[made.plan.outputs["y"]].scale)
    # the output lies on its grid: a tie that falls the other way is one step
    np.testing.assert_allclose(found, exact(made.model, feeds)["y"], atol=1.01 * step)
    assert np.mean(found == exact(made.model, feeds)["y"]) > 0.98
