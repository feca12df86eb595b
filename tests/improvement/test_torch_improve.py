"""Methods that round, on small networks: never worse, on their grids, the same bits again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.errors import SpecError
from fewbits.graph.save import to_bytes
from fewbits.improvement.methods import Effort
from fewbits.improvement.result import Improved
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.numerics.affine import fake_quantize
from fewbits.quantization.layers import find_layers
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.spec.encodings import Encoding
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from networks import ASSETS, graph, network, normal

torch = pytest.importorskip("torch")

from fewbits.improvement import torch_improve  # noqa: E402
from fewbits.improvement.torch_cache import Cache  # noqa: E402
from fewbits.improvement.torch_improve import round_model  # noqa: E402
from fewbits.improvement.torch_walk import Start  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
EFFORTS = {
    "bias-correction": Effort(),
    "seq-mse": Effort(),
    "gptq": Effort(),
    "adaround": Effort(iterations=40),
    "adaround by block": Effort(granularity="block", iterations=20),
}
Feeds = Sequence[Mapping[str, np.ndarray]]

MIXED = """g (float[N, 3, 8, 8] image, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2,
           float[8, 4, 2, 2] w3, float[4] b3, float[6, 4, 3, 3] w4, float[6, 10] w5, float[4, 10] w6, float[4] b6)
          => (float[N, 4] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu1] b = Relu (a)
    [depthwise] c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, w2, b2)
    [relu2] d = Relu (c)
    [up] e = ConvTranspose <strides = [2, 2]> (d, w3, b3)
    [relu3] f = Relu (e)
    [unbiased] h = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (f, w4)
    [relu4] i = Relu (h)
    [pool] j = GlobalAveragePool (i)
    [flatten] k = Flatten (j)
    [product] l = MatMul (k, w5)
    [tanh] m = Tanh (l)
    [head] y = Gemm <transB = 1> (m, w6, b6)
}"""
MIXED_LAYERS = ("first", "depthwise", "up", "unbiased", "product", "head")


@dataclass(frozen=True)
class Case:
    """A network as a method finds it."""

    start: Start
    feeds: Feeds

    def improved(self, name: str, effort: Effort | None = None, store: RoundedStore | None = None) -> Improved:
        method = name.partition(" ")[0]
        return round_model(method, self.start, self.feeds, effort or EFFORTS[name], store=store)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def case_of(model: ir.Model | Path, data: Mapping[str, np.ndarray], precision: str = "w4a8", **options: object) -> Case:
    """Return a calibrated and quantized network with its data in batches of 24."""
    source = model if isinstance(model, Path) else to_bytes(model)
    calibration = calibrate(source, data=dict(data), batch_size=24, run_options=RunOptions(threads=1), **options)
    made: Quantized = quantize_calibrated(calibration, precision, ranges="minmax")
    start = Start(calibration.model, calibration.model, made.plan, made.encodings)
    count = len(next(iter(data.values())))
    return Case(start, [{k: v[i : i + 24] for k, v in data.items()} for i in range(0, count, 24)])


def images(count: int, *shape: int, seed: int = 7) -> np.ndarray:
    """Return images whose neighbouring pixels are alike, as those of photographs are."""
    found = normal(count, *shape, seed=seed)
    for axis in (-1, -2):
        found = found + np.roll(found, 1, axis) + np.roll(found, 2, axis)
    return (found / 3 + 0.5).astype(np.float32)


def mixed() -> ir.Model:
    shapes = {
        "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (8, 4, 2, 2), "b3": (4,),
        "w4": (6, 4, 3, 3), "w5": (6, 10), "w6": (4, 10), "b6": (4,),
    }  # fmt: skip
    return graph(MIXED, **{name: normal(*s, seed=i) * 0.4 for i, (name, s) in enumerate(shapes.items())})


@cache
def mixed_case(precision: str = "w4a8") -> Case:
    return case_of(mixed(), {"image": images(48, 3, 8, 8)}, precision)


@cache
def digits_case() -> Case:
    return case_of(DIGITS / "digits.onnx", {"image": np.load(DIGITS / "calib.npz")["image"][:72]})


@cache
def improved(which: str, name: str) -> Improved:
    """Return what a method made of one of the two networks: computed once, only read."""
    return (mixed_case() if which == "mixed" else digits_case()).improved(name)


def array(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def same_bits(one: ir.Model, other: ir.Model) -> bool:
    assert one.graph.initializers.keys() == other.graph.initializers.keys()
    return all(array(one, n).tobytes() == array(other, n).tobytes() for n in one.graph.initializers)


def weights_of(case: Case) -> dict[str, tuple[str, Encoding]]:
    """Return layer -> name of its weight and the grid that the method found it on."""
    plan, found = case.start.plan, {}
    for layer in find_layers(case.start.reference.graph):
        key = plan.inputs[layer.node, 1]
        found[layer.node] = (plan.grids[key].tensor, case.start.encodings[key])
    return found


class Watcher:
    """Hook that keeps what every node reads and writes."""

    def __init__(self) -> None:
        self.reads: dict[tuple[str, int], torch.Tensor] = {}
        self.writes: dict[str, torch.Tensor] = {}

    def read(self, step, position, value):
        self.reads[step.name, position] = value
        return value

    def wrote(self, step, inputs, outputs):
        self.writes[step.name] = outputs[0]
        return outputs


def watched(model: ir.Model, feeds: Feeds) -> Watcher:
    watcher = Watcher()
    whole = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
    with torch.no_grad():
        TorchGraph(model).eval()(feeds_to_torch(whole), watcher)
    return watcher


def output_errors(case: Case, found: Improved, *, after_relu: bool) -> dict[str, tuple[float, float]]:
    """Return for every layer the mean squared error of its output: with the nearest codes, and as it was improved.

    What the layer reads is that of the improved model, which is what it read in the walk. Nearest codes get the bias
    that suits them best, so that it is codes that are compared.
    """
    floating, rounded = watched(case.start.reference, case.feeds), watched(found.model, case.feeds)
    graph_of = TorchGraph(found.model)
    steps = {step.name: step for step in graph_of.steps}
    errors = {}
    for node, (_, grid) in weights_of(case).items():
        step, wanted = steps[node], floating.writes[node]
        read = [rounded.reads[node, i] for i in range(len(step.reads))]
        nearest = torch.from_numpy(fake_quantize(floating.reads[node, 1].detach().numpy(), grid))
        values = dict(zip(step.reads, read, strict=True))
        with torch.no_grad():
            plain = graph_of.compute(step, {**values, step.reads[1]: nearest})[0]
        ours = rounded.writes[node]
        if len(step.reads) > 2 and step.call.op != "ConvTranspose":
            axes = [i for i in range(plain.ndim) if i != 1]
            plain = plain + (wanted - plain).mean(axes, keepdim=True)
        act = torch.relu if after_relu else torch.clone
        errors[node] = tuple(float((act(made) - act(wanted)).pow(2).mean()) for made in (plain, ours))
    return errors


@pytest.mark.parametrize("name", list(EFFORTS))
@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_no_layer_gets_worse(which, name):
    found = improved(which, name)
    assert (
        set(found.errors) == set(found.changed) == set(weights_of(mixed_case() if which == "mixed" else digits_case()))
    )
    assert not found.declined
    assert all(0 <= after <= before < np.inf for before, after in found.errors.values())
    before, after = np.mean(list(found.errors.values()), axis=0)
    assert after < 0.97 * before or "block" in name  # 20 iterations win little, or nothing, over where they start


@pytest.mark.parametrize("name", list(EFFORTS))
@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_weights_lie_on_the_grids_that_are_pinned(which, name):
    case, found = mixed_case() if which == "mixed" else digits_case(), improved(which, name)
    assert set(found.pinned) == {tensor for tensor, _ in weights_of(case).values()}
    for tensor, before in weights_of(case).values():
        values, pin = array(found.model, tensor), found.pinned[tensor]
        np.testing.assert_array_equal(fake_quantize(values, pin), values)
        assert pin.spec == before.spec
        assert pin.scale.shape == before.scale.shape


@pytest.mark.parametrize("name", list(EFFORTS))
def test_shapes_and_other_constants_stay(name):
    case, found = mixed_case(), improved("mixed", name)
    changed = {n for layer in find_layers(case.start.reference.graph) for n in reads_of(case, layer.node)}
    for tensor in case.start.reference.graph.initializers:
        before, after = array(case.start.reference, tensor), array(found.model, tensor)
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        if tensor not in changed:
            np.testing.assert_array_equal(after, before)


def reads_of(case: Case, node: str) -> list[str]:
    found = next(one for one in case.start.reference.graph if one.name == node)
    return [str(value.name) for value in found.inputs[1:] if value is not None]


def test_bias_correction_moves_only_biases():
    case, found = mixed_case(), improved("mixed", "bias-correction")
    for tensor, grid in weights_of(case).values():
        np.testing.assert_array_equal(
            array(found.model, tensor), fake_quantize(array(case.start.reference, tensor), grid)
        )
        np.testing.assert_array_equal(found.pinned[tensor].scale, grid.scale)
    moved = [n for n in ("b1", "b2", "b6") if not np.array_equal(array(found.model, n), array(case.start.reference, n))]
    assert moved == ["b1", "b2", "b6"]


@pytest.mark.parametrize("name", ["bias-correction", "seq-mse", "gptq", "adaround"])
def test_mean_outputs_are_those_of_the_float_layers(name):
    case, found = mixed_case(), improved("mixed", name)
    floating, rounded = watched(case.start.reference, case.feeds), watched(found.model, case.feeds)
    for node in ("first", "depthwise", "head"):
        wanted = floating.writes[node]
        axes = [i for i in range(wanted.ndim) if i != 1]
        shift = (rounded.writes[node].mean(axes) - wanted.mean(axes)).abs().max()
        assert float(shift) < 1e-5 * float(wanted.abs().max()), node


@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_gptq_beats_nearest_at_every_layers_output(which):
    case = mixed_case() if which == "mixed" else digits_case()
    errors = output_errors(case, improved(which, "gptq"), after_relu=False)
    assert {node: e for node, e in errors.items() if e[1] >= e[0]} == {}
    better = [ours < 0.98 * nearest for nearest, ours in errors.values()]
    assert np.mean(better) > 0.9
    nearest, ours = np.mean(list(errors.values()), axis=0)
    assert ours < 0.85 * nearest


def test_adaround_beats_nearest_behind_the_activation():
    errors = output_errors(mixed_case(), improved("mixed", "adaround"), after_relu=True)
    relus = ("first", "depthwise", "unbiased")
    assert all(errors[node][1] < 0.9 * errors[node][0] for node in relus), errors


def test_adaround_is_no_worse_than_gptq_on_the_same_inputs():
    """The first layer of both reads the data themselves."""
    ours, theirs = (
        output_errors(mixed_case(), improved("mixed", name), after_relu=True)["first"][1]
        for name in ("adaround", "gptq")
    )
    assert ours <= theirs * (1 + 1e-5)


@pytest.mark.parametrize("name", ["gptq", "adaround", "adaround by block"])
def test_a_small_ceiling_spills_and_changes_no_bit(monkeypatch, name):
    made: list[Cache] = []
    before = Cache.__init__

    def noted(self, *given):
        before(self, *given)
        made.append(self)

    monkeypatch.setattr(Cache, "__init__", noted)
    found = mixed_case().improved(name, replace(EFFORTS[name], ceiling=200_000))
    assert made[0].spilled > 0
    assert made[0].most_held <= 200_000
    assert made[0].held < 2000  # what is left are the outputs of the graph
    assert not made[0].folder.exists()
    assert same_bits(found.model, improved("mixed", name).model)


@pytest.mark.parametrize("name", list(EFFORTS))
def test_the_same_seed_gives_the_same_bits(name):
    state = torch.get_rng_state()
    again = mixed_case().improved(name)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from what others draw from
    assert same_bits(again.model, improved("mixed", name).model)
    assert again.errors == improved("mixed", name).errors


@pytest.mark.parametrize("name", list(EFFORTS))
def test_nothing_given_is_changed(name):
    case = mixed_case()
    before = to_bytes(case.start.current), [one["image"].tobytes() for one in case.feeds]
    scales = {key: grid.scale.tobytes() for key, grid in case.start.encodings.items()}
    case.improved(name)
    assert (to_bytes(case.start.current), [one["image"].tobytes() for one in case.feeds]) == before
    assert {key: grid.scale.tobytes() for key, grid in case.start.encodings.items()} == scales


@pytest.mark.parametrize("name", list(EFFORTS))
def test_a_second_run_finds_finished_layers(tmp_path, monkeypatch, name):
    case = mixed_case()
    with Store(tmp_path / "store.sqlite") as store:
        first = case.improved(name, store=RoundedStore(store, "key"))
        forbid_solvers(monkeypatch)
        again = case.improved(name, store=RoundedStore(store, "key"))
        with pytest.raises(AssertionError, match="solved again"):
            case.improved(name, store=RoundedStore(store, "another key"))
    assert same_bits(first.model, again.model)
    assert again.errors == first.errors
    assert again.changed == first.changed
    for tensor, pin in first.pinned.items():
        np.testing.assert_array_equal(again.pinned[tensor].scale, pin.scale)


def forbid_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    def solved(*_: object, **__: object) -> None:
        raise AssertionError("solved again")

    from fewbits.improvement import torch_adaround, torch_blocks

    for name in torch_improve.CLOSED:
        monkeypatch.setitem(torch_improve.CLOSED, name, solved)
    monkeypatch.setattr(torch_adaround, "learn_layer", solved)
    monkeypatch.setattr(torch_blocks, "learn_block", solved)
    monkeypatch.setattr(torch_blocks, "first_guess", solved)


@pytest.mark.parametrize("name", ["gptq", "adaround", "adaround by block"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch, name):
    case, kept = mixed_case(), RoundedStore.keep
    with Store(tmp_path / "store.sqlite") as store:
        count = 0

        def keep(self, node, found):
            nonlocal count
            count += 1
            if count == 4:
                raise KeyboardInterrupt
            return kept(self, node, found)

        monkeypatch.setattr(RoundedStore, "keep", keep)
        with pytest.raises(KeyboardInterrupt):
            case.improved(name, store=RoundedStore(store, "key"))
        monkeypatch.setattr(RoundedStore, "keep", kept)
        found = case.improved(name, store=RoundedStore(store, "key"))
    assert same_bits(found.model, improved("mixed", name).model)


@pytest.mark.parametrize("name", list(EFFORTS))
def test_methods_follow_one_another(name):
    """What an earlier method rounded is where the next one starts: never worse on its own terms, on its grid."""
    case, first = mixed_case(), improved("mixed", "gptq")
    plan = case.start.plan
    encodings = {key: first.pinned.get(grid.tensor, case.start.encodings[key]) for key, grid in plan.grids.items()}
    second = replace(case, start=replace(case.start, current=first.model, encodings=encodings)).improved(name)
    assert all(after <= before for before, after in second.errors.values())
    for tensor, pin in second.pinned.items():
        np.testing.assert_array_equal(fake_quantize(array(second.model, tensor), pin), array(second.model, tensor))


def test_a_shared_weight_is_improved_once():
    text = """g (float[N, 6] x, float[6, 6] w) => (float[N, 6] y) {
        [one] a = MatMul (x, w)
        [tanh] b = Tanh (a)
        [two] y = MatMul (b, w)
    }"""
    case = case_of(graph(text, w=normal(6, 6)), {"x": normal(48, 6, seed=3)})
    found = case.improved("gptq")
    assert found.changed == ("one",)
    assert "that of 'one', which was improved" in found.declined["two"]


def test_a_weight_that_is_looked_up_too_is_left():
    text = """g (int64[N, 4] i, float[6, 6] table) => (float[N, 4, 6] y) {
        [lookup] a = Gather (table, i)
        [tanh] b = Tanh (a)
        [head] y = MatMul (b, table)
    }"""
    indices = np.random.default_rng(0).integers(0, 6, (48, 4))
    found = case_of(graph(text, table=normal(6, 6)), {"i": indices}).improved("gptq")
    assert found.changed == ()
    assert "read by 'lookup', too, which is no layer" in found.declined["head"]
    np.testing.assert_array_equal(array(found.model, "table"), normal(6, 6))


SHARED_BIAS = """g (float[N, 3, 8, 8] x, float[3, 3, 3, 3] w1, float[3, 3, 3, 3] w2, float[3] b)
    => (float[N, 3, 8, 8] y) {
    [one] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
    [relu] r = Relu (a)
    [two] y = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
}"""
READ_BIAS = """g (float[N, 3, 8, 3] x, float[3, 3, 3, 3] w1, float[3, 3, 3, 3] w2, float[3] b)
    => (float[N, 3, 8, 3] y) {
    [one] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
    [relu] r = Relu (a)
    [two] c = Conv <pads = [1, 1, 1, 1]> (r, w2)
    [add] y = Add (c, b)
}"""


@pytest.mark.parametrize("text", [SHARED_BIAS, READ_BIAS], ids=["two layers", "layer and Add"])
@pytest.mark.parametrize("name", ["bias-correction", "gptq", "adaround", "adaround by block"])
def test_a_bias_that_another_node_reads_stays(name, text):
    b = normal(3)
    width = 8 if text is SHARED_BIAS else 3
    model = graph(text, w1=normal(3, 3, 3, 3, seed=1), w2=normal(3, 3, 3, 3, seed=2), b=b)
    found = case_of(model, {"x": images(48, 3, 8, width)}).improved(name)
    assert set(found.changed) == {"one", "two"}
    np.testing.assert_array_equal(array(found.model, "b"), b)
    assert all(after <= before for before, after in found.errors.values())


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,), (), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["gptq", "adaround", "adaround by block"])
def test_biases_of_a_gemm_may_broadcast(name, shape):
    text = f"""g (float[N, 6] x, float[6, 5] w, float[{", ".join(map(str, shape))}] b) => (float[N, 5] y) {{
        [one] a = Gemm (x, w, b)
        [tanh] y = Tanh (a)
    }}""".replace("float[] b", "float b")
    b = np.asarray(normal(5)[: int(np.prod(shape))].reshape(shape))
    case = case_of(graph(text, w=normal(6, 5, seed=1), b=b), {"x": normal(48, 6, seed=3) + np.float32(1)})
    found = case.improved(name)
    moved = not np.array_equal(array(found.model, "b"), b)
    assert array(found.model, "b").shape == shape
    assert moved == (b.size == 5)  # one value for all channels takes up no means
    assert all(after <= before for before, after in found.errors.values())


def test_16_bits_leave_nothing_to_gain():
    case = mixed_case("w16a16")
    found = case.improved("gptq")
    assert found.changed == ()
    assert set(found.declined) == set(MIXED_LAYERS)
    assert all("16-bit grid leaves nothing to gain" in reason for reason in found.declined.values())
    assert same_bits(found.model, case.start.current)


@pytest.mark.parametrize("name", list(EFFORTS))
def test_one_scale_for_all_channels_stays_one(tmp_path, name):
    target = tmp_path / "plain.toml"
    target.write_text('extends = "ort-cpu"\nper_channel = []\n')
    case = case_of(mixed(), {"image": images(48, 3, 8, 8)}, target=target)
    found = case.improved(name)
    assert all(pin.scale.shape == () for pin in found.pinned.values())
    assert all(after <= before for before, after in found.errors.values())
    for tensor, pin in found.pinned.items():
        np.testing.assert_array_equal(fake_quantize(array(found.model, tensor), pin), array(found.model, tensor))


def test_activations_that_are_rounded_are_taken_into_account():
    plain = improved("mixed", "gptq")
    found = mixed_case().improved("gptq", Effort(with_activations=True))
    assert not same_bits(found.model, plain.model)
    assert all(after <= before for before, after in found.errors.values())


def test_batches_of_unequal_size_do():
    case = mixed_case()
    whole = np.concatenate([one["image"] for one in case.feeds])
    found = replace(case, feeds=[{"image": whole[:40]}, {"image": whole[40:]}]).improved("gptq")
    assert all(after <= before for before, after in found.errors.values())


def test_dead_inputs_do_no_harm():
    """The second layer reads zeros only: everything stays finite and close to the float weights."""
    model = mixed()
    for name in ("w1", "b1"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(-np.abs(value.const_value.numpy()), name=name)
    case = case_of(model, {"image": np.abs(images(48, 3, 8, 8))})
    for name in EFFORTS:
        found = case.improved(name)
        for tensor in ("w1", "b1", "w2", "b2", "w3"):
            assert np.isfinite(array(found.model, tensor)).all(), (name, tensor)
        assert all(0 <= after <= before < np.inf for before, after in found.errors.values()), name
        step = case.start.encodings[case.start.plan.inputs["depthwise", 1]].scale.max()
        assert np.abs(array(found.model, "w2") - array(model, "w2")).max() <= 2 * step, name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_said(device):
    with pytest.raises(SpecError, match=f"no device '{device}'.*Write cpu"):
        mixed_case().improved("gptq", Effort(device=device))


def test_progress_is_told_of_every_layer():
    class Told:
        count = 0

        def advance(self, steps: int) -> None:
            self.count += steps

    case = mixed_case()
    for name in ("gptq", "adaround by block"):
        told = Told()
        round_model(name.partition(" ")[0], case.start, case.feeds, EFFORTS[name], progress=told)
        assert told.count == len(MIXED_LAYERS)


def calibration_data(name: str, samples: int) -> dict[str, np.ndarray]:
    """Return the input of a development network by name, as it wants it."""
    path = ASSETS / "data" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    with np.load(path) as stored:
        if name == "speechcommands":
            return {"mfcc": stored["calib_mfcc"][:samples].astype(np.float32)}
        pixels = stored["calib"][:samples].astype(np.float32).transpose(0, 3, 1, 2) / 255
    mean, deviation = (np.float32(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return {"input": ((pixels - mean) / deviation).astype(np.float32)}


@pytest.mark.assets
@pytest.mark.parametrize(("name", "data"), [("cifar10_resnet20", "cifar10"), ("kwt1_speechcommands", "speechcommands")])
def test_gptq_on_a_development_network(name, data):
    network(name)  # skips where it is missing
    case = case_of(ASSETS / "models" / f"{name}.onnx", calibration_data(data, 64))
    found = case.improved("gptq")
    assert set(found.changed) == set(weights_of(case)) - set(found.declined)
    assert {node: e for node, e in found.errors.items() if not 0 <= e[1] <= e[0]} == {}
    before, after = np.mean(list(found.errors.values()), axis=0)
    assert after < 0.7 * before
    errors = output_errors(case, found, after_relu=False)
    assert {node: e for node, e in errors.items() if e[1] >= e[0]} == {}
