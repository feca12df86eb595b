import itertools

import numpy as np
import pytest
from cost_networks import NETWORKS, PRECISIONS, layout, network

from fewbits.analysis.cost import cost_of
from fewbits.analysis.cost_counts import bit_operation_costs, byte_costs
from fewbits.analysis.cost_fit import Sample, Term, with_conversions
from fewbits.analysis.cost_layout import conversions_of
from fewbits.analysis.cost_probes import probe_profiles
from fewbits.analysis.cost_table import table_costs
from fewbits.analysis.costs import Costs, activation_type
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.target import load_target

TWO = Costs(
    name="made up",
    unit="us",
    groups={"a": {"w8a8": 1.0, "fp16": 2.0}, "b": {"w8a8": 10.0, "w4a8": 20.0, "fp16": 40.0}},
    conversions={("a", "b"): 100.0, ("", "a"): 1000.0},
    fixed=0.5,
    is_estimate=True,
)


def mixed(found, seed):
    """Return a random profile of the groups of a layout."""
    rng = np.random.default_rng(seed)
    return {group.name: str(rng.choice(found.precisions(group))) for group in found.groups}


def test_a_total_adds_groups_what_is_fixed_and_conversions_where_types_differ():
    assert TWO.total({"a": "w8a8", "b": "w8a8"}) == 11.5
    assert TWO.total({"a": "w8a8", "b": "w4a8"}) == 21.5
    assert TWO.total({"a": "w8a8", "b": "fp16"}) == 141.5
    assert TWO.total({"a": "fp16", "b": "fp16"}) == 42.5


def test_conversions_by_type_stand_before_those_of_any_type():
    costs = Costs("", "", TWO.groups, TWO.conversions, 0.0, True, {("uint8", "fp16"): {("a", "b"): 7.0}})
    assert costs.total({"a": "w8a8", "b": "fp16"}) == 48.0
    assert costs.total({"a": "fp16", "b": "w8a8"}) == 112.0
    assert costs.conversion(("b", "a"), ("w8a8", "fp16")) == 0.0


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"a": "w8a8"}, "The profile names no precision for group 'b': name one for every group"),
        ({"a": "w8a8", "b": "fp16", "c": "fp16"}, "no group 'c': groups are named by their first node"),
        ({"a": "w4a8", "b": "fp16"}, r"'a' has no cost in w4a8 \(made up knows it in w8a8, fp16\): choose another"),
    ],
)
def test_a_total_refuses_profiles_of_other_networks(profile, words):
    with pytest.raises(SpecError, match=words):
        TWO.total(profile)


def test_activation_types_are_those_that_the_graph_converts_between():
    for one, other in itertools.combinations(("w8a8", "w4a8", "w8a16", "w16a16", "fp16"), 2):
        model, target = network("chain"), load_target("ort-cpu")
        plan = resolve(model, Profile.parse(one, {"y": other}), target)
        is_converted = any(grid.converts for grid in plan.grids.values()) or "fp16" in (one, other)
        assert (activation_type(one) != activation_type(other)) is is_converted, (one, other)


@pytest.mark.parametrize("target", ["qnn-htp-v73", "ort-cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_bit_operations_without_conversions_are_those_of_the_model_in_the_profile(name, target):
    found = layout(name, target=target)
    costs = bit_operation_costs(found)
    model, device = network(name), load_target(target)
    profiles = [mixed(found, seed) for seed in range(8)]
    profiles += [{group.name: precision for group in found.groups} for precision in PRECISIONS]
    totals = set()
    for profile in profiles:
        nodes = {node: profile[group.name] for group in found.groups for node in group.nodes}
        plan = resolve(model, Profile.parse("fp32", nodes), device)
        expected = cost_of(model, model, plan, {"T": 5} if name == "attention" else {}).bit_operations
        assert costs.total(profile) - costs.converting(profile) == expected
        totals.add(expected)
    assert len(totals) > 4


def test_bit_operations_count_both_factors():
    found = layout("attention")
    costs = bit_operation_costs(found).groups
    weights, activations = 5 * 8 * 8, 5 * 5 * 8
    assert costs["q"] == {
        "w8a8": 64 * weights, "w4a8": 32 * weights, "w8a16": 128 * weights, "w4a16": 64 * weights,
        "fp16": 256 * weights, "fp32": 1024 * weights,
    }  # fmt: skip
    assert costs["s"]["w4a8"] == 64 * activations
    assert costs["s"]["w8a16"] == costs["s"]["fp16"] == 256 * activations
    assert set(costs["p"].values()) == {0}


def test_a_conversion_counts_as_a_multiplication_per_element():
    costs = bit_operation_costs(layout("attention"))
    pair = next(pair for pair in costs.conversions if pair == ("q", "s"))
    assert costs.conversion(pair, ("w8a8", "w8a16")) == 5 * 8 * 8 * 16
    assert costs.conversion(pair, ("w8a16", "fp16")) == 5 * 8 * 16 * 16
    assert costs.conversion(pair, ("w4a8", "w8a8")) == 0


def test_what_float16_cannot_hold_has_no_cost_in_it():
    found = layout("chain", refused={"h": "it overflows"})
    for costs in (bit_operation_costs(found), byte_costs(found)):
        assert {name: "fp16" in known for name, known in costs.groups.items()} == {"h": False, "y": True}


def test_open_shapes_are_refused():
    found = layout("attention", sizes={"N": 1})
    with pytest.raises(SpecError, match="Bit operations cannot be counted: the shapes of MatMul 'q' are open: give T"):
        bit_operation_costs(found)
    with pytest.raises(SpecError, match=r"The size of tensor 'n' is not known, .*: fix open dimensions with --dim"):
        byte_costs(found)


def test_bytes_are_stored_weights_and_what_is_read_and_written():
    costs = byte_costs(layout("chain"))
    scales = 3 * 4 + 3  # of the weight's channels, and their int8 zero points
    bias = 3 * 4 + 3 * 4 + 3 * 4  # int32 codes, scales, zero points
    assert costs.groups["h"] == {
        "w8a8": 12 + scales + bias + 4 + 3,
        "w4a8": 6 + (3 * 4 + 2) + bias + 4 + 3,
        "w8a16": 12 + scales + bias + 2 * (4 + 3),
        "w4a16": 6 + (3 * 4 + 2) + bias + 2 * (4 + 3),
        "fp16": 2 * (12 + 3) + 2 * (4 + 3),
        "fp32": 4 * (12 + 3) + 4 * (4 + 3),
    }
    assert costs.typed["uint8", "uint16"] == {("h", "y"): 3 * (1 + 2)}
    assert costs.typed["uint16", "fp16"] == {("h", "y"): 3 * (2 + 2)}
    assert costs.total({"h": "w8a8", "y": "w8a16"}) == costs.groups["h"]["w8a8"] + costs.groups["y"]["w8a16"] + 9
    assert costs.fixed == 0


def test_bytes_count_the_scales_of_every_block():
    costs = byte_costs(layout("chain", ("w4a8g3",), target="ort-cpu"))
    scales = 2 * 3 * (4 + 0.5)  # two blocks, the second of one input, of each of three channels
    assert costs.groups["h"]["w4a8g3"] == 6 + scales + 4 * 3 + 4 + 3  # the bias is float


def test_bytes_count_each_tensor_once_and_what_stays_in_float():
    costs = byte_costs(layout("residual", ("w8a8", "fp16")))
    image, wide = 4 * 6 * 6, 5 * 13 * 13
    assert costs.groups["s"]["w8a8"] == 3 * image  # two read, one written
    assert costs.fixed == 4 * 2 * wide  # Erf reads and writes float32
    assert ("u", "y") not in costs.conversions  # Erf stands between them
    assert costs.conversions["a", "s"] == costs.conversions["a", "d"] == 3 * image
    split = byte_costs(layout("split", ("w8a8", "w8a16")))
    assert split.groups["h"]["w8a8"] == 24 + 4 * 4 + 4 + 6 + 4  # the Split hands out its two halves
    assert split.conversions["h", "y"] == 3 * 2


def test_no_conversion_without_a_second_type():
    costs = byte_costs(layout("chain", ("w8a8", "w4a8")))
    assert (costs.conversions, costs.typed) == ({}, {})


def write(path, *rows, header="group,precision,cost"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = ("h,w8a8,1", "h,w8a16,2.5", "y,w8a8,3", "y,w8a16,4")


def test_a_table_is_taken_as_it_is(tmp_path):
    found = layout("chain", ("w8a8", "w8a16"))
    path = write(tmp_path / "costs.csv", *ROWS, "h>y,convert,0.25", "", "h,fp16,9")
    costs = table_costs(found, path)
    assert costs.groups == {"h": {"w8a8": 1.0, "w8a16": 2.5}, "y": {"w8a8": 3.0, "w8a16": 4.0}}
    assert costs.total({"h": "w8a16", "y": "w8a8"}) == 5.75
    assert (costs.name, costs.fixed, costs.is_estimate) == ("costs.csv", 0.0, False)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:3], "has no cost of group 'y' in w8a16: add a row for it"),
        ((*ROWS, "z,w8a8,1"), "Line 6 of .* names the group 'z', which the network does not have"),
        ((*ROWS, "h,w8,1"), "Line 6 of .* is wrong: unknown precision 'w8': write w8a8"),
        ((*ROWS, "h,fp16,fast"), "Line 6 of .* has the cost 'fast', which is no number"),
        ((*ROWS, "h,fp16,-1"), "Line 6 of .* has the cost -1: a cost is a finite number and not negative"),
        ((*ROWS, "h,fp16,inf"), "Line 6 of .* has the cost inf: a cost is a finite number"),
        ((*ROWS, "h,W8A8,1"), "Line 6 of .* gives the cost of w8a8 a second time"),
        ((*ROWS, "h>y,convert,1", "h>y,convert,2"), "Line 7 of .* gives the cost of h>y a second time"),
        ((*ROWS, "y>h,convert,1"), "Line 6 of .* converts what passes between 'y>h': write two groups"),
        ((*ROWS, "h,fp16"), "Line 6 of .* has 2 cells: write three"),
    ],
)
def test_a_table_with_a_wrong_row_is_refused(rows, words, tmp_path):
    with pytest.raises(SpecError, match=words):
        table_costs(layout("chain", ("w8a8", "w8a16")), write(tmp_path / "costs.csv", *rows))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    found = layout("chain", ("w8a8",))
    with pytest.raises(SpecError, match=r"begins with 'group,cost': its first line must be group,precision,cost\."):
        table_costs(found, write(tmp_path / "a.csv", header="group,cost"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(SpecError, match="begins with 'nothing'"):
        table_costs(found, tmp_path / "empty.csv")
    (tmp_path / "b.csv").write_bytes(b"group,precision,cost\n\xff\xfe\n")
    with pytest.raises(SpecError, match=r"cannot be read: .* Write a CSV file"):
        table_costs(found, tmp_path / "b.csv")
    with pytest.raises(SpecError, match="does not exist: check the path"):
        table_costs(found, tmp_path / "none.csv")


def test_probes_show_every_two_types_the_same_each_time():
    found = layout("residual", ("w8a8", "w4a8", "w8a16", "fp16"), refused={"s": "it overflows"})
    probes = list(probe_profiles(found, 5))
    assert len(probes) == 3 * 5
    assert probes == list(probe_profiles(found, 5))
    for profile in probes:
        assert set(profile) == {group.name for group in found.groups}
        assert profile["s"] != "fp16"
        assert "w4a8" not in profile.values()
    types = [{activation_type(p) for p in profile.values()} for profile in probes]
    assert {"uint8", "uint16"} in types
    assert {"uint16", "fp16"} in types
    assert not list(probe_profiles(layout("chain", ("w8a8", "w4a8")), 5))


def test_conversions_are_found_again_in_totals():
    found = layout("attention", ("w8a8", "w8a16", "fp16"))
    truth = {types: 3.0 * (i + 1) for i, types in enumerate(itertools.permutations(("uint8", "uint16", "fp16"), 2))}
    _, counted = conversions_of(found, lambda sizes, written, read: 1.0)
    _, typed = conversions_of(found, lambda sizes, written, read: truth[written, read])
    groups = {g.name: {p: 5.0 + len(g.name) for p in found.precisions(g)} for g in found.groups}
    real = Costs("", "us", groups, dict.fromkeys(found.passed, 0.0), 2.0, True, typed)
    samples = [Sample(profile, real.total(profile)) for profile in (mixed(found, seed) for seed in range(30))]
    fit = with_conversions(Costs("", "us", groups, {}, 2.0, True), [Term(counted, 0.0, 1e-4)], samples)
    for types, factor in truth.items():
        assert fit.typed[types] == pytest.approx(dict.fromkeys(found.passed, factor), rel=1e-3)
    mean = np.mean(list(truth.values()))
    assert fit.conversions == pytest.approx(dict.fromkeys(found.passed, mean), rel=1e-3)
    assert fit.groups == groups


def test_factors_without_samples_are_what_was_expected():
    found = layout("chain", ("w8a8", "w8a16"))
    _, counted = conversions_of(found, lambda sizes, written, read: float(sizes[0]))
    groups = {g.name: dict.fromkeys(found.precisions(g), 1.0) for g in found.groups}
    fit = with_conversions(Costs("", "", groups, {}, 0.0, True), [Term(counted, 1.0, 0.1)], [])
    assert fit.conversions == {("h", "y"): pytest.approx(3.0)}
    assert with_conversions(fit, [], []).conversions == {}
