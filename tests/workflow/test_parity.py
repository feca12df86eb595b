"""Comparing two ways of running one network."""

import numpy as np
import pytest

from fewbits.runtime.data import InputInfo
from fewbits.workflow.parity import measure, random_feeds

NAN, INF = float("nan"), float("inf")


def compare(reference, test):
    left, right = (np.array(values, np.float32) for values in (reference, test))
    return measure(lambda _: {"y": left}, lambda _: {"y": right}, [{}], "one")


def test_measure_gives_sqnr_and_largest_difference():
    found = compare([3, 4], [3, 4.5])
    assert found.sqnr_db["y"] == pytest.approx(20)
    assert (found.max_abs, found.samples, found.feeds) == ({"y": 0.5}, 1, "one")
    assert compare([3, 4], [3, 4]).sqnr_db == {"y": None}


@pytest.mark.parametrize("values", [[NAN, 2], [-INF, 2], [INF, NAN]])
def test_measure_takes_equal_values_that_are_not_finite_as_equal(values):
    found = compare(values, values)
    assert (found.sqnr_db, found.max_abs) == ({"y": None}, {"y": 0.0})


@pytest.mark.parametrize(("reference", "test"), [([1, 2], [NAN, 2]), ([NAN, 2], [1, 2]), ([INF, 2], [-INF, 2])])
def test_measure_finds_what_is_finite_in_one_only(reference, test):
    found = compare(reference, test)
    assert (found.sqnr_db, found.max_abs) == ({"y": -INF}, {"y": INF})


def test_random_feeds_fit_the_inputs_and_repeat():
    infos = [InputInfo("x", np.dtype(np.float16), ("n", 4)), InputInfo("ids", np.dtype(np.int64), (2, 50))]
    first, again = next(random_feeds(infos, 1)), next(random_feeds(infos, 1))
    assert {name: (array.dtype, array.shape) for name, array in first.items()} == {
        "x": (np.float16, (1, 4)), "ids": (np.int64, (2, 50)),
    }  # fmt: skip
    assert set(np.unique(first["ids"])) == {0, 1}
    assert all((first[name] == again[name]).all() for name in first)
