import pytest
from model_zoo import ZOO
from qdq_models import model

from fewbits.quantization.groups import Group, find_groups, profile_of
from fewbits.quantization.resolve import resolve
from fewbits.spec.precision import FP32, Precision
from fewbits.spec.target import load_target

HTP = load_target("qnn-htp-v73")
W8A8 = Precision.parse("w8a8")


def groups_of(name, target=HTP):
    return find_groups((ZOO[name]()[0] if name in ZOO else name).graph, target)


def nodes_of(name, target=HTP):
    return {group.name: group.nodes for group in groups_of(name, target)}


def test_a_group_is_a_head_with_what_is_fused_and_what_passes_its_values_on():
    assert nodes_of("maxpool_flatten") == {"c": ("c", "r", "m", "y")}
    assert [(g.name, g.op) for g in groups_of("gap_gemm")] == [("c", "Conv"), ("p", "GlobalAveragePool"), ("y", "Gemm")]
    assert nodes_of("gap_gemm")["p"] == ("p", "f")


def test_what_a_target_does_not_fuse_is_a_group_of_its_own():
    assert nodes_of("conv_relu") == {"c": ("c", "y")}
    assert nodes_of("conv_relu", load_target("qnn-htp-v69")) == {"c": ("c",), "y": ("y",)}
    assert nodes_of("conv_read_twice") == {"c": ("c",), "r": ("r",), "y": ("y",)}


def test_what_stays_in_float_is_in_no_group():
    assert "e" not in nodes_of("erf")
    assert "e" in nodes_of("erf", load_target("ort-cpu"))
    assert not {"s", "n", "u", "t"} & {n for nodes in nodes_of("shape_arithmetic").values() for n in nodes}


def test_a_pass_through_behind_a_float_operator_or_an_input_heads_its_own_group():
    text = "g (float[N, 4] x) => (float y) { f = Flatten (x) r = Relu (f) e = Erf (r) t = Flatten (e) y = Relu (t) }"
    assert nodes_of(model(text)) == {"f": ("f",), "r": ("r",), "t": ("t",), "y": ("y",)}


def test_a_follower_of_a_head_that_stays_in_float_is_in_no_group():
    text = "g (float[N, 2] x) => (float[N, 3] y) { w = my.ops.Make (x) c = Gemm (x, w) r = Relu (c) y = Add (r, r) }"
    graph = model(text, domains='"my.ops": 1')
    for node in graph.graph:
        if node.name in ("c", "r"):  # its type is known, although that of a weight is not
            node.outputs[0].dtype = graph.graph.inputs[0].dtype
    assert nodes_of(graph) == {"y": ("y",)}


@pytest.mark.parametrize("target", ["qnn-htp-v73", "qnn-htp-v69", "ort-cpu"])
@pytest.mark.parametrize("name", ZOO)
def test_groups_are_exactly_the_nodes_that_change_precision_and_they_change_together(name, target):
    graph, device = ZOO[name]()[0], load_target(target)
    groups = find_groups(graph.graph, device)
    everything = resolve(graph, profile_of({}, W8A8), device)
    assert {n for n, p in everything.nodes.items() if p.precision == W8A8} == {n for g in groups for n in g.nodes}
    assert len({node for g in groups for node in g.nodes}) == sum(len(g.nodes) for g in groups)
    for group in groups:
        alone = resolve(graph, profile_of({group: W8A8}), device)
        assert {n for n, p in alone.nodes.items() if p.precision == W8A8} == set(group.nodes)


@pytest.mark.parametrize("name", ZOO)
def test_groups_and_their_nodes_are_in_the_order_of_the_graph(name):
    graph = ZOO[name]()[0].graph
    order = [str(node.name) for node in graph]
    groups = find_groups(graph, HTP)
    assert [order.index(g.name) for g in groups] == sorted(order.index(g.name) for g in groups)
    for group in groups:
        assert [order.index(n) for n in group.nodes] == sorted(order.index(n) for n in group.nodes)
        assert group.nodes[0] == group.name


def test_profile_of_groups_names_all_their_nodes():
    group = Group("c", "Conv", ("c", "r"))
    assert profile_of({group: W8A8}).nodes == {"c": W8A8, "r": W8A8}
    assert profile_of({group: W8A8}).default == FP32
    assert profile_of({group: FP32}, W8A8).default == W8A8
