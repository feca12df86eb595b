"""One planted fault a network: each is named rightly, mended by what the finding says, and not named on the twin."""

import re
from functools import cache

import numpy as np
import pytest
from faulty_models import (
    IMAGES,
    LAYER_NORM,
    LAYER_NORM_PIECES,
    MANY,
    RMS_NORM_PIECES,
    SEQUENCES,
    TOKENS,
    VECTORS,
    Analysis,
    analysis,
    attention,
    branches,
    convs,
    detector,
    gemms,
    normal,
    normalized,
    with_tail,
)

from fewbits.numerics.output_error import RelativeOutputError
from fewbits.quantization.profile import Profile
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sessions import open_graph

HTP_V68 = "qnn-htp-v68"  # its Gemm has one scale for all channels of a weight


def with_outlier(factor: float):
    images = IMAGES["x"].copy()
    images[5] *= factor
    return {"x": images}


CASES = {
    "loud weight channel": (
        lambda: analysis(gemms(factor=100), VECTORS, target=HTP_V68),
        lambda: analysis(gemms(), VECTORS, target=HTP_V68),
        ("channel-range", "h", "w1"),
    ),
    "loud activation channel": (
        lambda: analysis(convs(factor=100), IMAGES),
        lambda: analysis(convs(), IMAGES),
        ("channel-range", "a", "r"),
    ),
    "quiet activation channel": (
        lambda: analysis(convs(factor=0.01), IMAGES),
        lambda: analysis(convs(), IMAGES),
        ("channel-range", "c", "r"),
    ),
    "outlier sample": (
        lambda: analysis(convs(), with_outlier(40)),
        lambda: analysis(convs(), with_outlier(1.5)),
        ("outlier-sample", "y", "y"),
    ),
    "mask": (
        lambda: analysis(attention(-1e9), TOKENS),
        lambda: analysis(attention(-30), TOKENS),
        ("mask", "h", "m"),
    ),
    "layer normalization in pieces": (
        lambda: analysis(normalized(LAYER_NORM_PIECES), SEQUENCES, wider=("w8a16",)),
        lambda: analysis(normalized(LAYER_NORM), SEQUENCES, wider=("w8a16",)),
        ("unfused-normalization", "e", "h"),
    ),
    "rms normalization in pieces": (
        lambda: analysis(normalized(RMS_NORM_PIECES), SEQUENCES, wider=("w8a16",)),
        lambda: analysis(normalized(LAYER_NORM), SEQUENCES, wider=("w8a16",)),
        ("unfused-normalization", "e", "h"),
    ),
    "unequal add": (
        lambda: analysis(branches(0.01), IMAGES),
        lambda: analysis(branches(1), IMAGES),
        ("unequal-add", "s", "s"),
    ),
    "box head": (
        lambda: analysis(detector(600), IMAGES),
        lambda: analysis(detector(1), IMAGES),
        ("box-head", "j", "j"),
    ),
    "stretched by a tail": (
        lambda: analysis(gemms(), with_tail()),
        lambda: analysis(gemms(), MANY),
        ("long-tail", "h", "x"),
    ),
    "tail cut off": (
        lambda: analysis(gemms(), with_tail(), ranges="percentile:99"),
        lambda: analysis(gemms(), MANY, ranges="percentile:99"),
        ("long-tail", "h", "r"),
    ),
    "too few weight bits": (
        lambda: analysis(convs(), IMAGES, "w4a16", wider=("w8a16",)),
        lambda: analysis(convs(), IMAGES, "w8a8"),
        ("weight-bits", "c", ""),
    ),
    "too few activation bits": (
        lambda: analysis(convs(), IMAGES, "w8a4"),
        lambda: analysis(convs(), IMAGES, "w4a16"),
        ("activation-bits", "c", ""),
    ),
}


@cache
def faulty(name: str) -> Analysis:
    return CASES[name][0]()


@pytest.mark.parametrize("name", CASES)
def test_a_planted_fault_is_named_where_it_is(name):
    cause, group, tensor = CASES[name][2]
    found = [f for f in faulty(name).findings() if f.cause == cause]
    assert (group, tensor) in {(f.group, f.tensor) for f in found}
    (finding,) = (f for f in found if f.group == group)
    assert all(np.isfinite(value) for value in finding.figures.values())
    assert finding.sentence.endswith(".")
    assert repr(tensor) in finding.sentence or repr(group) in finding.sentence


@pytest.mark.parametrize("name", CASES)
def test_a_planted_fault_explains_the_worst_group_or_the_second(name):
    assert CASES[name][2][0] in [f.cause for f in faulty(name).findings()[:2]]


@pytest.mark.parametrize("name", CASES)
def test_the_healthy_twin_is_not_given_that_cause(name):
    assert CASES[name][2][0] not in CASES[name][1]().causes


def lines(remedy: str) -> dict[str, str]:
    """Return the lines of a profile that a remedy holds."""
    return dict(re.findall(r'"([^"]+)" = "([^"]+)"', remedy))


def output_error(found: Analysis, precision: str, nodes: dict[str, str], ranges: str) -> float:
    made = quantize_calibrated(found.calibration, Profile.parse(precision, nodes), ranges=ranges)
    runner, subject = open_graph(made.model, found.calibration.subject.options), found.calibration.subject
    error = RelativeOutputError(subject.runner.output_names)
    for batch in subject.data.batches(64):
        error.update(subject.runner(batch.feeds), runner(batch.feeds))
    return error.value


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("outlier sample", "mask", "tail cut off")])
def test_lifting_what_the_findings_say_takes_most_of_the_error_away(name):
    found = faulty(name)
    nodes = {k: v for finding in found.findings() for k, v in lines(finding.remedy).items()}
    before = output_error(found, found.precision, {}, "minmax")
    assert output_error(found, found.precision, nodes, "minmax") < before / 4


def test_a_tail_is_mended_by_the_ranges_that_err_the_other_way():
    stretched, cut = faulty("stretched by a tail"), faulty("tail cut off")
    assert stretched.finding("long-tail").remedy.startswith("--ranges percentile:99.9, or --profile lift.toml")
    # percentiles clip grids of 16 bits as well: only fp16 helps beside other ranges
    assert cut.finding("long-tail").remedy.startswith(
        '--ranges minmax, or --profile lift.toml, with the lines "h" = "fp16"'
    )
    before, after = (output_error(cut, "w8a8", {}, ranges) for ranges in ("percentile:99", "minmax"))
    assert after < before / 4


def test_the_sentence_of_a_loud_channel_has_its_figures():
    finding = faulty("loud weight channel").finding("channel-range")
    assert finding.figures["channel"] == 5
    assert 50 < finding.figures["ratio"] < 150
    assert "Channel 5 of 'w1' reaches 165, the median channel 2.08, 79.3 times less" in finding.sentence
    assert "under one scale the others keep 3 of 254 steps" in finding.sentence
    assert faulty("loud activation channel").finding("channel-range").figures["channel"] == 3
    quiet = faulty("quiet activation channel").finding("channel-range")
    assert quiet.figures["channel"] == 3
    assert quiet.figures["gain"] > 50
    assert "reaches only 0.0478, 2.1 of 255 steps, and Conv 'c' weighs it" in quiet.sentence


def test_the_outlier_sample_is_named_by_its_number_once():
    findings = [f for f in faulty("outlier sample").findings() if f.cause == "outlier-sample"]
    assert [f.figures["sample"] for f in findings] == [5]
    assert "It already stands out in the input 'x'." in findings[0].sentence
    assert (
        findings[0].remedy == "take sample 5 out of the calibration data"
    )  # a sixteenth of all data: none can clip it


def test_an_outlier_after_the_samples_looked_at_is_found_by_the_range():
    found = analysis(convs(), with_outlier(40), samples=5)
    finding = found.finding("outlier-sample")
    assert "A calibration sample after the first 5 reaches" in finding.sentence
    assert analysis(convs(), with_outlier(1), samples=5).causes.isdisjoint({"outlier-sample"})


def test_a_mask_is_traced_to_its_constant_and_a_milder_one_is_proposed():
    finding = faulty("mask").finding("mask")
    assert "reaches down to -1e+09 (from the constant 'low')" in finding.sentence
    assert "all real values share one code" in finding.sentence
    assert "a mask value of about -33 instead of -1e+09" in finding.remedy
    assert analysis(attention(-33), TOKENS).causes.isdisjoint({"mask"})


def test_a_mask_that_only_a_softmax_reads_is_no_fault():
    model = attention(-1e9)
    kept = [node for node in model.graph.node if node.name != "h"]
    softmax = next(node for node in kept if node.op_type == "Softmax")
    softmax.input[0] = "m"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    assert "mask" not in analysis(model, TOKENS).causes


def test_a_normalization_in_pieces_is_named_once_with_its_operator_and_all_its_pieces():
    findings = faulty("layer normalization in pieces").findings()
    (finding,) = (f for f in findings if f.cause == "unfused-normalization")
    assert "A LayerNormalization of 'h' is written out in 9 operators ('mu' to 'n')" in finding.sentence
    assert "Its mean square goes down to 0.000691, where one step of the grid is 0.369" in finding.sentence
    assert list(lines(finding.remedy)) == ["mu", "d", "sq", "var", "e", "sd", "z", "zg", "n"]
    assert "opset 17" in finding.remedy
    rms = faulty("rms normalization in pieces").finding("unfused-normalization")
    assert "A RMSNormalization of 'h' is written out in 7 operators ('sq' to 'n')" in rms.sentence


def test_a_box_head_lifts_the_concat_and_what_it_joins():
    finding = faulty("box head").finding("box-head")
    assert lines(finding.remedy) == {"j": "w8a16", "box": "w8a16", "score": "w8a16"}
    assert "the small ones keep 0 of 255 steps" in finding.sentence


def test_boxes_and_scores_in_the_channels_of_one_input_are_a_box_head_too():
    model = detector(600)
    (join,) = (node for node in model.graph.node if node.name == "j")
    model.graph.node[-1].input[0] = "k"  # j is joined with itself, and that is the output
    model.graph.node.insert(6, type(join)(op_type="Concat", name="k", input=["j", "j"], output=["k"]))
    model.graph.node[6].attribute.add(name="axis", i=2, type=2)
    assert "k" in {f.group for f in analysis(model, IMAGES).findings() if f.cause == "box-head"}


def test_a_concat_of_unequal_ranges_inside_the_network_is_an_unequal_add():
    model = branches(0.01)
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.op_type = "Concat"
    add.attribute.add(name="axis", i=1, type=2)
    weights = next(w for w in model.graph.initializer if w.name == "w3")
    weights.CopyFrom(type(weights)(name="w3", dims=[4, 16, 1, 1], data_type=1, raw_data=normal(4, 16).tobytes()))
    finding = analysis(model, IMAGES).finding("unequal-add")
    assert finding.sentence.startswith("Concat 's' joins 'a', which reaches 5.75, and 'b', which reaches 0.116")


def test_an_add_is_judged_by_the_grid_that_it_shares_with_its_relu():
    model = branches(0.01)
    add, conv = (next(n for n in model.graph.node if n.op_type == op and n.name in "sp") for op in ("Add", "Conv"))
    add.output[0] = "t"
    relu = type(add)(op_type="Relu", name="relu", input=["t"], output=["s"])
    model.graph.node.insert(list(model.graph.node).index(conv), relu)
    finding = analysis(model, IMAGES).finding("unequal-add")
    assert (finding.group, finding.tensor) == ("s", "s")
    assert finding.sentence.startswith("Add 's' joins 'a'")
    assert list(lines(finding.remedy)) == ["s", "p"]
