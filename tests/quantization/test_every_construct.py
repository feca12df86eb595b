"""Every construct of the zoo, in every precision, alone and mixed: what must hold whatever the network is."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_zoo import ZOO
from qdq_models import (
    FAITHFUL,
    Made,
    breaches,
    initializer,
    is_dequantize,
    is_left_float,
    quantized,
    session,
    uncovered,
)

from fewbits.graph.topology import op_rule
from fewbits.runtime.session import SessionPolicy
from fewbits.spec.optable import Kind

PRECISIONS = ("w8a8", "w8a16", "w16a16", "w4a8", "w4a16", "w6a6", "fp16", "fp32")
MIXES = (("w8a8", "fp16"), ("w8a8", "w8a16"), ("w8a16", "w4a8"), ("fp16", "w8a8"), ("w8a8", "fp32"), ("w8a8", "w4a4"))
UNKNOWN_SHAPES = {"custom_domain"}  # onnx cannot infer the output's shape, which its checker demands


def grid_of(value: ir.Value | None) -> tuple[bytes, bytes] | None:
    node = value.producer() if value is not None else None
    if not is_dequantize(node):
        return None
    return initializer(node.inputs[1]).tobytes(), initializer(node.inputs[2]).tobytes()


def grids_behind(value: ir.Value) -> set[tuple[bytes, bytes]]:
    return {(initializer(u.node.inputs[1]).tobytes(), initializer(u.node.inputs[2]).tobytes())
            for u in value.uses() if u.node.op_type == "QuantizeLinear"}  # fmt: skip


def check(name: str, made: Made) -> None:
    assert not uncovered(made.float_model.graph, made.plan)
    assert breaches(made.quantized.graph, made.plan) == []
    if name not in UNKNOWN_SHAPES:
        onnx.checker.check_model(made.proto(), full_check=True)
    for node in made.quantized.graph:
        rule = op_rule(node)
        if rule is not None and rule.kind is Kind.PASS and not is_left_float(node, made.plan):
            for value in node.outputs:
                assert grids_behind(value) <= {grid_of(node.inputs[0])}, node.name


def check_runs(made: Made, floor_db: float) -> None:
    wanted = made.float_run()
    for policy in SessionPolicy:
        given = made.run(policy)
        assert list(given) == list(wanted)
        for name, reference in wanted.items():
            assert (given[name].dtype, given[name].shape) == (reference.dtype, reference.shape)
            if reference.dtype == np.float32 and policy in FAITHFUL:
                noise, power = np.square(given[name] - reference).mean(), np.square(reference).mean()
                assert 10 * np.log10(power / max(noise, 1e-30)) > floor_db, (policy, name)


@pytest.mark.parametrize("target", ["qnn-htp-v73", "qnn-htp-v68", "ort-cpu"])
@pytest.mark.parametrize("name", ZOO)
def test_every_precision_gives_a_sound_graph(name, target):
    graph, feeds = ZOO[name]()
    for precision in PRECISIONS:
        if target == "qnn-htp-v68" and precision == "w16a16":
            continue
        check(name, quantized(graph, feeds, precision, target=target))


@pytest.mark.parametrize("name", ZOO)
def test_scales_per_block_give_a_sound_graph_that_runs(name):
    graph, feeds = ZOO[name]()
    made = quantized(graph, feeds, "w4a8g2", target="ort-cpu")
    check(name, made)
    check_runs(made, FLOORS["w4a8"])


# Decibels that these toys reach with room to spare; a lost mask, axis or zero point falls far below.
FLOORS = {"w8a8": 20, "w8a16": 25, "w16a16": 60, "w4a8": 3, "fp16": 50, "fp32": 120}


@pytest.mark.parametrize("name", ZOO)
def test_every_precision_runs_under_every_policy(name):
    graph, feeds = ZOO[name]()
    for precision, floor in FLOORS.items():
        check_runs(quantized(graph, feeds, precision), floor)


@pytest.mark.parametrize(("base", "other"), MIXES)
@pytest.mark.parametrize("name", ZOO)
def test_mixed_profiles_convert_at_every_boundary(name, base, other):
    graph, feeds = ZOO[name]()
    names = [str(node.name) for node in graph.graph]
    for lifted in (names[::2], names[1::2]):
        made = quantized(graph, feeds, base, dict.fromkeys(lifted, other))
        check(name, made)
        assert list(session(made.quantized)(feeds)) == list(made.float_run())
