"""The method `balance`: networks compute the same, and what stays is told with a reason."""

import numpy as np
import onnx_ir as ir
import pytest
from balance_cases import LAYERS, TEXT, images, model, started
from network_data import network_data
from rounding_cases import Case, case_of

from fewbits.errors import SpecError
from fewbits.quantization.layers import find_layers
from networks import ASSETS, SAME_DB, graph, least_db, network, normal, plausible, weight

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_balance_model import balance_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CHANGED = {
    "cifar10_resnet56": False, "fastestdet_coco": True, "imdn_rtc_x2": True, "kwt1_speechcommands": False,
    "mobilenetv1_0.75_imagenet": False, "mobilenetv2_1.0_imagenet": True, "stories260k": False,
}  # fmt: skip
LARGE = {name for name in CHANGED if "mobilenet" in name or "fastestdet" in name}


def batches(count: int = 64, size: int = 8):
    return [{"image": images(count)[i : i + size]} for i in range(0, count, size)]


def balanced(text: str = TEXT):
    case = case_of(model(text=text), {"image": images()}, "w8a8", simplify=False)
    return case, balance_model(case.start, batches())


@pytest.mark.assets
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "mobilenetv2" in name else ()) for name in CHANGED]
)
def test_real_networks_compute_the_same(name):
    network(name)  # skips where it is missing
    count = 2 if name in LARGE else 8
    data = network_data(name, count)
    case: Case = case_of(ASSETS / "models" / f"{name}.onnx", data, "w8a8")
    feeds = [{key: value[i : i + count // 2] for key, value in data.items()} for i in (0, count // 2)]
    found = balance_model(case.start, feeds)
    assert bool(found.changed) == CHANGED[name]
    layers = {layer.node for layer in find_layers(case.start.reference.graph)}
    assert {*found.changed, *found.declined} == layers
    assert all(found.declined.values())
    assert least_db(case.start.reference, found.model, plausible(name)) >= SAME_DB


def test_it_tells_what_it_changed_and_what_that_is_expected_to_gain():
    case, found = balanced()
    assert found.changed == tuple(LAYERS)
    assert found.declined == {}
    assert found.pinned == {}
    for name in LAYERS:
        assert not np.array_equal(weight(found.model, name), weight(case.start.reference, name)), name
    ((before, after),) = found.errors.values()
    assert after < 0.95 * before
    assert least_db(case.start.reference, found.model, {"image": images()}) >= SAME_DB


def test_each_channel_of_an_output_counts_by_its_own_variance():
    """A detector's boxes span hundreds, its scores one: what is large in units does not decide alone."""
    _, found = balanced()
    uneven = model()
    for name in ("w6", "b6"):
        value = uneven.graph.initializers[name]
        sizes = np.array([1, 5, 0.2], np.float32).reshape(-1, *(1,) * (len(value.shape) - 1))
        value.const_value = ir.tensor(value.const_value.numpy() * sizes, name=name)
    other = balance_model(case_of(uneven, {"image": images()}, "w8a8", simplify=False).start, batches())
    for name in LAYERS[:-1]:
        factors = weight(other.model, name) / weight(found.model, name)
        np.testing.assert_allclose(factors, 1, atol=0.1, err_msg=name)


def test_what_is_balanced_stays_as_it_is():
    _, found = balanced()
    again = case_of(found.model, {"image": images()}, "w8a8", simplify=False)
    assert balance_model(again.start, batches()).changed == ()


def test_a_layer_between_operators_that_need_the_size_of_channels_is_declined():
    text = TEXT.replace("c = LeakyRelu (b)", "c = Sigmoid (b)").replace("n = Relu (m)", "n = Tanh (m)")
    case, found = balanced(text)
    assert found.changed == ("first", "depthwise", "inner", "back", "dense")
    assert found.declined == {"head": "'y' is an output of the model"}
    np.testing.assert_array_equal(weight(found.model, "head"), weight(case.start.reference, "head"))
    assert least_db(case.start.reference, found.model, {"image": images()}) >= SAME_DB


def test_a_network_that_nothing_real_goes_into_is_declined():
    small = graph(
        "g (int64[N, 4] x, float[9, 5] table, float[5, 6] w) => (float[N, 6] y) "
        "{ e = Gather (table, x) m = ReduceMean <keepdims = 0> (e, axis) [dense] y = Gemm (m, w) }".replace(
            "float[5, 6] w)", "float[5, 6] w, int64[1] axis)"
        ),
        table=normal(9, 5), w=normal(5, 6), axis=np.array([1]),
    )  # fmt: skip
    tokens = {"x": np.random.default_rng(0).integers(0, 9, (32, 4))}
    found = balance_model(case_of(small, tokens, "w8a8", simplify=False).start, [tokens])
    assert (found.changed, set(found.declined)) == ((), {"dense"})


def test_a_device_that_is_not_there_is_refused():
    start = started()
    with pytest.raises(SpecError, match="no device"):
        balance_model(start, batches(), device="tpu")
