"""The rules of step 1: every row of the table, reached by outcomes and by nothing else."""

import pytest

from fewbits.analysis.evaluate import Drop, Evaluation
from fewbits.errors import SpecError
from fewbits.workflow.goal import check_goal, open_goal
from fewbits.workflow.verdict import REMARKS, RULES, Finding, Outcome, Status, conclude

STANDARD = ("w8a8", "w8a16", "w16a16", "fp16")
MAX_DROP = 0.3


def outcomes(text: str, **more: str) -> list[Outcome]:
    """One letter per standard precision: o(k), n(oise), p(oor), P(oor by far), - (not run)."""
    drops = {"o": 0.1, "n": 0.5, "p": 0.5, "P": 3.0}
    statuses = {"o": Status.OK, "n": Status.NOISE, "p": Status.POOR, "P": Status.POOR}
    letters = dict(zip(STANDARD, text, strict=True)) | more
    return [
        Outcome(p, statuses[x], drops[x], f"{90 - drops[x]:.1f} %, drop {drops[x]:.1f} %")
        for p, x in letters.items()
        if x != "-"
    ]


TABLE = [
    ("oooo", Finding.FINE, "w8a8"),
    ("opoo", Finding.FINE, "w8a8"),  # odd, and remarked on
    ("o---", Finding.FINE, "w8a8"),
    ("nooo", Finding.UNDECIDED, "w8a16"),
    ("nnnn", Finding.UNDECIDED, None),
    ("pnoo", Finding.UNDECIDED, "w16a16"),
    ("pppn", Finding.UNDECIDED, None),
    ("Ppoo", Finding.BOTH, "w16a16"),
    ("ppoo", Finding.WEIGHTS, "w16a16"),
    ("PPoo", Finding.WEIGHTS, "w16a16"),
    ("-poo", Finding.WEIGHTS, "w16a16"),
    ("pooo", Finding.ACTIVATIONS, "w8a16"),
    ("Pooo", Finding.ACTIVATIONS, "w8a16"),
    ("popp", Finding.ACTIVATIONS, "w8a16"),
    ("po--", Finding.ACTIVATIONS, "w8a16"),
    ("pppo", Finding.HALF_ONLY, "fp16"),
    ("PPPo", Finding.HALF_ONLY, "fp16"),
    ("p-oo", Finding.WIDE_ONLY, "w16a16"),
    ("pppp", Finding.NONE, None),
    ("p---", Finding.INCOMPLETE, None),
    ("pp--", Finding.INCOMPLETE, None),
    ("p--o", Finding.INCOMPLETE, "fp16"),
    ("-ooo", Finding.INCOMPLETE, "w8a16"),
    ("pp-o", Finding.INCOMPLETE, "fp16"),
]


@pytest.mark.parametrize(("letters", "finding", "accepted"), TABLE)
def test_finding_and_lowest_acceptable_precision(letters, finding, accepted):
    verdict = conclude(outcomes(letters), MAX_DROP)
    assert (verdict.finding, verdict.accepted) == (finding, accepted)


def test_every_row_of_the_table_is_reached():
    assert {finding for _, finding, _ in TABLE} == set(Finding) == {rule.finding for rule in RULES}
    assert len(RULES) == len(Finding)


def test_reason_quotes_the_figures_it_rests_on():
    assert conclude(outcomes("pooo"), MAX_DROP).reason == (
        "8-bit activations cost accuracy, 16-bit activations with the same 8-bit weights do not "
        "(w8a8 89.5 %, drop 0.5 %; w8a16 89.9 %, drop 0.1 %)."
    )


def test_both_needs_a_gain_of_wide_activations_beyond_the_goal():
    far = outcomes("Ppoo")
    assert conclude(far, 2.4).finding is Finding.BOTH
    assert conclude(far, 2.6).finding is Finding.WEIGHTS


@pytest.mark.parametrize(
    ("letters", "more", "said"),
    [
        ("opoo", {}, "w8a8 passes where w8a16 fails"),
        ("popo", {}, "w8a16 passes where w16a16 fails"),
        ("ooop", {}, "fp16 fails where integers pass"),
        ("oooo", {"w4a8": "o"}, "4-bit weights are enough"),
        ("oooo", {"w4a8": "P"}, "4-bit weights need learned rounding (w4a8"),
    ],
)
def test_remarks(letters, more, said):
    remarks = conclude(outcomes(letters, **more), MAX_DROP).remarks
    assert len(remarks) == 1
    assert said in remarks[0]


def test_nothing_odd_is_not_remarked_on():
    assert len(REMARKS) == 5
    for letters in ("oooo", "pooo", "ppoo", "pppo", "pppp", "nooo"):
        assert conclude(outcomes(letters), MAX_DROP).remarks == ()


def test_cheaper_precisions_on_request_are_accepted_first():
    assert conclude(outcomes("oooo", w4a8="o"), MAX_DROP).accepted == "w4a8"
    assert conclude(outcomes("oooo", w4a16="o"), MAX_DROP).accepted == "w8a8"  # as many bit operations, narrower data
    assert conclude(outcomes("pooo", w4a16="o"), MAX_DROP).accepted == "w4a16"


def evaluation(value: float, *, metric: str = "top1", unit: str = "%", higher: bool = True) -> Evaluation:
    return Evaluation(value, metric, unit, higher, 100, 0.0)


@pytest.mark.parametrize(
    ("max_drop", "metric", "limit", "text"),
    [
        (None, "top1", 0.8, "drop of at most 0.8 % (1 % of the float score)"),
        ("0.5%", "top1", 0.4, "drop of at most 0.4 % (0.5 % of the float score)"),
        (0.3, "top1", 0.3, "drop of at most 0.3 %"),
        ("0.3", "top1", 0.3, "drop of at most 0.3 %"),
        (0, "top1", 0.0, "drop of at most 0 %"),
    ],
)
def test_goal_is_absolute_or_a_share_of_the_float_score(max_drop, metric, limit, text):
    goal = open_goal(max_drop, None, evaluation(80.0, metric=metric))
    assert goal.max_drop == pytest.approx(limit)
    assert goal.text == text
    assert goal.is_default == (max_drop is None)


@pytest.mark.parametrize(
    ("value", "interval", "status"),
    [
        (0.3, (0.1, 0.5), Status.OK),
        (-0.5, (-0.9, -0.1), Status.OK),
        (0.31, (0.1, 0.5), Status.POOR),
        (0.31, (-0.1, 0.7), Status.NOISE),
        (0.31, (0.0, 0.6), Status.NOISE),
        (0.31, None, Status.POOR),
    ],
)
def test_a_drop_beyond_the_goal_inside_its_interval_is_noise(value, interval, status):
    goal = open_goal(0.3, None, evaluation(80.0))
    assert goal.judge(Drop(value, interval), evaluation(80 - value)) is status


def test_sqnr_is_judged_by_a_floor():
    reference = evaluation(120.0, metric="sqnr@y", unit="dB")
    goal = open_goal(None, None, reference)
    assert (goal.floor, goal.text) == (20.0, "SQNR of at least 20 dB")
    statuses = [goal.judge(Drop(120 - db, (-1.0, 1.0)), evaluation(db, metric="sqnr")) for db in (19.9, 20.0, 31.0)]
    assert statuses == [Status.POOR, Status.OK, Status.OK]
    assert open_goal(None, 30, reference).floor == 30
    with pytest.raises(SpecError, match="--min-sqnr"):
        open_goal(0.5, None, reference)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "5%%", ""])
def test_goals_that_are_no_figure_are_refused(text):
    with pytest.raises(SpecError, match=r"is no figure: write 0\.5"):
        check_goal(text, None)


def test_min_sqnr_is_for_sqnr_only():
    with pytest.raises(SpecError, match="--min-sqnr is for the metric sqnr, and the score is top1"):
        open_goal(None, 30, evaluation(80.0))
    with pytest.raises(SpecError, match="must be a number of decibels"):
        check_goal(None, float("nan"))
