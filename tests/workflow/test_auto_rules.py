"""The decisions of the whole workflow, with facts made up: nothing runs here."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import SpecError
from fewbits.workflow.auto_rules import CHEAP, RULES, Aim, Facts, Standing, decide
from fewbits.workflow.verdict import Finding, Status

BAD = Standing("baseline", Status.POOR, 3.0, 1.0, "w8a8 (90.00 %, drop 3.00 %)")
NOISY = replace(BAD, status=Status.NOISE, drop=0.8, figures="w8a8 (92.20 %, drop 0.80 %)")
GOOD = Standing("baseline", Status.OK, 0.2, 1.0, "w8a8 (92.80 %, drop 0.20 %)")
WIDE = Standing("baseline", Status.OK, 0.1, 2.0, "w8a16 (92.90 %, drop 0.10 %)")
LITE = Standing("litemp", Status.OK, 0.3, 1.1, "litemp-p05 (92.70 %, drop 0.30 %)")
COSTLY = Standing("litemp", Status.OK, 0.3, 1.6, "litemp-p40 (92.70 %, drop 0.30 %)")
BETTER = Standing("improve", Status.OK, 0.4, 1.0, "improve-w8a8 (92.60 %, drop 0.40 %)")


def after(*done, **facts):
    """Return the facts when these steps were made."""
    return Facts(**{"done": done, "reason": "8 bits are too few (w8a8 90 %)", "nearest": facts.get("base")} | facts)


ACTIVATIONS = after("baseline", finding=Finding.ACTIVATIONS, base=BAD, best=WIDE, wide="w8a16")
WEIGHTS = after("baseline", finding=Finding.WEIGHTS, base=BAD, best=WIDE, wide="w16a16")
BOTH = replace(WEIGHTS, finding=Finding.BOTH)
HALF = replace(WEIGHTS, finding=Finding.HALF_ONLY, wide="fp16")
NOISE = replace(ACTIVATIONS, finding=Finding.UNDECIDED, base=NOISY)
FINE = after("baseline", finding=Finding.FINE, base=GOOD, best=GOOD)
LOST = after("baseline", finding=Finding.INCOMPLETE, base=BAD)
LATE = after("baseline", finding=Finding.FINE, base=GOOD, too_slow="w8a8 (92.80 %, drop 0.20 %, 7 ms)", nearest=GOOD)


def then(facts, *done, **changes):
    return replace(facts, done=(*facts.done, *done), **changes)


# number of the row in RULES -> step, words of the reason, facts
CASES = [
    (0, "baseline", "uniform precisions", Facts()),
    (0, "baseline", "uniform precisions", Facts(is_over=True)),
    (1, "stop", "the time is up; the best so far is w8a16", replace(ACTIVATIONS, is_over=True)),
    (2, "stop", "8 bits are too few", replace(LOST, finding=Finding.NONE)),
    (3, "stop", "the latency of w8a8, w8a16 must be measured", replace(LATE, unmeasured=("w8a8", "w8a16"))),
    (4, "stop", f"no more than {CHEAP} times", FINE),
    (4, "stop", "litemp-p05", then(ACTIVATIONS, "litemp", best=LITE)),
    (4, "stop", "meets the goals", replace(FINE, asks_qat=True, done=("baseline", "qat"))),
    (5, "stop", "loses nothing", replace(ACTIVATIONS, aim=Aim.ACCURATE, best=replace(WIDE, drop=-0.1))),
    (6, "improve", "better weights first, since 8 bits are", WEIGHTS),
    (6, "improve", "better weights first", BOTH),
    (7, "adaround", "learned rounding", then(WEIGHTS, "improve", has_better_weights=True)),
    (8, "again", "does not pass: w8a8 (90.00", then(BOTH, "improve", "adaround", has_better_weights=True)),
    (9, "litemp", "groups in w8a16", ACTIVATIONS),
    (9, "litemp", "groups in fp16", HALF),
    (9, "litemp", "groups in w8a16", NOISE),
    (9, "litemp", "groups in w16a16", then(BOTH, "improve", "adaround", "again", has_better_weights=True)),
    (9, "litemp", "groups in w16a16", replace(WEIGHTS, has_torch=False)),
    (10, "amp", "cheaper profile than litemp-p40", then(ACTIVATIONS, "litemp", best=COSTLY)),
    (10, "amp", "cheaper profile than w8a16", then(ACTIVATIONS, "litemp")),
    (11, "amp", "none is quick enough: the quickest is w8a8", LATE),
    (12, "amp", "the fastest profile", then(ACTIVATIONS, "litemp", best=LITE, aim=Aim.FASTEST)),
    (13, "narrow", "4-bit weights with better rounding", replace(FINE, aim=Aim.SMALLEST)),
    (13, "narrow", "cheaper than w8a8", replace(FINE, aim=Aim.FASTEST)),
    (14, "narrow-amp", "in some groups", then(replace(FINE, aim=Aim.SMALLEST), "narrow")),
    (14, "narrow-amp", "in some groups", replace(FINE, aim=Aim.SMALLEST, has_torch=False)),
    (15, "improve", "nothing meets the goals yet", LOST),
    (16, "qat", "is asked for", replace(FINE, asks_qat=True)),
    (16, "qat", "nothing else met the goals", then(LOST, "improve", has_time=True)),
    (17, "stop", "nothing that is left to try", then(ACTIVATIONS, "litemp", "amp")),
    (17, "stop", "nothing that is left to try", replace(FINE, aim=Aim.ACCURATE)),
    (18, "stop", "nothing is quick enough", then(LATE, "amp")),
    (19, "stop", "nothing meets the goals; w8a8", then(LOST, "improve")),
    (19, "stop", "nothing was scored", Facts(finding=Finding.INCOMPLETE, has_torch=False)),
]


@pytest.mark.parametrize(("row", "step", "words", "facts"), CASES)
def test_decide_takes_the_first_row_that_holds(row, step, words, facts):
    found, why = decide(facts)
    assert found == step
    assert words in why
    assert next(number for number, rule in enumerate(RULES) if rule.holds(facts)) == row


def test_every_row_is_reached():
    assert {case[0] for case in CASES} == set(range(len(RULES)))


def steps(facts, **changes_after):
    """Return the steps that follow; `changes_after` names what a step changes, by its name."""
    made = []
    while True:
        step, _ = decide(facts)
        made.append(step)
        if step == "stop":
            return made
        facts = then(facts, step, **changes_after.get(step.replace("-", "_"), {}))


IMPROVED = {"has_better_weights": True}


def test_the_steps_of_a_specialist():
    assert steps(FINE) == ["stop"]
    assert steps(ACTIVATIONS, litemp={"best": LITE}) == ["litemp", "stop"]
    assert steps(NOISE, litemp={"best": LITE}) == ["litemp", "stop"]
    assert steps(HALF, litemp={"best": COSTLY}, amp={"best": LITE}) == ["litemp", "amp", "stop"]
    # better weights are enough, or almost, or nothing helps
    assert steps(WEIGHTS, improve={**IMPROVED, "base": BETTER, "best": BETTER}) == ["improve", "stop"]
    found = steps(BOTH, improve=IMPROVED, again={"finding": Finding.ACTIVATIONS}, litemp={"best": LITE})
    assert found == ["improve", "adaround", "again", "litemp", "stop"]
    assert steps(WEIGHTS) == ["improve", "adaround", "litemp", "amp", "stop"]
    assert steps(LOST) == ["improve", "stop"]
    assert steps(replace(LOST, has_time=True)) == ["improve", "qat", "stop"]
    assert steps(replace(LOST, asks_qat=True)) == ["improve", "qat", "stop"]
    assert steps(replace(LOST, has_torch=False, asks_qat=True)) == ["stop"]
    assert steps(replace(FINE, asks_qat=True)) == ["qat", "stop"]


def test_the_steps_of_who_wants_more():
    small = replace(FINE, aim=Aim.SMALLEST)
    assert steps(small) == ["narrow", "narrow-amp", "stop"]
    assert steps(small, narrow={"best": replace(BETTER, step="narrow")}) == ["narrow", "stop"]
    assert steps(replace(ACTIVATIONS, aim=Aim.FASTEST)) == ["litemp", "amp", "narrow", "narrow-amp", "stop"]
    assert steps(LATE) == ["amp", "stop"]
    assert steps(replace(LATE, unmeasured=("w8a8",))) == ["stop"]
    assert "qat" not in steps(replace(LATE, has_time=True))  # training makes nothing quicker


def test_nothing_is_begun_when_the_time_is_up():
    for facts in (ACTIVATIONS, WEIGHTS, LOST, LATE, replace(FINE, asks_qat=True)):
        assert steps(replace(facts, is_over=True)) == ["stop"]


STANDINGS = st.builds(
    Standing,
    step=st.sampled_from(["baseline", "improve", "narrow", "qat"]),
    status=st.sampled_from(Status),
    drop=st.floats(-1, 9),
    excess=st.none() | st.floats(0.5, 4),
    figures=st.just("w8a8 (90 %)"),
)
KINDS = {
    "aim": st.sampled_from(Aim),
    "done": st.lists(st.sampled_from([rule.step for rule in RULES if rule.step != "stop"]), unique=True).map(tuple),
    "finding": st.none() | st.sampled_from(Finding),
    "reason": st.just("the reason"),
    "wide": st.none() | st.sampled_from(["w8a16", "w16a16", "fp16"]),
    "too_slow": st.sampled_from(["", "w8a8 (7 ms)"]),
    "unmeasured": st.sampled_from([(), ("w8a8",)]),
} | {name: st.none() | STANDINGS for name in ("base", "best", "nearest")}
FACTS = st.fixed_dictionaries(KINDS | {f.name: st.booleans() for f in fields(Facts) if f.name not in KINDS})


@given(FACTS, st.data())
def test_whatever_steps_find_they_come_to_an_end(facts, data):
    """Each step may change all that is known but what was done; no step is made twice."""
    known, made = Facts(**facts), []
    while (step := decide(known)[0]) != "stop":
        assert step not in made
        made.append(step)
        found = data.draw(FACTS) | {"done": (*known.done, step), "aim": known.aim}
        if found["finding"] is None:  # uniform precisions were scored: only the first decision lacks them
            found["finding"] = Finding.INCOMPLETE
        known = Facts(**found)
        assert decide(known)[1]
    assert len(made) <= len({rule.step for rule in RULES})


@pytest.mark.parametrize("aim", Aim)
def test_aims_come_back_by_name(aim):
    assert Aim.parse(aim.value) is aim


def test_unknown_aim_is_refused():
    with pytest.raises(SpecError, match=r"--goal is one of enough, fastest, smallest, most-accurate, not 'best'\."):
        Aim.parse("best")
