"""Random graphs: whatever the graph, the precision and the target, the invariants of `graph_checks` hold."""

import gc
import logging
import random
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from graph_checks import ONE_THREAD, Tally, breaches
from graph_layers import conv
from graph_pointwise import clip, scaled
from graph_rare import RARE
from graph_strategy import drawn_graphs, drawn_in_blocks
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fewbits.runtime.session import SessionPolicy, open_session

logger = logging.getLogger(__name__)
MOST_DISCARDED = 0.1


def fuzz(count: int, number: int, drawn: SearchStrategy[Any]) -> Tally:
    """Hold `count` graphs against the invariants; `number` decides which graphs, `drawn` draws them."""
    tally = Tally()

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn)
    def holds(case):
        assert breaches(case, tally) == []

    holds()
    return tally


@pytest.mark.parametrize("number", range(4))
def test_every_invariant_holds_on_random_graphs(number):
    tally = fuzz(50, number, drawn_graphs(8))
    assert tally.graphs + tally.discards >= 50
    assert tally.discards <= MOST_DISCARDED * 50


def test_every_invariant_holds_with_weight_scales_per_block():
    tally = fuzz(50, 4, drawn_in_blocks(8))
    assert {name.split(", ")[1] for name in tally.blocks} == {"whole blocks", "a shorter last block"}
    assert tally.blocks.total() > 20


@pytest.mark.parametrize("row", RARE)
def test_every_invariant_holds_on_each_rare_operator(row):
    first_opset, maker = RARE[row]
    tally = fuzz(5, 0, drawn_graphs(3, (maker,), first_opset))
    assert tally.graphs > 0


def test_no_drawn_channel_is_constant_where_its_deviation_divides():
    """Such a channel gives 0 / 0, or noise where its numbers differ in the last bits: in float, too."""
    makers = (conv, clip, scaled, RARE["mean variance"][1])
    varied: list[bool] = []

    @seed(0)
    @settings(
        max_examples=200, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(drawn_graphs(6, makers))
    def judge(case):
        read = {node.input[0] for node in case.model.graph.node if node.op_type == "MeanVarianceNormalization"}
        for name in read:
            values = _values(case, name)
            varied.append(bool((values.std((0, 2, 3)) > 1e-3 * np.abs(values).max((0, 2, 3))).all()))

    judge()
    assert len(varied) > 50
    assert all(varied)


def _values(case, name):
    """Return what the float model computes for the tensor `name`."""
    if name in case.feeds:
        return case.feeds[name].astype(np.float64)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    for node in model.graph.node:
        node.name = ""
    runner = open_session(model.SerializeToString(), policy=SessionPolicy.PLAIN, options=ONE_THREAD)
    return runner(case.feeds)[name].astype(np.float64)


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
    draws = drawn_in_blocks if part % 4 == 3 else drawn_graphs
    logger.warning("part %d: fuzz(250, %d, %s(12))", part, number, draws.__name__)  # shown where it fails
    tally = fuzz(250, number, draws(12))
    assert tally.graphs + tally.discards >= 250
    assert tally.discards <= MOST_DISCARDED * 250
