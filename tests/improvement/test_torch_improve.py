"""Methods that round, on small networks: never worse, on their grids, the same bits again."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rounding_cases import (
    EFFORTS,
    Case,
    array,
    case_of,
    nearest,
    network_error,
    output_errors,
    watched,
    weights_of,
)

from fewbits.errors import SpecError
from fewbits.graph.save import to_bytes
from fewbits.improvement.methods import Effort
from fewbits.improvement.result import Improved
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.numerics.affine import fake_quantize
from fewbits.numerics.weights import weight_encoding
from fewbits.quantization.layers import find_layers
from fewbits.runtime.store import Store
from fewbits.spec.dtypes import PerBlock
from networks import graph, normal

torch = pytest.importorskip("torch")

from fewbits.improvement import torch_bias, torch_improve  # noqa: E402
from fewbits.improvement.torch_cache import Cache  # noqa: E402
from fewbits.improvement.torch_improve import round_model  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
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
MIXED_BIASES = ("b1", "b2", "b3", "b6")
BIASED = ("first", "depthwise", "head")  # and the bias of a ConvTranspose cannot be corrected
ROUNDING = [name for name in EFFORTS if name != "bias-correction"]


pytestmark = pytest.mark.usefixtures("one_thread")


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


def same_bits(one: ir.Model, other: ir.Model) -> bool:
    assert one.graph.initializers.keys() == other.graph.initializers.keys()
    return all(array(one, n).tobytes() == array(other, n).tobytes() for n in one.graph.initializers)


@pytest.mark.parametrize("name", list(EFFORTS))
@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_no_layer_gets_worse(which, name):
    found = improved(which, name)
    case = mixed_case() if which == "mixed" else digits_case()
    left = {"up", "unbiased", "product"} if (which, name) == ("mixed", "bias-correction") else set()
    assert set(found.errors) == set(found.changed) == set(weights_of(case)) - left
    assert set(found.declined) == left
    assert all(0 <= after <= before < np.inf for before, after in found.errors.values())
    before, after = np.mean(list(found.errors.values()), axis=0)
    # biases that are corrected already leave little; 20 iterations win little, or nothing, over where they start
    assert after < (0.99 if name == "bias-correction" else 0.97) * before or "block" in name or "drop" in name


@pytest.mark.parametrize("name", list(EFFORTS))
@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_weights_lie_on_the_grids_that_are_pinned(which, name):
    case, found = mixed_case() if which == "mixed" else digits_case(), improved(which, name)
    assert set(found.pinned) == {tensor for node, (tensor, _) in weights_of(case).items() if node in found.changed}
    for tensor, before in (weights_of(case)[node] for node in found.changed):
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
    for node, (tensor, grid) in weights_of(case).items():
        before = array(case.start.reference, tensor)
        expected = fake_quantize(before, grid) if node in BIASED else before
        np.testing.assert_array_equal(array(found.model, tensor), expected)
        assert (tensor in found.pinned) == (node in BIASED)
        assert node not in BIASED or np.array_equal(found.pinned[tensor].scale, grid.scale)
    moved = [n for n in MIXED_BIASES if not np.array_equal(array(found.model, n), array(case.start.reference, n))]
    assert moved == ["b1", "b2", "b6"]
    assert found.declined["unbiased"] == "its bias cannot be corrected: it has none of its own"
    assert "ConvTranspose are sums" in found.declined["up"]


def test_a_corrected_bias_is_the_best_behind_the_activation():
    """The first layer reads the data themselves: no bias nearby leaves less of the error behind its Relu."""
    case, found = mixed_case(), improved("mixed", "bias-correction")
    floating, rounded = watched(case.start.reference, case.feeds), watched(found.model, case.feeds)
    wanted, given = (torch.relu(each.writes["first"]) for each in (floating, rounded))
    least = (given - wanted).pow(2).mean([0, 2, 3])
    for shift in (-0.02, 0.02):
        other = torch.relu(rounded.writes["first"] + shift * floating.writes["first"].std())
        assert ((other - wanted).pow(2).mean([0, 2, 3]) > least).all()


@pytest.mark.parametrize("which", ["mixed", "digits"])
def test_bias_correction_lowers_the_error_of_the_outputs(which):
    """Against the quantized model with the biases that `quantize` corrects already."""
    case = mixed_case() if which == "mixed" else digits_case()
    found = improved(which, "bias-correction")
    before = network_error(case, nearest(case, case.start.reference, biases=True))
    assert network_error(case, nearest(case, found.model)) < before


def test_biases_that_harm_the_outputs_together_stay(monkeypatch):
    def harmed(layers, step):
        found = torch_bias.correct_bias(layers, step)
        return replace(found, bias=found.bias + np.float32(1))

    monkeypatch.setattr(torch_improve, "correct_bias", harmed)
    case = mixed_case()
    found = case.improved("bias-correction")
    assert (found.changed, found.pinned, found.errors) == ((), {}, {})
    assert all("the error of the outputs would go from" in found.declined[node] for node in BIASED)
    assert set(found.declined) == set(MIXED_LAYERS)
    assert same_bits(found.model, case.start.current)


def test_outputs_are_compared_although_the_time_is_up():
    """Layers that were not reached keep their biases, and what was corrected is still no loss."""
    calls = []

    def is_late() -> bool:
        calls.append(1)
        return len(calls) > 3

    case = mixed_case()
    found = round_model("bias-correction", case.start, case.feeds, Effort(), is_late=is_late)
    assert set(found.changed) <= {"first", "depthwise"}
    assert found.declined["head"] == "the time was up"
    for name in ("b6", "b3"):
        np.testing.assert_array_equal(array(found.model, name), array(case.start.reference, name))


@pytest.mark.parametrize("name", ["seq-mse", "gptq", "adaround"])
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


@pytest.mark.parametrize("name", ["bias-correction", "gptq", "adaround", "adaround by block", "adaround, drop"])
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
        first = case.improved(name, store=RoundedStore(store, lambda: "key"))
        forbid_solvers(monkeypatch)
        again = case.improved(name, store=RoundedStore(store, lambda: "key"))
        with pytest.raises(AssertionError, match="solved again"):
            case.improved(name, store=RoundedStore(store, lambda: "another key"))
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
    monkeypatch.setattr(torch_bias, "_loss_of", solved)
    monkeypatch.setattr(torch_adaround, "learn_layer", solved)
    monkeypatch.setattr(torch_blocks, "learn_block", solved)
    monkeypatch.setattr(torch_blocks, "first_guess", solved)


@pytest.mark.parametrize("name", ["gptq", "adaround", "adaround by block", "adaround by block, drop"])
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
            case.improved(name, store=RoundedStore(store, lambda: "key"))
        monkeypatch.setattr(RoundedStore, "keep", kept)
        found = case.improved(name, store=RoundedStore(store, lambda: "key"))
    assert same_bits(found.model, improved("mixed", name).model)


@pytest.mark.parametrize("name", list(EFFORTS))
def test_methods_follow_one_another(name):
    """What an earlier method rounded is where the next one starts: never worse on its own terms, on its grid."""
    case, first = mixed_case(), improved("mixed", "gptq")
    plan = case.start.plan
    encodings = {key: first.pinned.get(grid.tensor, case.start.encodings[key]) for key, grid in plan.grids.items()}
    second = replace(case, start=replace(case.start, current=first.model, encodings=encodings, biases={})).improved(
        name
    )
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
    assert set(found.changed) == (set() if name == "bias-correction" else {"one", "two"})
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


@cache
def blocked_case() -> Case:
    """Return the network with blocks of 4 inputs, and of 2 in each position of the kernels of two convolutions."""
    case = case_of(mixed(), {"image": images(48, 3, 8, 8)}, "w4a8g4", target="ort-cpu")
    grids, encodings = dict(case.start.plan.grids), dict(case.start.encodings)
    for key, granularity in (("w3", PerBlock(0, 2)), ("w4", PerBlock(1, 2))):
        grids[key] = replace(grids[key], spec=replace(grids[key].spec, granularity=granularity))
        encodings[key] = weight_encoding(array(case.start.current, key), grids[key].spec)
    plan = replace(case.start.plan, grids=grids)
    return replace(case, start=replace(case.start, plan=plan, encodings=encodings))


BLOCKED = {"w3", "w4", "w5", "w6"}


@pytest.mark.parametrize("name", list(EFFORTS))
def test_weights_with_scales_per_block_are_improved_on_their_grids(name):
    case = blocked_case()
    found = case.improved(name)
    left = {"up", "unbiased", "product"} if name == "bias-correction" else set()
    assert set(found.changed) == set(MIXED_LAYERS) - left
    assert set(found.declined) == left
    assert all(0 <= after <= before for before, after in found.errors.values())
    for tensor, pin in found.pinned.items():
        assert isinstance(pin.spec.granularity, PerBlock) is (tensor in BLOCKED)
        assert pin.spec == case.start.plan.grids[tensor].spec
        assert pin.scale.shape == case.start.encodings[tensor].scale.shape
        if name != "bias-correction":
            np.testing.assert_array_equal(fake_quantize(array(found.model, tensor), pin), array(found.model, tensor))
    if name in ("seq-mse", "gptq"):  # the scales of one channel are chosen one by one
        changes = found.pinned["w6"].scale / case.start.encodings["w6"].scale
        assert np.unique(changes[0].round(3)).size > 1


@pytest.mark.parametrize("name", ["seq-mse", "gptq", "adaround"])
def test_weights_with_scales_per_block_beat_nearest(name):
    case = blocked_case()
    errors = output_errors(case, case.improved(name), after_relu=name == "adaround")
    ratios = [after / before for before, after in errors.values()]
    assert np.exp(np.mean(np.log(ratios))) < 0.8


def test_scales_per_block_are_kept_and_found_again(tmp_path, monkeypatch):
    case = blocked_case()
    with Store(tmp_path / "runs.db") as store:
        first = case.improved("gptq", store=RoundedStore(store))
        forbid_solvers(monkeypatch)
        second = case.improved("gptq", store=RoundedStore(store))
    assert same_bits(first.model, second.model)
    assert all(np.array_equal(first.pinned[k].scale, second.pinned[k].scale) for k in BLOCKED)


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


PICKED = """g (float[N, 6] x, float[6, 6] w1, float[6] b1, float[6, 6] w2, float[6] b2, float[6, 4] w3, float limit,
           int64[1] rows, int64[1] columns) => (float[N, 4] y) {{
    [first] a = Gemm (x, w1, b1)
    [top] t = ReduceMax <keepdims = 0> (a, columns)
    [large] l = Greater (t, limit)
    [pick] p = Compress <axis = 0> (a, l)
    [picked] q = {product}
    [sum] s = ReduceSum (q, rows)
    [add] u = Add (a, s)
    [head] y = MatMul (u, w3)
}}"""
PRODUCTS = ("MatMul (p, w2)", "Gemm (p, w2, b2)")


def picking(product: str, limit: float, x: np.ndarray) -> Case:
    """Return a network whose layer `picked` reads only the rows in which a value is beyond a limit."""
    arrays = {
        "w1": normal(6, 6, seed=1), "b1": normal(6, seed=2), "w2": normal(6, 6, seed=3), "w3": normal(6, 4, seed=4),
        "limit": np.float32(limit), "rows": np.array([0]), "columns": np.array([1]),
    }  # fmt: skip
    if "b2" in product:
        arrays["b2"] = normal(6, seed=5)
    text = PICKED if "b2" in product else PICKED.replace(" float[6] b2,", "")
    return case_of(graph(text.format(product=product), **arrays), {"x": x})


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ROUNDING)
def test_a_layer_that_reads_nothing_is_left(name, product):
    found = picking(product, 1e9, normal(48, 6)).improved(name)
    assert found.declined == {"picked": "it read nothing on the calibration data"}
    assert set(found.changed) == set(found.errors) == {"first", "head"}
    assert set(found.pinned) == {"w1", "w3"}
    np.testing.assert_array_equal(array(found.model, "w2"), normal(6, 6, seed=3))
    assert all(0 <= after <= before < np.inf for before, after in found.errors.values())


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ROUNDING)
def test_a_layer_may_read_nothing_in_some_batches(name, product):
    x = normal(48, 6)
    x[:24] *= 1e-3  # the first batch
    case = picking(product, 3.0, np.where(np.abs(x) > 1e-2, x + np.float32(20) * np.sign(x), x))
    read = watched(case.start.reference, case.feeds[:1]).reads["picked", 0]
    assert len(read) == 0
    found = case.improved(name)
    assert found.declined == {}
    assert set(found.changed) == {"first", "picked", "head"}
    assert all(0 <= after <= before < np.inf for before, after in found.errors.values())
    assert np.isfinite(array(found.model, "w2")).all()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ROUNDING)
def test_a_layer_that_reads_other_rows_than_in_the_float_model_is_left(name, product):
    found = picking(product, 1.5, normal(480, 6)).improved(name)
    assert found.declined == {"picked": "it reads another number of rows than in the float model"}
    assert set(found.changed) == {"first", "head"}
    np.testing.assert_array_equal(array(found.model, "w2"), normal(6, 6, seed=3))


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


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:x"])
def test_what_is_no_device_is_said(device):
    with pytest.raises(SpecError, match=f"'{device}' is no device: write cpu or cuda"):
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
