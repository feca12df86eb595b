"""Random graphs: whatever the graph, the precision and the target, the invariants of `graph_checks` hold."""

import logging
import random

import pytest
from graph_checks import Tally, breaches
from graph_strategy import drawn_graphs
from hypothesis import HealthCheck, given, seed, settings

logger = logging.getLogger(__name__)
MOST_DISCARDED = 0.1


def fuzz(count: int, number: int, most_makers: int) -> Tally:
    """Hold `count` graphs against the invariants; `number` decides which graphs."""
    tally = Tally()

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn_graphs(most_makers))
    def holds(case):
        assert breaches(case, tally) == []

    holds()
    return tally


@pytest.mark.parametrize("number", range(4))
def test_every_invariant_holds_on_random_graphs(number):
    tally = fuzz(50, number, most_makers=8)
    assert tally.graphs + tally.discards >= 50
    assert tally.discards <= MOST_DISCARDED * 50


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_every_invariant_holds_on_thousands_of_random_graphs(part):
    number = random.SystemRandom().randrange(2**32)
    logger.warning("part %d: fuzz(250, %d, most_makers=12)", part, number)  # shown where it fails
    tally = fuzz(250, number, most_makers=12)
    assert tally.graphs + tally.discards >= 250
    assert tally.discards <= MOST_DISCARDED * 250
