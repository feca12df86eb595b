"""What scored models amount to."""

import pytest

from fewbits.reporting.auto_record import Contender
from fewbits.workflow.auto_facts import (
    base_of,
    best_of,
    is_quick,
    nearest_of,
    quickest_of,
    standing_of,
    unmeasured_of,
    wide_of,
    with_pareto,
)
from fewbits.workflow.auto_rules import Aim
from fewbits.workflow.verdict import Status


def made(name, *, step="baseline", precision=None, drop=0.2, status="ok", ops=100, size=10, ms=None):
    return Contender(
        name=name, step=step, precision=precision or name, folder=name, score=90 - drop, drop=drop, interval=None,
        status=status, bit_operations=ops, weight_bytes=size, latency_ms=ms,
    )  # fmt: skip


W8A8 = made("w8a8", drop=2.0, status="poor", ms=None)
W8A16 = made("w8a16", drop=0.3, ops=200, size=11, ms=3.0)
W16A16 = made("w16a16", drop=0.0, ops=400, size=20, ms=9.0)
FP16 = made("fp16", drop=-0.1, ops=400, size=9, ms=2.0)
LITE = made("litemp-p05", step="litemp", precision="w8a8 + 5 % w8a16", drop=0.4, ops=110, size=12, ms=4.0)
ALL = (W8A8, W8A16, W16A16, FP16, LITE)


@pytest.mark.parametrize(
    ("aim", "name"),
    [(Aim.ENOUGH, "litemp-p05"), (Aim.FASTEST, "fp16"), (Aim.SMALLEST, "fp16"), (Aim.ACCURATE, "fp16")],
)
def test_best_of_goes_by_the_aim(aim, name):
    assert best_of(ALL, aim, None).name == name
    assert best_of(ALL[::-1], aim, None).name == name


def test_best_of_takes_only_what_meets_all_goals():
    assert best_of([W8A8], Aim.ENOUGH, None) is None
    assert best_of([made("w8a8", status="noise")], Aim.ENOUGH, None) is None
    assert best_of(ALL, Aim.ENOUGH, 3.5) is W8A16
    assert best_of(ALL, Aim.ENOUGH, 1.0) is None
    assert best_of([made("w8a8")], Aim.ENOUGH, 1.0) is None  # nothing tells its latency
    assert is_quick(made("w8a8", ms=2.0), 2.0)


def test_best_of_equals_is_the_cheaper_then_the_first():
    first, second = made("w8a8"), made("again-w8a8", step="again", precision="w8a8")
    for aim in Aim:
        assert best_of([first, second], aim, None) is first
    assert best_of([made("w8a8", drop=-0.5, ops=200), made("x", drop=0.0)], Aim.ACCURATE, None).name == "x"
    assert best_of([made("w8a8", ops=None), made("x", drop=0.9)], Aim.ENOUGH, None).name == "x"
    assert best_of([made("w8a8", ops=100), made("x", ops=90, ms=1.0)], Aim.FASTEST, None).name == "x"


def test_nearest_of_prefers_what_may_be_noise():
    noisy = made("w8a16", drop=2.5, status="noise")
    assert nearest_of([W8A8, noisy]) is noisy
    assert nearest_of([W8A8, made("w16a16", drop=1.5, status="poor")]).name == "w16a16"
    assert nearest_of([]) is None


def test_quickest_of_asks_for_an_acceptable_score():
    assert quickest_of([made("w8a8", status="poor", ms=1.0), W8A16, LITE]) is W8A16
    assert quickest_of([W8A8, made("w8a16")]) is None


def test_unmeasured_are_those_that_might_be_best():
    beaten = made("w16a16", drop=0.5, ops=400, size=20)
    found = [W8A8, made("w8a16", drop=0.3, ops=200, size=11), beaten, made("x", drop=0.4, ops=90, size=9, ms=1.0)]
    assert unmeasured_of(found) == ("w8a16",)
    assert unmeasured_of([W8A8]) == ()


def test_base_is_w8a8_with_the_best_weights():
    improved = made("improve-w8a8", step="improve", precision="w8a8 by gptq", drop=1.0, status="noise")
    assert base_of([W8A8, W8A16]) is W8A8
    assert base_of([W8A8, improved, made("again-w8a8", step="again", precision="w8a8", drop=1.5)]).name == "again-w8a8"
    assert base_of([W8A8, improved, made("qat-w8a8", step="qat", precision="w8a8 by qat")]) is improved
    assert base_of([W8A16]) is None


def test_wide_is_the_cheapest_acceptable_one_as_scored_last():
    assert wide_of(ALL) == "w8a16"
    assert wide_of([W8A8]) is None
    poor = made("w8a16", drop=3.0, status="poor", ops=200)
    assert wide_of([W8A8, poor, W16A16, FP16]) == "w16a16"
    assert wide_of([W8A8, poor, made("fp16", ops=400)]) == "fp16"
    better = made("again-w8a16", step="again", precision="w8a16", ops=200)
    assert wide_of([W8A8, poor, W16A16, better]) == "w8a16"
    # with better weights, too, w8a16 fails: what was scored before holds for the others
    worse = made("again-w8a16", step="again", precision="w8a16", drop=1.0, status="poor", ops=200)
    assert wide_of([W8A8, poor, W16A16, worse]) == "w16a16"
    assert wide_of([W8A8, W8A16, W16A16, worse]) == "w16a16"
    assert wide_of([W8A8, LITE]) is None


def test_standing_knows_what_a_model_costs_over_w8a8():
    assert standing_of(None, 100, "") is None
    assert standing_of(W8A8, None, "").excess == 1.0
    assert standing_of(made("improve-w8a8", step="improve", precision="w8a8 by cle"), None, "").excess == 1.0
    assert standing_of(W8A16, 100, "x") == standing_of(W8A16, 100, "x")
    assert standing_of(W8A16, 100, "").excess == 2.0
    assert standing_of(W8A16, None, "").excess is None
    assert standing_of(made("w8a16", ops=None), 100, "").excess is None
    assert standing_of(LITE, 100, "said").figures == "said"
    assert standing_of(W8A8, 100, "").status is Status.POOR


def test_pareto_marks_what_none_beats_in_everything():
    marked = {one.name: one.is_pareto for one in with_pareto(ALL)}
    assert marked == {"w8a8": True, "w8a16": True, "w16a16": False, "fp16": True, "litemp-p05": True}
    twins = with_pareto([made("a"), made("b")])
    assert [one.is_pareto for one in twins] == [True, True]
    assert [one.is_pareto for one in with_pareto([made("a", ops=None), made("b")])] == [False, True]
