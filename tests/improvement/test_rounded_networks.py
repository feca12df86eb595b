"""What methods that round promise, on every development network in w4a8: never worse, in the mean better, on grids.

Three of them, whose layers are mostly matrices, also with a weight scale for every 32 inputs.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from network_data import network_data
from rounding_cases import Case, array, case_of, nearest, network_error, output_errors, weights_of

from fewbits.improvement.methods import Effort
from fewbits.numerics.affine import fake_quantize
from fewbits.spec.dtypes import PerBlock
from networks import ASSETS, network

torch = pytest.importorskip("torch")

SAMPLES = {
    "cifar10_resnet20": 16,
    "cifar10_resnet56": 16,
    "fastestdet_coco": 4,
    "imdn_rtc_x2": 16,
    "kwt1_speechcommands": 16,
    "mobilenetv1_0.75_imagenet": 4,
    "mobilenetv2_1.0_imagenet": 4,
    "stories260k": 16,
}
SAME = 1 + 1e-4  # float32 sums of the same numbers in another order
# what is left at most of the method's own objective, and of the error of layers' outputs, in the mean over layers
LEFT = {"seq-mse": (0.95, 0.98), "gptq": (0.7, 0.9), "adaround": (0.9, 0.9)}
QUICK = {
    ("cifar10_resnet20", "bias-correction"),
    ("cifar10_resnet20", "seq-mse"),
    ("cifar10_resnet20", "gptq"),
    ("imdn_rtc_x2", "gptq"),
    ("kwt1_speechcommands", "gptq"),
    ("stories260k", "seq-mse"),
    ("stories260k", "gptq"),
    ("stories260k", "adaround"),
}


BLOCKS = "w4a8g32"
BLOCKED = ("kwt1_speechcommands", "stories260k", "mobilenetv2_1.0_imagenet")
QUICK_BLOCKED = {("stories260k", "gptq")}


def cases(*methods: str) -> Iterator[object]:
    for name in SAMPLES:
        for method in methods:
            yield pytest.param(name, method, marks=() if (name, method) in QUICK else pytest.mark.slow)


def blocked(*methods: str) -> Iterator[object]:
    for name in BLOCKED:
        for method in methods:
            marks = () if (name, method) in QUICK_BLOCKED else pytest.mark.slow
            yield pytest.param(name, method, marks=marks, id=f"{name}-{method}-{BLOCKS}")


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def network_case(name: str, precision: str = "w4a8") -> Case:
    network(name)  # skips where it is missing
    options = {"target": "ort-cpu"} if precision == BLOCKS else {}
    return case_of(ASSETS / "models" / f"{name}.onnx", network_data(name, SAMPLES[name]), precision, **options)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "method"), list(cases(*LEFT)))
def test_every_layer_is_as_promised(name, method):
    check_layers(network_case(name), method)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "method"), list(blocked(*LEFT)))
def test_every_layer_with_scales_per_block_is_as_promised(name, method):
    case = network_case(name, BLOCKS)
    granularities = [grid.spec.granularity for _, grid in weights_of(case).values()]
    assert sum(isinstance(one, PerBlock) for one in granularities) > len(granularities) / 4
    check_layers(case, method)


def check_layers(case: Case, method: str) -> None:
    found = case.improved(method, Effort(iterations=60))
    assert set(found.changed) == set(weights_of(case)) - set(found.declined)
    assert set(found.declined) == set()

    # no layer ends worse by its own objective, and together they end better
    assert {node: e for node, e in found.errors.items() if not 0 <= e[1] <= e[0] < np.inf} == {}
    before, after = np.mean(list(found.errors.values()), axis=0)
    left, left_of_outputs = LEFT[method]
    assert after < left * before

    # what each layer gives is closer to what it should give than with the nearest codes
    errors = output_errors(case, found, after_relu=method == "adaround")
    most = 1.0 if method in ("gptq", "adaround") else SAME
    assert {node: e for node, e in errors.items() if e[1] >= most * e[0]} == {}
    assert np.mean([given / nearest for nearest, given in errors.values()]) < left_of_outputs

    # weights lie exactly on the grids that are pinned, which are of four bits
    assert set(found.pinned) == {tensor for tensor, _ in weights_of(case).values()}
    for tensor, grid in weights_of(case).values():
        values, pin = array(found.model, tensor), found.pinned[tensor]
        assert (pin.spec, pin.spec.bits) == (grid.spec, 4)
        np.testing.assert_array_equal(fake_quantize(values, pin), values)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "method"), list(cases("bias-correction")))
def test_biases_are_as_promised(name, method):
    """No layer and no output ends worse than with the biases that `quantize` corrects; weights stay the nearest."""
    case = network_case(name)
    found = case.improved(method)
    assert {node: e for node, e in found.errors.items() if not 0 <= e[1] <= e[0] < np.inf} == {}
    assert set(found.declined) | set(found.changed) == set(weights_of(case))
    unbiased = [node for node, reason in found.declined.items() if reason.startswith("its bias cannot be corrected")]
    if not found.changed:
        together = set(found.declined) - set(unbiased)
        assert all("the error of the outputs would go from" in found.declined[node] for node in together)
        assert found.pinned == {}
        return
    assert set(found.declined) == set(unbiased)
    before, after = np.mean(list(found.errors.values()), axis=0)
    assert after < before
    with_nearest = nearest(case, found.model)
    assert network_error(case, with_nearest) < network_error(case, nearest(case, case.start.reference, biases=True))
    for node in found.changed:
        tensor, grid = weights_of(case)[node]
        np.testing.assert_array_equal(
            array(found.model, tensor), fake_quantize(array(case.start.reference, tensor), grid)
        )


@pytest.mark.assets
@pytest.mark.parametrize(("name", "method"), list(cases("adaround by block", "adaround by block, drop")))
def test_every_block_is_as_promised(name, method):
    """No block ends worse than `gptq` left it, some end better, and the network is better than with nearest codes."""
    case = network_case(name)
    effort = Effort(granularity="block", iterations=60, drop=0.5 if "drop" in method else 0.0)
    found = case.improved(method, effort)
    assert set(found.changed) == set(weights_of(case)) - set(found.declined)
    assert set(found.declined) == set()
    assert {node: e for node, e in found.errors.items() if not 0 <= e[1] <= e[0] < np.inf} == {}
    before, after = np.mean(list(found.errors.values()), axis=0)
    assert after < before
    assert network_error(case, found.model) < network_error(case, nearest(case, case.start.reference, biases=True))
    for tensor, grid in weights_of(case).values():
        values, pin = array(found.model, tensor), found.pinned[tensor]
        assert pin.spec == grid.spec
        np.testing.assert_array_equal(fake_quantize(values, pin), values)
