"""What methods that round promise, on every development network in w4a8: never worse, in the mean better, on grids."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from network_data import network_data
from rounding_cases import Case, array, case_of, output_errors, weights_of

from fewbits.improvement.methods import Effort
from fewbits.numerics.affine import fake_quantize
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
LEFT = {"bias-correction": (1.0, SAME), "seq-mse": (0.95, 0.98), "gptq": (0.7, 0.9), "adaround": (0.9, 0.9)}
QUICK = {
    ("cifar10_resnet20", "bias-correction"),
    ("cifar10_resnet20", "seq-mse"),
    ("cifar10_resnet20", "gptq"),
    ("imdn_rtc_x2", "gptq"),
    ("kwt1_speechcommands", "gptq"),
    ("stories260k", "bias-correction"),
    ("stories260k", "seq-mse"),
    ("stories260k", "gptq"),
    ("stories260k", "adaround"),
}


def cases() -> Iterator[object]:
    for name in SAMPLES:
        for method in LEFT:
            yield pytest.param(name, method, marks=() if (name, method) in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def network_case(name: str) -> Case:
    network(name)  # skips where it is missing
    return case_of(ASSETS / "models" / f"{name}.onnx", network_data(name, SAMPLES[name]))


@pytest.mark.assets
@pytest.mark.parametrize(("name", "method"), list(cases()))
def test_every_layer_is_as_promised(name, method):
    case = network_case(name)
    found = case.improved(method, Effort(iterations=60))
    assert set(found.changed) == set(weights_of(case)) - set(found.declined)
    assert set(found.declined) == set()

    # no layer ends worse by its own objective, and together they end better
    assert {node: e for node, e in found.errors.items() if not 0 <= e[1] <= e[0] < np.inf} == {}
    before, after = np.mean(list(found.errors.values()), axis=0)
    left, left_of_outputs = LEFT[method]
    has_nothing = method == "bias-correction" and before == 0  # where no layer has a bias
    assert after < left * before or has_nothing

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
