"""Where quantizing a group adds noise: its outer edges, what it writes anew, and its layers."""

import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.analysis.locations import Whole, locate, noisy_places, read_anew, written_anew
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.quantization.groups import find_groups
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.plan import Role
from fewbits.spec.target import load_target

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[N, 3, 8, 8] image) => (float[N, 10, 4, 4] joined, float[N, 12, 4, 4] other)
{
    c = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    r = Relu (c)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    d = Conv (p, w2)
    e = Mul (p, p)
    s = Add (e, k)
    joined = Concat <axis = 1> (d, s)
    t = LeakyRelu (p)
    other = Concat <axis = 1> (t, p)
}
"""
NODES = ("conv", "relu", "pool", "narrow", "square", "shift", "join", "leaky", "mixed")


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(6)
    model = onnx.parser.parse_model(TEXT)
    for node, name in zip(model.graph.node, NODES, strict=True):
        node.name = name
    for name, shape in {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6, 1, 1), "k": (6, 1, 1)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return prepare(load_model(model), simplify=False).model


@pytest.fixture(scope="module")
def target():
    return load_target("qnn-htp-v73")


@pytest.fixture(scope="module")
def places(graph, target):
    return {place.group.name: place for place in locate(graph.graph, find_groups(graph.graph, target))}


@pytest.fixture(scope="module")
def plan(graph, target):
    return resolve(graph, Profile.parse("w8a8"), target)


def test_every_group_has_its_locations_in_the_order_of_the_graph(graph, target, places):
    assert list(places) == ["conv", "narrow", "square", "shift", "join", "leaky", "mixed"]
    assert places["conv"].group.nodes == ("conv", "relu", "pool")
    assert [place.group for place in places.values()] == list(find_groups(graph.graph, target))


def test_edges_are_the_data_that_a_group_reads_from_outside(places):
    assert places["conv"].edges == (("conv", 0),)  # not what relu and pool read inside of it, nor weights
    assert places["join"].edges == (("join", 0), ("join", 1))
    assert places["shift"].edges == (("shift", 0),)  # the constant is no data


def test_an_edge_with_several_readers_is_listed_per_reader(places):
    assert places["square"].edges == (("square", 0), ("square", 1))
    assert places["narrow"].edges == (("narrow", 0),)
    assert places["leaky"].edges == (("leaky", 0),)
    assert places["mixed"].edges == (("mixed", 0), ("mixed", 1))


def test_layers_are_the_nodes_that_read_constants(places):
    layers = {name: place.layers for name, place in places.items()}
    assert layers == {
        "conv": ("conv",), "narrow": ("narrow",), "square": (), "shift": ("shift",), "join": (), "leaky": (),
        "mixed": (),
    }  # fmt: skip


def test_outputs_are_all_that_a_group_writes(places):
    assert places["conv"].outputs == ("c", "r", "p")
    assert places["join"].outputs == ("joined",)


def test_what_passes_values_onto_its_own_grid_adds_no_noise(graph, plan, places):
    assert plan.outputs["p"] == "p"
    assert list(written_anew(graph.graph, plan, places["conv"])) == ["r"]  # neither inside the fusion, nor by the pool


def test_a_join_onto_the_grid_of_what_it_joins_adds_no_noise(graph, plan, places):
    assert plan.source(plan.inputs["join", 0]) == plan.source(plan.outputs["joined"])
    assert written_anew(graph.graph, plan, places["join"]) == {}
    assert written_anew(graph.graph, plan, places["shift"]) == {"s": plan.outputs["s"]}


def test_a_join_onto_another_grid_adds_noise(graph, plan, places):
    """The pool has other readers, and keeps its grid; the other operand takes the grid of the output."""
    assert plan.source(plan.inputs["mixed", 0]) == plan.source(plan.outputs["other"])
    assert plan.source(plan.inputs["mixed", 1]) != plan.source(plan.outputs["other"])
    assert written_anew(graph.graph, plan, places["mixed"]) == {"other": plan.outputs["other"]}


def test_edges_are_read_on_the_grids_of_the_plan(plan, places):
    for place in places.values():
        found = read_anew(plan, place)
        assert found == {edge: plan.inputs[edge] for edge in place.edges}
        assert all(plan.grids[key].role is Role.ACTIVATION for key in found.values())


def test_what_stays_in_float_adds_no_noise(graph, target, places):
    floats = resolve(graph, Profile.parse("fp32"), target)
    for place in places.values():
        assert written_anew(graph.graph, floats, place) == {}
        assert read_anew(floats, place) == {}


@pytest.fixture(scope="module")
def halves(graph, target):
    return resolve(graph, Profile.parse("fp16"), target)


def test_float16_rounds_what_is_computed_and_not_what_is_selected(graph, halves, places):
    """Behind the Conv, Relu and MaxPool hand on float16; so does Concat, whose inputs are rounded as they are read."""
    found = {name: dict(noisy_places(graph.graph, halves, place).outputs) for name, place in places.items()}
    assert found == {
        "conv": {"c": None}, "narrow": {"d": None}, "square": {"e": None}, "shift": {"s": None}, "join": {},
        "leaky": {}, "mixed": {},
    }  # fmt: skip
    for place in places.values():
        assert noisy_places(graph.graph, halves, place).edges == dict.fromkeys(place.edges)


def test_what_float16_selects_from_float32_is_rounded(graph, target, places):
    plan = resolve(graph, Profile.parse("fp16"), target, half_refused={"conv": "it overflows", "relu": "it overflows"})
    assert noisy_places(graph.graph, plan, places["conv"]).outputs == {"p": None}


@pytest.mark.parametrize(("bounds", "is_rounded"), [((0, 6), False), ((-3e38, 6), False), ((0, 0.1), True)])
def test_bounds_that_are_not_float16_are_rounded(target, bounds, is_rounded):
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[N, 4] x) => (float[N, 4] y) { a = Sigmoid (x)  y = Clip (a, low, high) }""")
    for name, value in zip(("low", "high"), bounds, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    graph = prepare(load_model(model), simplify=False).model
    plan = resolve(graph, Profile.parse("fp16"), target)
    found = [noisy_places(graph.graph, plan, p) for p in locate(graph.graph, find_groups(graph.graph, target))]
    assert ("y" in {name for noisy in found for name in noisy.outputs}) is is_rounded


def test_a_group_without_weights_is_computed_at_once(graph, plan, halves, places):
    noisy = {name: noisy_places(graph.graph, plan, place) for name, place in places.items()}
    assert (noisy["conv"].whole, noisy["conv"].outputs) == (None, {"r": plan.outputs["r"]})
    assert (noisy["mixed"].whole, noisy["mixed"].outputs) == (Whole("mixed", ""), {})
    assert all(noisy_places(graph.graph, halves, place).whole is None for place in places.values())
