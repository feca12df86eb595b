import numpy as np
import pytest
from qdq_models import FAITHFUL, model, normal, quantized, session

from fewbits.quantization.groups import find_groups
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.target import load_target, target_names

CHAIN = (
    "g (float[N, 2, 3, 3] x) => (float y, float z) {"
    " s = Relu (x) c = Conv (s, w) r = Relu (c) h = Mul (r, half) t = Transpose <perm = [0, 1, 3, 2]> (h)"
    " y = MeanVarianceNormalization <axes = [0, 2, 3]> (t) z = Sigmoid (c) }"
)
NARROW = "g (float[N, 2, 4, 4] x) => (float y) { c = Conv (x, w) y = MeanVarianceNormalization (c) }"


def chain():
    return model(CHAIN, w=normal(2, 2, 1, 1), half=np.float32(0.5))


def narrow():
    """The second channel spans far less than one step of an 8-bit grid for both."""
    return model(NARROW, w=np.diag([1.0, 1e-4]).astype(np.float32).reshape(2, 2, 1, 1))


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("precision", ["w8a8", "fp16"])
def test_what_is_divided_by_its_deviation_stays_float_up_to_where_values_mix(precision, target):
    plan = resolve(chain(), Profile.parse(precision), load_target(target))
    floats = {name for name, node in plan.nodes.items() if node.precision.float_bits == 32}
    assert floats == {"c", "r", "h", "t", "y"}
    for name in "crht":
        assert "'y' divides by the deviation of its output" in plan.nodes[name].reason
        assert name not in plan.outputs


def test_what_is_divided_by_its_deviation_is_in_no_group():
    groups = find_groups(chain().graph, load_target("qnn-htp-v73"))
    assert [group.name for group in groups] == ["s", "z"]


@pytest.mark.parametrize("policy", FAITHFUL)
def test_a_channel_narrower_than_a_step_is_normalized_all_the_same(policy):
    graph, feeds = narrow(), {"x": normal(4, 2, 4, 4)}
    made = quantized(graph, feeds, "w8a8")
    wanted, given = session(graph, policy)(feeds)["y"], session(made.quantized, policy)(feeds)["y"]
    assert np.isfinite(given).all()
    assert np.abs(given - wanted).max() < 0.1  # a step of the input: 8 of its deviations in 255 codes is 0.03


POOLED = (
    "g (float[N, 3, 6, 6] x) => (float y, float z) {"
    " c = Conv (x, w) r = Relu (c) t = Transpose <perm = [0, 1, 3, 2]> (r)"
    " p = AveragePool <dilations = [2, 2], kernel_shape = [2, 2]> (t) y = Conv (p, w) z = Conv (r, w) }"
)


@pytest.mark.parametrize("precision", ["w8a8", "w8a16"])
@pytest.mark.parametrize("policy", FAITHFUL)
def test_a_pool_with_dilations_between_quantized_layers_loads(policy, precision):
    graph, feeds = model(POOLED, w=normal(3, 3, 1, 1)), {"x": normal(4, 3, 6, 6)}
    made = quantized(graph, feeds, precision)
    wanted, given = session(graph, policy)(feeds), session(made.quantized, policy)(feeds)
    for name in ("y", "z"):
        assert np.abs(given[name] - wanted[name]).max() < 0.05 * np.abs(wanted[name]).max()
    assert "has dilations" in made.plan.nodes["c"].reason
    assert {name for name, node in made.plan.nodes.items() if node.precision.float_bits == 32} == {"c", "r", "t", "p"}
