import numpy as np
import pytest
import torch

from fewbits.improvement.torch_layers import take_in
from fewbits.numerics.joint_moment import DAMPING, JointMoment

# float32 products of some hundred rows of order 1: 2e-5 is a hundred roundings
RTOL, ATOL = 1e-4, 2e-5


def rows_of(
    groups: int = 2, count: int = 600, inputs: int = 5, channels: int = 3, *, far: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated x [G, R, K] with means of the size `far`, and y [G, R, C] that depends on them."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, inputs, inputs))
    x = rng.standard_normal((groups, count, inputs)) @ mixing + far * (1 + rng.random((groups, 1, inputs)))
    y = x @ rng.standard_normal((groups, inputs, channels)) + rng.standard_normal((groups, count, channels)) - far
    return x.astype(np.float32), y.astype(np.float32)


def filled(x: np.ndarray, y: np.ndarray, step: int) -> JointMoment:
    moment = JointMoment()
    for i in range(0, x.shape[1], step):
        take_in(moment, *(torch.from_numpy(part[:, i : i + step].copy()) for part in (x, y)))
    return moment


def direct(x: np.ndarray, y: np.ndarray, *, centered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the second moments of x [G, K, K] and of x with y [G, K, C]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if centered:
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    turned = x.transpose(0, 2, 1) / x.shape[1]
    return turned @ x, turned @ y


def lift(matrix: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Return what the damping adds, [G, K, K]."""
    power = np.trace(matrix, axis1=1, axis2=2) / matrix.shape[-1]
    return damping * power[:, None, None] * np.eye(matrix.shape[-1])


def test_means_are_those_of_the_rows():
    x, y = rows_of()
    moment = filled(x, y, 100)
    assert moment.rows == 600
    for found, rows in zip(moment.means(), (x, y), strict=True):
        np.testing.assert_allclose(found, rows.astype(np.float64).mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("damping", [0.0, DAMPING])
def test_cost_is_the_damped_moment(centered, damping):
    x, y = rows_of()
    matrix, _ = direct(x, y, centered=centered)
    found = filled(x, y, 90).cost(centered=centered, damping=damping)
    np.testing.assert_allclose(found, matrix + lift(matrix, damping), rtol=RTOL, atol=2e-6 * matrix.max() + ATOL)
    assert (np.linalg.eigvalsh(found) > 0).all()


@pytest.mark.parametrize("centered", [False, True])
def test_closest_solves_the_damped_normal_equations(centered):
    x, y = rows_of()
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    matrix, cross = direct(x, y, centered=centered)
    damped = lift(matrix)
    wanted = np.linalg.solve(matrix + damped, cross + damped @ weights.transpose(0, 2, 1)).transpose(0, 2, 1)
    found = filled(x, y, 90).closest(weights, centered=centered)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("centered", "shift"), [(True, 7.0), (False, 0.0)])
def test_closest_recovers_a_linear_layer(centered, shift):
    x, _ = rows_of()
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    y = (x @ weights.transpose(0, 2, 1) + shift).astype(np.float32)
    found = filled(x, y, 64).closest(np.zeros((2, 3, 5)), centered=centered, damping=1e-9)
    np.testing.assert_allclose(found, weights, atol=1e-3)  # y of order 10 is rounded at 1e-6, the condition is 1e3


def test_strong_damping_holds_the_weights():
    x, y = rows_of()
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    moment = filled(x, y, 64)
    np.testing.assert_allclose(moment.closest(weights, centered=True, damping=1e9), weights, rtol=1e-6)
    free, held = (np.abs(moment.closest(weights, centered=True, damping=d) - weights).sum() for d in (1e-3, 1.0))
    assert held < free


@pytest.mark.parametrize("centered", [False, True])
def test_batches_and_their_order_do_not_matter(centered):
    x, y = rows_of(count=480)
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    whole, parts = filled(x, y, 480), filled(x, y, 7)
    turned = filled(x[:, ::-1], y[:, ::-1], 40)
    for other in (parts, turned):
        cost = whole.cost(centered=centered)
        np.testing.assert_allclose(other.cost(centered=centered), cost, rtol=RTOL, atol=2e-6 * cost.max())
        closest = (one.closest(weights, centered=centered) for one in (other, whole))
        np.testing.assert_allclose(*closest, rtol=1e-3, atol=1e-4)


def test_far_means_do_not_drown_variances():
    x, y = rows_of(far=1e3)
    matrix, cross = direct(x, y, centered=True)
    moment = filled(x, y, 50)
    # inputs of 1e3 are themselves rounded at 6e-5; without offsets the products would be rounded at 1e6 * 6e-8
    np.testing.assert_allclose(moment.cost(centered=True, damping=0.0), matrix, rtol=1e-4, atol=1e-4)
    found = moment.closest(np.zeros((2, 3, 5)), centered=True, damping=1e-9)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, cross).transpose(0, 2, 1), rtol=1e-2, atol=1e-3)


def test_first_rows_far_from_the_rest_do_no_harm():
    x, y = rows_of()
    x[:, :10] += 50
    matrix, _ = direct(x, y, centered=True)
    np.testing.assert_allclose(filled(x, y, 10).cost(centered=True, damping=0.0), matrix, rtol=1e-3, atol=1e-2)


def test_a_dead_input_keeps_a_price_and_its_weights():
    x, y = rows_of()
    x[0, :, 2] = 0
    x[1] = 0.5  # a group that never varies
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    moment = filled(x, y, 100)
    cost = moment.cost(centered=True)
    assert cost[0, 2, 2] == pytest.approx(DAMPING * np.trace(direct(x, y, centered=True)[0][0]) / 5, rel=1e-4)
    assert (np.diag(cost[1]) > 0).all()
    found = moment.closest(weights, centered=True)
    np.testing.assert_allclose(found[0, :, 2], weights[0, :, 2], rtol=1e-6)
    np.testing.assert_allclose(found[1], weights[1], rtol=1e-6)


def test_inputs_that_are_all_dead_leave_the_weights():
    x, y = rows_of()
    moment = filled(np.zeros_like(x), y, 100)
    weights = np.random.default_rng(1).standard_normal((2, 3, 5))
    assert (np.linalg.eigvalsh(moment.cost(centered=False)) > 0).all()
    np.testing.assert_allclose(moment.closest(weights, centered=False), weights, rtol=1e-6)
