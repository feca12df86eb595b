"""Whatever is left out of a plan, what remains is a valid graph that computes what it says under every policy."""

import numpy as np
import onnx_ir as ir
import pytest
from model_zoo import ZOO
from qdq_models import FAITHFUL, QDQ, quantized, session

from fewbits.numerics.metrics import sqnr_db
from fewbits.quantization.groups import find_groups, profile_of
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.partial import encoded_alike, restricted
from fewbits.quantization.resolve import resolve
from fewbits.runtime.session import SessionPolicy
from fewbits.spec.plan import Role
from fewbits.spec.precision import FP32, Precision
from fewbits.spec.target import load_target

HTP = load_target("qnn-htp-v73")
STORED = frozenset({Role.WEIGHT, Role.BIAS})
LIVE = frozenset({Role.ACTIVATION, Role.CONSTANT})


@pytest.fixture(scope="module")
def whole():
    """Return networks of the zoo, quantized whole, each made once."""
    made = {}

    def of(name, precision="w8a8"):
        if (name, precision) not in made:
            made[name, precision] = quantized(*ZOO[name](), precision)
        return made[name, precision]

    return of


def runs_alike(model, feeds):
    """Check that no policy rewrites the graph into another one; return the outputs."""
    exact = session(model, SessionPolicy.EXACT)(feeds)
    for policy in FAITHFUL:
        for name, value in session(model, policy)(feeds).items():
            if value.dtype.kind == "f":
                assert sqnr_db(exact[name], value) > 35, policy  # flipped roundings; a wrong graph is far below
    return exact


@pytest.mark.parametrize(("roles", "precision"), [(STORED, "w4a16"), (LIVE, "w8a8")], ids=["stored", "live"])
@pytest.mark.parametrize("name", ZOO)
def test_a_plan_of_some_roles_can_be_inserted(whole, name, roles, precision):
    made = whole(name, precision)
    plan = restricted(made.plan, roles)
    assert {grid.role for grid in plan.grids.values()} <= roles
    assert {*plan.inputs.values(), *plan.outputs.values()} <= set(plan.grids)
    assert all(plan.source(key) in plan.grids for key in plan.grids)
    model = insert_qdq(made.float_model, plan, made.encoded)
    runs_alike(model, made.feeds)
    kinds = {node.op_type for node in model.graph} & set(QDQ)
    if roles == STORED:
        assert "QuantizeLinear" not in kinds


@pytest.mark.parametrize("name", ["conv_relu", "maxpool_flatten", "concat_pool", "gap_gemm"])
def test_all_roles_are_the_plan_itself(whole, name):
    made = whole(name)
    assert restricted(made.plan, frozenset(Role)) == made.plan
    assert not restricted(made.plan, ()).grids


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_a_part_has_the_encodings_of_the_whole(whole, name, is_alone):
    made = whole(name)
    w8a8 = Precision.parse("w8a8")
    for group in find_groups(made.float_model.graph, HTP):
        profile = profile_of({group: w8a8}) if is_alone else profile_of({group: FP32}, w8a8)
        plan = resolve(made.float_model, profile, HTP)
        part = encoded_alike(made.plan, made.encoded, plan)
        assert set(part.encodings) == set(plan.grids)
        for place, key in plan.inputs.items():
            other = made.plan.inputs[place]
            assert part.encodings[key] is made.encoded.encodings[other]
            assert part.encodings[key].spec == plan.grids[key].spec
            np.testing.assert_array_equal(part.biases.get(key, 0), made.encoded.biases.get(other, 0))
        for tensor, key in plan.outputs.items():
            assert part.encodings[key] is made.encoded.encodings[made.plan.outputs[tensor]]
        runs_alike(insert_qdq(made.float_model, plan, part), made.feeds)


def test_a_group_that_is_all_of_the_network_is_the_network(whole):
    made = whole("conv_relu")
    (group,) = find_groups(made.float_model.graph, HTP)
    plan = resolve(made.float_model, profile_of({group: Precision.parse("w8a8")}), HTP)
    alone = insert_qdq(made.float_model, plan, encoded_alike(made.plan, made.encoded, plan))
    assert ir.to_proto(alone).SerializeToString() == ir.to_proto(made.quantized).SerializeToString()
