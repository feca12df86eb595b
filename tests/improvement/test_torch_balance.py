"""Channels are balanced: the float network stays the same, and its grids cost less, where any channel is free."""

import dataclasses
import re

import numpy as np
import pytest
from balance_cases import LAYERS, TEXT, feeds, output, power, started

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_balance import balance, look  # noqa: E402
from fewbits.improvement.torch_channels import FIXED, find_channels  # noqa: E402
from fewbits.improvement.torch_seen import Seen  # noqa: E402
from fewbits.improvement.torch_walk import Start  # noqa: E402
from fewbits.numerics.weights import weight_encoding  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402
from fewbits.spec.dtypes import PerBlock  # noqa: E402
from fewbits.spec.plan import Role  # noqa: E402
from fewbits.training.torch_trainable import Trainable  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def rounded(start: Start) -> torch.Tensor:
    return output(Trainable(start.current, start.plan, start.encodings).eval())


def error(start: Start) -> float:
    """Return the error of the quantized network, relative to the power of the output."""
    wanted = output(TorchGraph(start.reference))
    return float((rounded(start) - wanted).square().mean() / wanted.square().mean())


def balanced(start: Start):
    return balance(start, look(start, [feeds()], {"y": power(start)}), ["y"])


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


def test_scales_per_block_grow_with_what_is_on_them():
    start = started("w4a8g2", target="ort-cpu")
    found = balanced(start)
    for key in ("w4", "w5", "w6"):
        encoding = found.start.encodings[key]
        weight = found.start.current.graph.initializers[key].const_value.numpy()
        assert isinstance(encoding.spec.granularity, PerBlock)
        np.testing.assert_allclose(encoding.scale, weight_encoding(weight, encoding.spec).scale, rtol=1e-5)


def test_the_error_expected_of_weights_with_blocks_is_that_of_their_own_scales():
    whole, blocks = (balanced(started(name, target="ort-cpu")).before for name in ("w4a16", "w4a16g2"))
    assert blocks < 0.9 * whole


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
    found = find_channels(graph, shapes, {"y": "it is wanted"})
    same = found.classes
    for one, other in (("a", "i"), ("a", "j"), ("a", "k"), ("a", "l"), ("b", "c"), ("m", "n")):
        assert (same[one] == same[other]).all(), (one, other)
    assert (same["c"] == [*same["d"], *same["e"]]).all()
    assert (same["h"] == [*same["d"], *same["f"]]).all()
    free = [same[name] for name in ("a", "b", "f", "m")]
    assert len(set(np.concatenate(free))) == 8 + 8 + 6 + 5 == found.count - 1
    assert (same["image"] == FIXED).all()
    assert (same["y"] == FIXED).all()
    assert [layer.node for layer in found.layers] == LAYERS
    assert found.declined == {}


def test_an_operator_that_is_not_homogeneous_fixes_what_it_reads_and_writes():
    text = TEXT.replace("c = LeakyRelu (b)", "c = Sigmoid (b)").replace("n = Relu (m)", "n = Tanh (m)")
    start = started(text=text)
    graph = TorchGraph(start.reference)
    shapes = {"image": (1, 3, 8, 8), "y": (1, 3), "m": (1, 5), "n": (1, 5), "l": (1, 8)}
    shapes |= dict.fromkeys("abcijk", (1, 8, 8, 8)) | {"d": (1, 4, 8, 8), "e": (1, 4, 8, 8), "f": (1, 6, 8, 8)}
    found = find_channels(graph, shapes | {"h": (1, 10, 8, 8)}, {"y": "it is wanted"})
    for name in ("b", "c", "d", "e", "m", "n"):
        assert (found.classes[name] == FIXED).all(), name
    assert (found.classes["a"] != FIXED).all()
    assert found.declined == {"head": "it is wanted"}


def test_a_network_without_free_channels_stays_as_it_is():
    fixed = TEXT
    for name in "abfijm":
        fixed = re.sub(rf"\b{name} = (.*)", rf"{name}_ = \1 {name} = Tanh ({name}_)", fixed, count=1)
    start = started(text=fixed)
    found = balanced(start)
    assert found.start is start
    assert list(found.declined) == LAYERS
