"""What the caller of `amp` asks for: how it is read, what is refused, and what it means for a network."""

import re

import numpy as np
import pytest

from fewbits.errors import SpecError
from fewbits.quantization.groups import find_groups
from fewbits.runtime.session import RunOptions
from fewbits.workflow.amp_wishes import Placed, Share, Wishes, parse_seconds, widest
from fewbits.workflow.calibrate import calibrate

THREE = ("w8a8", "w8a16", "fp16")


@pytest.fixture(scope="module")
def groups(tiny):
    """The groups of the tiny network: conv1 (with relu), conv2, add, mul, pool (with flatten), head."""
    calibration = calibrate(tiny.model, data=tiny.calib, samples=2, run_options=RunOptions(threads=1))
    return find_groups(calibration.model.graph, calibration.target)


def test_candidates_are_named_alike_and_once():
    wishes = Wishes.parse(["W8A16", "w8a8", " w8a16 ", "FP16"])
    assert wishes.candidates == ("w8a16", "w8a8", "fp16")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("90 sec", 90), ("10m", 600), ("10 MIN", 600), ("1.5h", 5400),
     (".5m", 30)],
)  # fmt: skip
def test_times_are_read(text, seconds):
    assert parse_seconds(text) == seconds
    assert Wishes.parse(THREE, time_limit=text).time_limit_s == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "0", "0s", "10 days", "1h30m", "nan", "inf", "1e3", "s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(SpecError, match=re.escape(f"The time {text!r} is none: write 90s, 10m or 1.5h.")):
        Wishes.parse(THREE, time_limit=text)


@pytest.mark.parametrize(
    ("text", "most", "is_relative"),
    [(5e9, 5e9, False), ("5e9", 5e9, False), (" 60% ", 0.6, True), ("120%", 1.2, True), ("0", 0, False), (0, 0, False)],
)
def test_budgets_are_read(text, most, is_relative):
    wishes = Wishes.parse(THREE, budget=text)
    assert (wishes.budget, wishes.is_relative) == (pytest.approx(most), is_relative)


@pytest.mark.parametrize("text", ["", "cheap", "-1", "-5%", "nan", "inf", "%", "60%%", float("nan")])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(SpecError, match=r"The budget '.*' is no cost: write a number in the unit of the cost, or 60%"):
        Wishes.parse(THREE, budget=text)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("w8a16=20%", Share("w8a16", 0.2, of_macs=False)),
        (" W8A16 = 12.5 % ", Share("w8a16", 0.125, of_macs=False)),
        ("fp16=0%macs", Share("fp16", 0.0, of_macs=True)),
        ("fp16=100% macs", Share("fp16", 1.0, of_macs=True)),
    ],
)
def test_shares_are_read(text, share):
    assert Wishes.parse(THREE, max_share=[text]).shares == (share,)


@pytest.mark.parametrize(
    "text", ["w8a16", "w8a16=20", "w8a16=101%", "w8a16=-1%", "w8a16=1.2.3%", "=20%", "w8a16=%", "w8a16=20%bits", ""]
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(SpecError, match=re.escape(f"--max-share {text!r} is no share: write --max-share w8a16=20%")):
        Wishes.parse(THREE, max_share=[text])


def test_patterns_are_read():
    wishes = Wishes.parse(THREE, keep=["FP16: head/* ", "fp32:a:0"], at_least=["w8a16:/model.22/*"])
    assert wishes.keep == (Placed("fp16", "head/*"), Placed("fp32", "a:0"))
    assert wishes.at_least == (Placed("w8a16", "/model.22/*"),)
    assert wishes.precisions == (*THREE, "fp32")


@pytest.mark.parametrize("text", ["fp16", "fp16:", "fp16: ", "", "head"])
@pytest.mark.parametrize(("option", "name"), [("--keep", "keep"), ("--at-least", "at_least")])
def test_a_pattern_needs_both_parts(text, option, name):
    with pytest.raises(SpecError, match=re.escape(f"{option} {text!r} names no nodes: write a precision and a")):
        Wishes.parse(THREE, **{name: [text]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ["w8a8", "best"]}, "Unknown precision 'best'"),
        ({"candidates": ["w8a8"]}, "There is nothing to choose from: name two or more candidates"),
        ({"candidates": ["w8a8", "W8A8"]}, "There is nothing to choose from"),
        ({"candidates": []}, "There is nothing to choose from"),
        ({"candidates": ["w8a8", "fp32"]}, "fp32 is the float model itself: leave it out, or keep single nodes with"),
        ({"keep": ["w9a9:*"]}, "Unknown precision 'w9a9'"),
        ({"at_least": [":*"]}, "Unknown precision ''"),
        ({"max_share": ["w9a9=5%"]}, "Unknown precision 'w9a9'"),
        ({"max_share": ["w16a16=5%"]}, "limits w16a16, which is no candidate: choose from w8a8, w8a16, fp16."),
    ],
)
def test_wishes_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        Wishes.parse(**{"candidates": THREE, **options})


def test_without_wishes_every_group_may_take_every_candidate(groups):
    assert Wishes.parse(THREE).allowed(groups) == {group.name: THREE for group in groups}


def test_keep_names_groups_by_any_of_their_nodes(groups):
    allowed = Wishes.parse(THREE, keep=["w16a16:relu", "fp16:h*d"]).allowed(groups)
    expected = {group.name: THREE for group in groups} | {"conv1": ("w16a16",), "head": ("fp16",)}
    assert allowed == expected


def test_at_least_leaves_what_is_as_wide_in_weights_and_in_activations(groups):
    names = ("w4a16", "w8a8", "w8a16", "w16a16", "fp16")
    for least, left in (
        ("w8a8", ("w8a8", "w8a16", "w16a16", "fp16")),
        ("w4a16", ("w4a16", "w8a16", "w16a16", "fp16")),
        ("w8a16", ("w8a16", "w16a16", "fp16")),
        ("fp16", ("w16a16", "fp16")),
    ):
        allowed = Wishes.parse(names, at_least=[f"{least}:conv?"]).allowed(groups)
        assert allowed["conv1"] == allowed["conv2"] == left
        assert allowed["head"] == names


def test_blocks_are_more_than_none_and_less_than_another_bit(groups):
    names = ("w4a8", "w4a8g32", "w4a8g4", "w5a8", "w4a16")
    allowed = Wishes.parse(names, at_least=["w4a8g32:conv1", "w4a8g4:conv2"]).allowed(groups)
    assert allowed["conv1"] == ("w4a8g32", "w4a8g4", "w5a8")
    assert allowed["conv2"] == ("w4a8g4", "w5a8")


def test_several_wishes_hold_together(groups):
    names = ("w8a8", "w8a16", "w16a16")
    allowed = Wishes.parse(names, at_least=["w8a16:*", "w16a16:conv2"], keep=["w8a8:head"]).allowed(groups)
    assert allowed["conv1"] == ("w8a16", "w16a16")
    assert allowed["conv2"] == ("w16a16",)
    assert allowed["head"] == ("w8a8",)  # what is kept is kept, whatever else was asked for


def test_names_are_matched_as_they_are_written(groups):
    with pytest.raises(SpecError, match=r"--keep: no node of the prepared graph matches 'Conv\*'\. One of them is 'c"):
        Wishes.parse(THREE, keep=["fp16:Conv*"]).allowed(groups)


@pytest.mark.parametrize(("name", "option"), [("keep", "--keep"), ("at_least", "--at-least")])
def test_a_pattern_that_names_nothing_is_refused(groups, name, option):
    with pytest.raises(
        SpecError, match=rf"^{option}: no node of the prepared graph matches 'haed'\. One of them is 'he"
    ):
        Wishes.parse(THREE, **{name: ["fp16:haed"]}).allowed(groups)
    with pytest.raises(SpecError, match=rf"^{option}: no node of the prepared graph matches 'zzz\*'\.$"):
        Wishes.parse(THREE, **{name: ["fp16:zzz*"]}).allowed(groups)


def test_wishes_that_contradict_each_other_are_refused(groups):
    wishes = Wishes.parse(THREE, keep=["fp16:head", "fp16:head*", "w8a16:h*"])
    with pytest.raises(
        SpecError, match=r"--keep wants group 'head' in fp16 \(head\*\) and in w8a16 \(h\*\): leave one"
    ):
        wishes.allowed(groups)
    with pytest.raises(SpecError, match=r"--at-least w16a16:head: no candidate is as wide as that, add one that is\."):
        Wishes.parse(("w8a8", "w8a16"), at_least=["w16a16:head"]).allowed(groups)


def test_two_lower_limits_that_no_candidate_meets_leave_nothing(groups):
    """w16a8 and w8a16 each meet one of the two; `Problem` says so of the group."""
    wishes = Wishes.parse(("w4a16", "w8a8"), at_least=["w4a16:head", "w8a8:head"])
    assert wishes.allowed(groups)["head"] == ()


def test_shares_become_limits_of_groups_or_of_multiplications():
    macs = {"a": 0.25, "b": 0.75}
    wishes = Wishes.parse(THREE, max_share=["w8a16=20%", "fp16=30%macs"])
    of_groups, of_macs = wishes.limits(macs)
    assert (of_groups.precision, of_groups.most, of_groups.shares) == ("w8a16", pytest.approx(0.2), None)
    assert (of_macs.precision, of_macs.most, of_macs.shares) == ("fp16", pytest.approx(0.3), macs)
    assert Wishes.parse(THREE).limits(None) == ()
    assert len(Wishes.parse(THREE, max_share=["fp16=5%"]).limits(None)) == 1
    with pytest.raises(SpecError, match="multiply-accumulates cannot be limited, since shapes of the network are not"):
        wishes.limits(None)


def test_the_widest_precision_has_the_most_bits():
    assert widest(["w8a8", "w4a16", "w8a16"]) == "w8a16"
    assert widest(["fp16", "w8a16"]) == "fp16"
    assert widest(np.array(["w16a16", "fp16"]).tolist()) == "fp16"
    assert widest(["fp32", "fp16"]) == "fp32"
