"""Random graphs: whatever the graph, the precision and the target, the invariants of `graph_checks` hold."""

import gc
import logging
import random
import sys
from typing import Any

import pytest
from graph_checks import Tally, breaches
from graph_rare import RARE
from graph_strategy import drawn_graphs
from hypothesis import HealthCheck, Phase, given, seed, settings

logger = logging.getLogger(__name__)
MOST_DISCARDED = 0.1


def fuzz(count: int, number: int, *drawn: Any) -> Tally:
    """Hold `count` graphs against the invariants; `number` decides which graphs, `drawn` is what draws them."""
    tally = Tally()

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn_graphs(*drawn))
    def holds(case):
        assert breaches(case, tally) == []

    holds()
    return tally


@pytest.mark.parametrize("number", range(4))
def test_every_invariant_holds_on_random_graphs(number):
    tally = fuzz(50, number, 8)
    assert tally.graphs + tally.discards >= 50
    assert tally.discards <= MOST_DISCARDED * 50


@pytest.mark.parametrize("row", RARE)
def test_every_invariant_holds_on_each_rare_operator(row):
    first_opset, maker = RARE[row]
    tally = fuzz(5, 0, 3, (maker,), first_opset)
    assert tally.graphs > 0


def test_drawing_graphs_leaves_nothing_behind():
    @settings(
        max_examples=50, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(drawn_graphs(8))
    def draw(case):
        pass

    counts = []
    for number in range(6):
        seed(number)(draw)()
        gc.collect()
        counts.append(sys.getallocatedblocks())
    assert counts[-1] - counts[2] < 3 * 150  # of 150 graphs; 16 each where what options are sampled from is remembered


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_every_invariant_holds_on_thousands_of_random_graphs(part):
    number = random.SystemRandom().randrange(2**32)
    logger.warning("part %d: fuzz(250, %d, 12)", part, number)  # shown where it fails
    tally = fuzz(250, number, 12)
    assert tally.graphs + tally.discards >= 250
    assert tally.discards <= MOST_DISCARDED * 250
