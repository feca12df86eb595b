"""The table of rules: its order, what it leaves out, which wider precision it names; and what single rules look for."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from faulty_models import (
    IMAGES,
    LAYER_NORM,
    LAYER_NORM_PIECES,
    RMS_NORM_PIECES,
    VECTORS,
    Analysis,
    analysis,
    convs,
    gemms,
    made_up,
    normal,
    normalized,
    proto,
)

from fewbits.analysis.diagnose import RULES
from fewbits.analysis.diagnose_case import Case, Network, widened
from fewbits.analysis.diagnose_channels import input_gain
from fewbits.analysis.diagnose_norms import written_out
from fewbits.analysis.diagnose_ranges import outlier_sample
from fewbits.analysis.sensitivity import Figure
from fewbits.analysis.tensors import TensorFacts
from fewbits.errors import SpecError
from fewbits.graph.load import load_model
from fewbits.graph.shapes import infer_shapes


@cache
def plain() -> Analysis:
    return analysis(convs(), IMAGES)


def with_errors(errors, precision="w8a8"):
    """Return the findings of a plain network whose groups (a, c, p, y) have these errors."""
    return plain().findings(sensitivity=made_up(plain().calibration, errors, precision))


def test_findings_come_worst_first_and_no_more_than_asked_for():
    errors = {"a": (0.02,), "c": (0.05,), "p": (0.01,), "y": (0.03,)}
    assert [f.group for f in with_errors(errors)] == ["c", "y", "a", "p"]
    sensitivity = made_up(plain().calibration, errors)
    assert [f.group for f in plain().findings(sensitivity=sensitivity, worst=2)] == ["c", "y"]
    assert plain().findings(sensitivity=sensitivity, worst=0) == ()


def test_groups_that_hardly_count_are_left_alone():
    assert [f.group for f in with_errors({"a": (0.5,), "c": (0.004,), "p": (0.0,)})] == ["a"]
    assert with_errors({}) == ()


def test_a_group_that_breaks_the_network_is_named():
    (finding,) = with_errors({"a": (math.inf,), "c": (0.1,)})
    assert finding.group == "a"
    assert "leaves nothing of the signal at the output" in finding.sentence


def test_a_sensitivity_without_the_precision_is_refused():
    with pytest.raises(SpecError, match="no figure for part 'all' of group 'a' in 'w8a8'"):
        with_errors({"a": (0.1,)}, precision="w8a16")


@pytest.mark.parametrize(
    ("errors", "cause", "words"),
    [
        ((0.1, 0.09, 0.001), "weight-bits", "simply sensitive to 8-bit weights"),
        ((0.1, 0.001, 0.09), "activation-bits", "simply sensitive to 8-bit activations"),
        ((0.1, 0.05, 0.05), "sensitive", "it is simply sensitive."),
        ((0.1,), "sensitive", "it is simply sensitive."),
    ],
)
def test_what_no_rule_explains_is_called_sensitive_to_the_part_that_dominates(errors, cause, words):
    (finding,) = with_errors({"c": errors})
    assert (finding.cause, finding.tensor) == (cause, "")
    assert "Conv 'c' alone in w8a8 leaves 10.0 dB at the output" in finding.sentence
    assert "nothing is unusual in its ranges" in finding.sentence
    assert words in finding.sentence
    assert finding.figures["error"] == 0.1


def test_a_fault_in_a_part_that_does_not_count_is_not_the_cause():
    found = analysis(convs(factor=100), IMAGES)
    for errors, cause in (((0.1, 0.1, 0.001), "weight-bits"), ((0.1, 0.001, 0.1), "channel-range")):
        (finding,) = found.findings(sensitivity=made_up(found.calibration, {"a": errors}))
        assert finding.cause == cause


def test_a_tensor_between_two_groups_is_named_once():
    found = analysis(convs(factor=100), IMAGES)
    findings = found.findings(sensitivity=made_up(found.calibration, {"a": (0.1,), "c": (0.2,), "p": (0.05,)}))
    assert (findings[0].cause, findings[0].tensor) == ("channel-range", "r")
    assert [f.group for f in findings] == ["c", "p"]


def case(found: Analysis, group: str, sensitivity=None) -> Case:
    known = sensitivity or found.sensitivity
    groups = {g.name: g for g in known.groups}
    network = Network(
        found.calibration.model.graph, found.made.plan, found.made.encoded, found.facts, known, found.precision,
        nodes={str(node.name): node for node in found.calibration.model.graph},
        owners={node: g for g in groups.values() for node in g.nodes},
    )  # fmt: skip
    return Case(network, groups[group], known.error(group, found.precision), None, None)


def test_the_cheapest_precision_that_clearly_helps_is_named():
    known = plain().sensitivity
    for errors, wanted in (
        ({"w8a16": 0.02, "w16a16": 0.001, "fp16": 0.001}, "w8a16"),
        ({"w8a16": 0.09, "w16a16": 0.001, "fp16": 0.001}, "w16a16"),
        ({"w8a16": 0.09, "fp16": 0.001}, "fp16"),
    ):
        figures = {("c", p, "all"): Figure(e) for p, e in {"w8a8": 0.1, **errors}.items()}
        given = replace(known, precisions=("w8a8", *errors), figures=known.figures | figures)
        assert case(plain(), "c", given).lifted("activations") == (wanted, errors[wanted])


def test_where_no_precision_was_tried_the_part_is_widened_as_the_target_has_it():
    given = made_up(plain().calibration, {"c": (0.1,)})
    assert case(plain(), "c", given).lifted("activations") == ("w8a16", None)
    assert case(plain(), "c", given).lifted("weights") == ("w16a16", None)
    found = analysis(gemms(), VECTORS, target="qnn-htp-v68")  # it has no 16-bit weights
    assert case(found, "h", made_up(found.calibration, {"h": (0.1,)})).lifted("weights") == ("fp16", None)


@pytest.mark.parametrize(
    ("precision", "weights", "activations"),
    [("w4a8", "w8a8", "w4a16"), ("w4a16", "w8a16", "fp16"), ("w16a16", "fp16", "fp16"), ("fp16", "fp32", "fp32")],
)
def test_a_precision_is_widened_in_one_part(precision, weights, activations):
    assert (widened(precision, "weights"), widened(precision, "activations")) == (weights, activations)


def test_every_rule_says_what_it_looks_for():
    assert all(rule.find.__doc__ for rule in RULES)
    assert RULES[-1].part == "all"


def graph(model) -> ir.Graph:
    loaded = load_model(model)
    infer_shapes(loaded)
    return loaded.graph


INSTANCE = "g (float[N, 4, 6, 6] h) => (float y) {{ mu = ReduceMean (h, last) d = Sub (h, mu) {} }}"
ROOTS = {
    "div": "sq = Mul (d, d) var = ReduceMean (sq, last) e = Add (var, eps) sd = Sqrt (e) y = Div (d, sd)",
    "div of one": """sq = Pow (d, two) var = ReduceMean (sq, last) e = Add (eps, var) sd = Sqrt (e)
        inv = Div (one, sd) y = Mul (d, inv)""",
    "power": "sq = Pow (d, two) var = ReduceMean (sq, last) e = Add (var, eps) inv = Pow (e, root) y = Mul (d, inv)",
    "no epsilon": "sq = Mul (d, d) var = ReduceMean (sq, last) sd = Sqrt (var) y = Div (d, sd)",
}


@pytest.mark.parametrize("axes", [(-1,), (3,), (2, 3)])
@pytest.mark.parametrize("form", ROOTS)
def test_normalizations_are_found_in_every_form(form, axes):
    text = INSTANCE.format(ROOTS[form])
    arrays = {
        "last": np.int64(axes), "eps": np.float32(1e-5), "two": np.float32(2), "one": np.float32(1),
        "root": np.float32(-0.5),
    }  # fmt: skip
    (found,) = written_out(graph(proto(text, **{k: v for k, v in arrays.items() if k in text})))
    assert found.operator == ("InstanceNormalization" if axes == (2, 3) else "LayerNormalization")
    assert (found.source.name, found.square.name, found.mean_square.name) == ("h", "sq", "var")
    assert {str(n.name) for n in found.nodes} == {n.name for n in proto(text).graph.node}


def test_scale_and_shift_belong_to_a_normalization_and_what_follows_does_not():
    (found,) = written_out(graph(normalized(LAYER_NORM_PIECES.replace("n = Add", "k = Add") + " n = Mul (k, two)")))
    assert [node.name for node in found.nodes] == ["mu", "d", "sq", "var", "e", "sd", "z", "zg", "k"]
    (found,) = written_out(graph(normalized(RMS_NORM_PIECES)))
    assert (found.operator, found.opset, found.source.name) == ("RMSNormalization", 23, "h")


@pytest.mark.parametrize(
    "body",
    [
        LAYER_NORM,
        "sd = Sqrt (h) n = Div (h, sd)",
        "sq = Mul (h, h) var = ReduceMean (sq, last) e = Add (var, eps) n = Sqrt (e)",  # nothing is divided by it
        "sq = Mul (h, h) var = ReduceMean (sq, last) sd = Sqrt (var) n = Mul (h, sd)",
        "sq = Mul (h, h) var = ReduceSum (sq, last) sd = Sqrt (var) n = Div (h, sd)",
    ],
)
def test_what_is_no_normalization_in_pieces_is_not_taken_for_one(body):
    assert written_out(graph(normalized(body))) == ()


def test_the_gain_of_input_channels_is_that_of_the_outputs_that_read_them():
    def gain(text, weight):
        return input_gain(next(iter(graph(proto(text, w=weight)))))

    image = "g (float[N, 4, 6, 6] x) => (float y) {{ y = Conv {} (x, w) }}"
    weight = np.abs(normal(6, 4, 3, 3))
    np.testing.assert_allclose(gain(image.format(""), weight), weight.sum((2, 3)).max(0), rtol=1e-6)
    grouped = np.abs(normal(6, 2, 1, 1))
    wanted = np.concatenate([grouped[:3].max(0).ravel(), grouped[3:].max(0).ravel()])
    np.testing.assert_allclose(gain(image.format("<group = 2>"), grouped), wanted, rtol=1e-6)
    depthwise = np.abs(normal(8, 1, 1, 1))
    wanted = depthwise.reshape(4, 2).max(1)  # two outputs for each input
    np.testing.assert_allclose(gain(image.format("<group = 4>"), depthwise), wanted, rtol=1e-6)
    matrix = np.abs(normal(4, 5))
    vector = "g (float[N, 4] x) => (float y) {{ y = {} (x, w) }}"
    np.testing.assert_allclose(gain(vector.format("MatMul"), matrix), matrix.max(1), rtol=1e-6)
    np.testing.assert_allclose(gain(vector.format("Gemm <transB = 1>"), matrix.T), matrix.max(1), rtol=1e-6)
    assert gain("g (float[N, 4] x) => (float y) { y = Add (x, w) }", np.float32([1])) is None


@pytest.mark.parametrize(
    ("samples", "inputs", "is_outlier"),
    [
        ((1, 1.1, 0.9, 6), (), True),  # more than five times the second
        ((1, 1.1, 0.9, 5), (), False),
        ((1, 1, 1, 4, 1, 9), (), False),  # nine times the median, but what it was fed is ordinary
        ((1, 1, 1, 4, 1, 9), (1, 1, 1, 4, 1, 9), True),
        ((1, 1, 1, 4, 1, 9), (9, 1, 1, 4, 1, 1), False),  # another sample stands out in the input
        ((1, 1, 1, 8, 1, 9), (1, 1, 1, 8, 1, 9), False),  # two of them
        ((0, 0, 0, 0, 0, 9), (), False),  # a tensor that is nearly always zero
        ((1, 1, 9), (), False),  # too few to tell
    ],
)
def test_a_sample_is_an_outlier_when_it_stands_alone(samples, inputs, is_outlier):
    facts = dict(plain().facts.tensors)
    facts = {name: replace(fact, sample_absmax=(), low=0.0, high=0.0) for name, fact in facts.items()}
    facts["r"] = replace(facts["r"], sample_absmax=samples, high=max(samples))
    facts["x"] = replace(facts["x"], sample_absmax=inputs, high=max(inputs, default=0))
    found = outlier_sample(case(replace(plain(), facts=TensorFacts(facts, len(samples))), "c"))
    assert (found is not None) == is_outlier
    if found is not None:
        assert found.figures["sample"] == samples.index(max(samples))


def test_a_lone_sample_of_few_large_values_can_be_clipped_by_a_percentile():
    fact = plain().facts.tensors["r"]
    facts = {"r": replace(fact, sample_absmax=(1, 1, 1, 9), high=9.0, histogram=(0.0, 1.0, (99_970, 0, 0, 30)))}
    found = outlier_sample(case(replace(plain(), facts=TensorFacts(facts, 4)), "c"))
    assert found.remedy == "take sample 3 out of the calibration data, or --ranges percentile:99.9"
