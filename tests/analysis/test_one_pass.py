"""One-pass sensitivity next to brute force, on networks of every shape, and what is refused."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.analysis import sensitivity
from fewbits.analysis.sensitivity import PARTS, turns_together
from fewbits.errors import MissingExtraError, ModelError, SpecError
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.precision_problem import predicted_error
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sensitivity import one_pass

torch = pytest.importorskip("torch")

from fewbits.analysis.torch_deltas import Deltas  # noqa: E402
from fewbits.analysis.torch_probe import Recorder, probe  # noqa: E402
from fewbits.analysis.torch_sensitivity import OnePass, module_of, threads  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch  # noqa: E402
from fewbits.runtime.torch_quantize import QuantizedGraph  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
OPTIONS = RunOptions(threads=1)
RNG = np.random.default_rng(3)

NETWORKS = {
    "samples on another axis": """g (float[N, 6] x) => (float[N, 8] y) {
        a = Gemm (x, w6x8)  t = Transpose <perm = [1, 0]> (a)  s = Tanh (t)
        m = MatMul (w8x8, s)  y = Transpose <perm = [1, 0]> (m)
    }""",
    "samples among the channels": """g (float[N, 6] x) => (float[N, 8] y) {
        a = Gemm (x, w6x8)  s = Reshape (a, flat)  c = Tanh (s)  d = Reshape (c, rows)  y = MatMul (d, w8x8)
    }""",
    "several outputs": """g (float[N, 6] x) => (float[N, 8] y, int64[N, 1] best, float[N, 8] z) {
        a = Gemm (x, w6x8)  y = Relu (a)  best = ArgMax <axis = 1> (y)  h = HardSigmoid (x)  z = Gemm (h, w6x8)
    }""",
    "integer input": """g (int64[N, 5] x) => (float[N, 8] y) {
        a = Gather (w6x8, x)  b = Sigmoid (a)  m = ReduceMean <keepdims = 0> (b, one)  y = Gemm (m, w8x8)
    }""",
    "reshaped into an image": """g (float[N, 6] x) => (float[N, 4, 4, 4] y) {
        a = MatMul (x, w6x32)  e = Tanh (a)  t = Reshape (e, image)
        c = Conv <pads = [1, 1, 1, 1]> (t, w4x2x3x3)  y = LeakyRelu (c)
    }""",
    "attention": """g (float[N, 4, 8] x) => (float[N, 4, 8] y) {
        a = MatMul (x, w8x8)  r = Reshape (a, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (r)  k = Transpose <perm = [0, 2, 3, 1]> (r)
        s = MatMul (q, k)  p = Softmax (s)  o = MatMul (p, q)
        t = Transpose <perm = [0, 2, 1, 3]> (o)  f = Reshape (t, back)  y = MatMul (f, w8x8)
    }""",
    "an operand that is constant": """g (float[N, 6] x) => (float[N, 8] y) {
        a = Gemm (x, w6x8)  s = Sigmoid (a)  m = Mul (s, w8)  y = Tanh (m)
    }""",
    "fused": """g (float[N, 2, 4, 4] x) => (float[N, 4, 4, 4] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w4x2x3x3)  y = Relu (c)
    }""",
    "joined": """g (float[N, 2, 4, 4] x) => (float[N, 8, 2, 2] y, float[N, 4, 2, 2] z) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w4x2x3x3)  r = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        n = Neg (p)  s = Softsign (n)  y = Concat <axis = 1> (s, p)  z = Tanh (p)
    }""",
}
CONSTANTS = {
    "flat": np.array([-1]), "rows": np.array([-1, 8]), "one": np.array([1]), "image": np.array([-1, 2, 4, 4]),
    "heads": np.array([0, 4, 2, 4]), "back": np.array([0, 4, 8]),
    **{f"w{'x'.join(map(str, shape))}": (RNG.standard_normal(shape) * 0.4).astype(np.float32)
       for shape in ((6, 8), (8, 8), (6, 32), (4, 2, 3, 3), (8,))},
}  # fmt: skip
SHAPES = {"attention": (4, 8), "fused": (2, 4, 4), "joined": (2, 4, 4)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def calibrated(name, samples=64, **options):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {NETWORKS[name]}')
    used = {read for node in model.graph.node for read in node.input}
    for constant, value in CONSTANTS.items():
        if constant in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, constant))
    rng = np.random.default_rng(4)
    spread = 0.5 if name == "attention" else 2  # the first order says nothing about scores that saturate
    x = rng.standard_normal((samples, *SHAPES.get(name, (6,)))).astype(np.float32) * np.float32(spread)
    x = rng.integers(0, 6, (samples, 5)) if name == "integer input" else x
    return calibrate(model, data={"x": x}, run_options=OPTIONS, **options)


def quantized(calibration, *precisions):
    return [quantize_calibrated(calibration, precision, ranges="minmax") for precision in precisions]


@dataclass(frozen=True)
class Executed:
    """A quantized model as torch computes it: its float16 is float16."""

    module: QuantizedGraph

    def run(self, names, feeds):
        found = self.module(feeds_to_torch(feeds))
        return {name: found[name].detach().numpy() for name in names}


def measured(calibration, made):
    module = QuantizedGraph(TorchGraph(calibration.model).eval(), made.plan, made.encodings, made.encoded.biases)
    return OutputJudge(calibration, 64, None, "channel").error(Executed(module))


def errors(found, precision, part="all"):
    return np.array([found.figures[group.name, precision, part].error for group in found.groups])


def assert_intervals_meet(one, other):
    """Check that both figures of every group lie within four of their standard deviations of each other."""
    for key, left in one.figures.items():
        right = other.figures[key]
        spread = np.hypot(left.error * left.deviation, right.error * right.deviation)
        assert abs(left.error - right.error) <= 4 * spread + 1e-12, key


@pytest.fixture(scope="module")
def digits():
    return calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=64, run_options=OPTIONS)


@pytest.fixture(scope="module")
def digits_made(digits):
    return quantized(digits, "w8a8", "w4a8")


@pytest.fixture(scope="module")
def digits_found(digits, digits_made):
    return one_pass(digits, digits_made)


@pytest.fixture(scope="module")
def digits_truth(digits, digits_made):
    with Store() as store:  # both precisions share the runs of groups without weights
        return brute_force(digits, digits_made, store=store)


@pytest.mark.parametrize("precision", ["w8a8", "w4a8"])
def test_groups_are_ranked_as_brute_force_ranks_them(digits_found, digits_truth, precision):
    found, truth = errors(digits_found, precision), errors(digits_truth, precision)
    assert len(found) == 69
    ranks = [np.argsort(np.argsort(values)) for values in (found, truth)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.95
    assert 0.8 <= np.median(found / truth) <= 1.25


def test_deviations_tell_how_far_the_truth_may_be(digits_found, digits_truth):
    inside = 0
    for group in digits_found.groups:
        low, high = digits_found.figure(group.name, "w8a8").interval_db
        inside += low <= digits_truth.figure(group.name, "w8a8").sqnr_db <= high
    assert inside >= 0.8 * len(digits_found.groups)  # 95 %, were the network linear and samples many


def test_what_was_done_is_told(digits_found):
    assert (digits_found.method, digits_found.samples, digits_found.probes) == ("one-pass", 64, 2)
    assert (digits_found.precisions, digits_found.outputs) == (("w8a8", "w4a8"), ("logits",))
    assert {part for _, _, part in digits_found.figures} == set(PARTS)


def test_probes_and_samples_narrow_the_interval(digits, digits_made, digits_found):
    def deviation(found):
        return np.median([found.figure(group.name, "w8a8").deviation for group in found.groups])

    assert deviation(one_pass(digits, digits_made[:1], probes=16)) < 0.8 * deviation(digits_found)
    assert deviation(one_pass(digits, digits_made[:1], samples=16, probes=2)) > 1.5 * deviation(digits_found)


def test_parts_add_up_to_the_whole(digits_found, digits):
    nodes = {node.name: node for node in digits.model.graph}
    for group in digits_found.groups:
        whole, weights, activations = (digits_found.figure(group.name, "w8a8", part).error for part in PARTS)
        has_weights = any(nodes[name].op_type in ("Conv", "Gemm") for name in group.nodes)
        assert (weights > 0) is has_weights
        assert activations > 0
        # the two noises are independent: their product is chance on 128 projections
        assert weights + activations == pytest.approx(whole, rel=0.5)


def test_the_seed_decides_the_figures(digits, digits_made):
    first, again, other = (one_pass(digits, digits_made[:1], samples=8, seed=seed) for seed in (1, 1, 2))
    assert first.figures == again.figures
    assert first.figures != other.figures
    assert_intervals_meet(first, other)


def test_the_batch_size_does_not_matter(tiny):
    found = []
    for size in (1, 4):
        calibration = calibrate(tiny.model, data=tiny.calib, batch_size=size, run_options=OPTIONS)
        found.append(one_pass(calibration, quantized(calibration, "w8a8", "fp16"), probes=4))
    assert found[0].samples == found[1].samples == 24
    assert_intervals_meet(*found)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fused"])
def test_figures_are_those_of_brute_force(name):
    calibration = calibrated(name, batch_size=8)
    made = quantized(calibration, "w8a8")
    found, truth = one_pass(calibration, made, probes=16), brute_force(calibration, made, parts=PARTS)
    assert found.samples == 64
    assert len(found.groups) >= 3 or name == "reshaped into an image"
    for part in PARTS:
        ours, theirs = errors(found, "w8a8", part), errors(truth, "w8a8", part)
        assert ((ours > 0) == (theirs > 0)).all(), part
        known = theirs > 0
        np.testing.assert_allclose(ours[known] / theirs[known], 1, atol=0.5, err_msg=part)


@pytest.mark.parametrize("precision", ["fp16", "w8a8"])
@pytest.mark.parametrize("name", ["joined", "attention", "several outputs"])
def test_noise_adds_up_to_the_error_of_the_network(name, precision):
    calibration = calibrated(name)
    (made,) = quantized(calibration, precision)
    found = one_pass(calibration, [made], probes=16, with_noise=True)
    predicted = predicted_error(found.noise, {group.name: precision for group in found.groups})
    assert predicted == pytest.approx(measured(calibration, made), rel=0.3)


def test_joining_adds_the_noise_of_what_comes_on_another_grid():
    """The softsign is on the grid of the join already; what others read, too, has a grid of its own."""
    calibration = calibrated("joined")
    (made,) = quantized(calibration, "w8a8")
    found = one_pass(calibration, [made], probes=16, outputs=["y"], with_noise=True)
    join = next(node.name for node in calibration.model.graph if node.op_type == "Concat")
    feeds = next(calibration.subject.data.batches(64, 64)).feeds
    y = torch.from_numpy(calibration.subject.runner.run(("y",), feeds)["y"])
    read = Deltas.rounded(y[:, 4:], made.encodings[made.plan.inputs[join, 1]])
    change = Deltas.rounded(read, made.encodings[made.plan.outputs["y"]]) - read
    wanted = (change.square().mean((0, 2, 3)) / y[:, 4:].var((0, 2, 3))).sum() / 8
    assert found.noise["w8a8"].written[join] == pytest.approx(float(wanted), rel=0.15)


@pytest.mark.parametrize("name", ["samples on another axis", "samples among the channels"])
@pytest.mark.parametrize("size", [4, 8])
def test_samples_that_are_not_on_the_first_axis_run_one_by_one(monkeypatch, name, size):
    """With 8 samples to a batch and 8 channels, the first axis has the right length and the wrong meaning."""
    calibration, taken = calibrated(name, samples=16, batch_size=size), []
    made, original = quantized(calibration, "w8a8"), OnePass.add

    def adding(self, feeds, samples):
        taken.append((samples, done := original(self, feeds, samples)))
        return done

    monkeypatch.setattr(OnePass, "add", adding)
    found = one_pass(calibration, made, probes=4)
    assert found.samples == 16
    assert [samples for samples, done in taken if done] == [1] * 16
    single = calibrated(name, samples=16, batch_size=1)
    assert_intervals_meet(found, one_pass(single, quantized(single, "w8a8"), probes=4))


def test_a_batch_that_cannot_be_taken_apart_is_refused():
    text = NETWORKS["samples on another axis"].replace("N,", "4,")
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    for name in ("w6x8", "w8x8"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    data = {"x": np.random.default_rng(5).standard_normal((16, 6)).astype(np.float32)}
    calibration = calibrate(model, data=data, run_options=OPTIONS)
    with pytest.raises(SpecError, match="computes 4 samples at once in tensors that do not keep them apart"):
        one_pass(calibration, quantized(calibration, "w8a8"))


@pytest.mark.parametrize("name", ["reshaped into an image", "attention", "fused"])
def test_projections_are_products_of_change_and_gradient(name):
    """Whatever the order in memory of a tensor, of its gradient and of its change."""
    calibration = calibrated(name, samples=8)
    graph = TorchGraph(calibration.model).requires_grad_(False)
    (batch,) = calibration.subject.data.batches(8)
    everything = frozenset(name for step in graph.steps for name in step.writes)
    edges = frozenset((step.name, i) for step in graph.steps for i in range(len(step.reads)))
    (probed,) = probe(
        graph, feeds_to_torch(batch.feeds), Recorder(edges, everything, frozenset(), everything), samples=8, probes=2,
        outputs=["y"], weights=lambda _, value: torch.ones_like(value), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    compared, generator = 0, torch.Generator().manual_seed(1)
    for index, value in enumerate(probed.record.tensors):
        for change in (torch.randn(value.shape, generator=generator), torch.empty_like(value).uniform_()):
            if len(value) == 8 and index in probed.gradients:
                wanted = [(gradient * change).flatten(1).sum(1) for gradient in probed.gradients[index]]
                found = probed.project(index, change)
                torch.testing.assert_close(found, torch.stack(wanted, 1).double(), rtol=1e-4, atol=1e-4)
                compared += 1
    assert compared > 4


@pytest.mark.parametrize(("size", "together"), [(1 << 20, 16), (1 << 26, 8), (1 << 27, 4), (3 << 27, 1), (1 << 40, 1)])
def test_gradients_of_as_many_probes_are_kept_as_fit(size, together):
    assert turns_together(size, 16) == together


def test_shares_of_the_probes_give_the_same_estimates(monkeypatch):
    calibration = calibrated("attention", samples=8)
    made = quantized(calibration, "w8a8")
    whole = one_pass(calibration, made, probes=8, with_noise=True)
    monkeypatch.setattr(sensitivity, "MOST_BYTES", 1)
    parts = one_pass(calibration, made, probes=8, with_noise=True)
    assert list(whole.figures) == list(parts.figures)
    for key, figure in whole.figures.items():
        assert figure.error == pytest.approx(parts.figures[key].error, rel=1e-6)
        assert figure.deviation == pytest.approx(parts.figures[key].deviation, rel=1e-5)
    assert whole.noise["w8a8"].own == pytest.approx(parts.noise["w8a8"].own, rel=1e-6)


def test_the_layer_of_a_fused_group_is_the_convolution_itself():
    calibration = calibrated("fused", samples=8)
    graph = TorchGraph(calibration.model).requires_grad_(False)
    (conv, relu) = (step.name for step in graph.steps)
    (batch,) = calibration.subject.data.batches(8)
    record = Recorder(frozenset(), frozenset({"y"}), frozenset({conv}), frozenset())
    found = graph(feeds_to_torch(batch.feeds), record)
    step, inputs, index = record.calls[conv]
    raw = record.tensors[index]
    assert (step.name, len(inputs)) == (conv, len(step.reads))
    assert (raw < 0).any()
    assert torch.equal(raw.relu(), found["y"])
    assert torch.equal(record.tensors[record.at_output["y"]], found["y"])
    assert relu not in record.calls


def test_outputs_that_count_can_be_named():
    calibration = calibrated("several outputs")
    made, nodes = quantized(calibration, "w8a8"), {n.outputs[0].name: n.name for n in calibration.model.graph}
    both, only_z = one_pass(calibration, made), one_pass(calibration, made, outputs=["z"])
    assert (both.outputs, only_z.outputs) == (("y", "z"), ("z",))
    head = next(group.name for group in both.groups if nodes["y"] in group.nodes)
    assert only_z.error(head, "w8a8") == 0 < both.error(head, "w8a8")
    with pytest.raises(SpecError, match="The model has no output 'p': it has y, best, z"):
        one_pass(calibration, made, outputs=["p"])
    with pytest.raises(SpecError, match="No output to judge by: best hold no floats"):
        one_pass(calibration, made, outputs=["best"])


def test_without_torch_the_extra_is_named(tiny, monkeypatch):
    calibration = calibrate(tiny.model, data=tiny.calib, run_options=OPTIONS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewbits\[torch\]'"):
        one_pass(calibration, [])


def test_an_operator_that_torch_lacks_is_named():
    text = "g (float[N, 3, 3] x) => (float[N, 3, 3] y, float[N] d) { y = Relu (x)  d = Det (y) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    data = {"x": np.random.default_rng(5).standard_normal((4, 3, 3)).astype(np.float32)}
    calibration = calibrate(model, data=data, run_options=OPTIONS)
    with pytest.raises(ModelError, match="no operator Det"):
        one_pass(calibration, quantized(calibration, "w8a8"))


def test_a_device_that_torch_lacks_is_named(tiny):
    calibration = calibrate(tiny.model, data=tiny.calib, run_options=OPTIONS)
    with pytest.raises(SpecError, match=r"on the device 'abacus': .* Write cpu"):
        module_of(calibration.model, "abacus")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    with threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_progress_is_told_of_every_sample(tiny):
    told = []

    class Progress:
        def advance(self, samples):
            told.append(samples)

    calibration = calibrate(tiny.model, data=tiny.calib, batch_size=10, run_options=OPTIONS)
    one_pass(calibration, quantized(calibration, "w8a8"), samples=15, progress=Progress())
    assert told == [10, 5]
