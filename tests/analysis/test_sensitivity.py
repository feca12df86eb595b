import math

import pytest

from fewbits.analysis.sensitivity import PARTS, Figure, Sensitivity
from fewbits.errors import SpecError
from fewbits.quantization.groups import Group

GROUPS = tuple(Group(name, "Conv", (name,)) for name in ("a", "b", "c", "d"))


def sensitivity(errors, **more):
    figures = {(name, "w8a8", "all"): Figure(error) for name, error in errors.items()}
    return Sensitivity("brute-force", GROUPS, ("w8a8",), 8, 0, ("y",), figures, **more)


@pytest.mark.parametrize(("error", "db"), [(0.01, 20.0), (1.0, 0.0), (0.0, math.inf), (math.inf, -math.inf)])
def test_error_in_decibels(error, db):
    assert Figure(error).sqnr_db == pytest.approx(db)
    assert Figure(error).interval_db == (Figure(error).sqnr_db, Figure(error).sqnr_db)


def test_a_drop_that_is_a_gain_has_no_error_in_decibels():
    assert Figure(-0.5, 0.1).sqnr_db == math.inf
    assert Figure(-0.5, 0.1).interval_db == (math.inf, math.inf)


def test_interval_holds_the_figure_and_is_open_where_it_reaches_zero():
    low, high = Figure(0.01, 0.1).interval_db
    assert low == pytest.approx(-10 * math.log10(0.01196))
    assert high == pytest.approx(-10 * math.log10(0.00804))
    low, high = Figure(0.01, 0.9).interval_db
    assert low < 20 < high == math.inf
    low, high = Figure(0.01, math.inf).interval_db
    assert (low, high) == (-math.inf, math.inf)


def test_groups_are_ranked_with_equals_in_the_order_of_the_graph():
    found = sensitivity({"a": 0.1, "b": 0.3, "c": 0.1, "d": math.inf})
    assert found.ranked("w8a8") == ("d", "b", "a", "c")


def test_a_real_run_outweighs_the_estimate():
    found = sensitivity({"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.2}, measured={("a", "w8a8"): 0.5})
    assert found.error("a", "w8a8") == 0.5
    assert found.error("b", "w8a8") == 0.3
    assert found.ranked("w8a8")[0] == "a"
    assert found.figure("a", "w8a8").error == 0.1


def test_parts_are_ranked_by_their_own_figures():
    figures = {
        (g.name, "w8a8", part): Figure(i if part == "weights" else -i) for part in PARTS for i, g in enumerate(GROUPS)
    }
    found = Sensitivity("one-pass", GROUPS, ("w8a8",), 8, 4, ("y",), figures, {("a", "w8a8"): 9.0})
    assert found.ranked("w8a8", "weights") == ("d", "c", "b", "a")
    assert found.ranked("w8a8", "activations") == ("a", "b", "c", "d")


def test_what_was_not_measured_is_refused_in_a_sentence():
    found = sensitivity({"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.2})
    with pytest.raises(SpecError, match=r"no figure for part 'all' of group 'a' in 'fp16': it was found for w8a8"):
        found.error("a", "fp16")
    with pytest.raises(SpecError, match="no figure for part 'weights'"):
        found.ranked("w8a8", "weights")
