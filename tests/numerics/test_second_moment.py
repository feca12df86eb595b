import numpy as np
import pytest

from fewbits.numerics.second_moment import MOST_INPUTS, SecondMoment


def rows_of(groups: int, count: int, inputs: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((groups, count, inputs)) * 2 + 1).astype(np.float32)


def filled(rows: np.ndarray, step: int) -> SecondMoment:
    moment = SecondMoment()
    for i in range(0, rows.shape[1], step):
        moment.update(rows[:, i : i + step])
    return moment


def lifted(power: np.ndarray) -> np.ndarray:
    """Every input has at least 1 % of the mean price."""
    return power + 0.01 * power.mean(axis=-1, keepdims=True)


def test_mean_and_variance_are_those_of_the_rows():
    rows = rows_of(2, 700, 5)
    moment = filled(rows, 64)
    assert moment.rows == 700
    exact = rows.astype(np.float64)
    # float32 products of 256 rows at a time: 1e-5 is a hundred roundings
    np.testing.assert_allclose(moment.mean(), exact.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(moment.variance(), lifted(exact.var(axis=1)), rtol=1e-5)


@pytest.mark.parametrize("centered", [False, True])
def test_matrix_is_the_moment_shrunk_towards_its_diagonal(centered):
    rows = rows_of(2, 5000, 4).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True) * centered
    wanted = np.einsum("grj,grk->gjk", rows, rows) / 5000
    diagonal = lifted(np.einsum("gkk->gk", wanted))
    found = filled(rows_of(2, 5000, 4), 100).matrix(centered=centered)
    off = ~np.eye(4, dtype=bool)
    scale = np.abs(wanted).max()
    # shrinkage takes 4 in 5004 off the mixed moments
    np.testing.assert_allclose(found[:, off], wanted[:, off] * 5000 / 5004, rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(found[:, ~off], diagonal, rtol=1e-5)


def test_inputs_far_from_zero_keep_their_variance():
    rows = rows_of(1, 2000, 4) + np.float32([3000, -500, 0, 100])
    moment, exact = filled(rows, 50), rows.astype(np.float64)
    covariance = np.cov(exact[0].T, bias=True)
    # inputs of 3000 are spaced by 2.4e-4 in float32
    np.testing.assert_allclose(moment.variance()[0], lifted(np.diag(covariance)), rtol=1e-4)
    np.testing.assert_allclose(moment.mean(), exact.mean(axis=1), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(moment.matrix(centered=True)[0], covariance, atol=0.1)


def test_matrix_of_few_rows_is_positive_definite():
    matrix = filled(rows_of(1, 3, 20), 3).matrix()
    assert np.linalg.eigvalsh(matrix[0].astype(np.float64)).min() > 0


def test_batches_do_not_matter():
    rows = rows_of(1, 600, 6)
    one, many = filled(rows, 600), filled(rows, 7)
    np.testing.assert_allclose(one.matrix(), many.matrix(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.mean(), many.mean(), rtol=1e-6)


def test_wide_layers_keep_diagonal_and_mean_only():
    rows = rows_of(1, 8, MOST_INPUTS + 1)
    moment = filled(rows, 4)
    assert moment.matrix() is None
    np.testing.assert_allclose(moment.variance(), lifted(rows.astype(np.float64).var(axis=1)), rtol=1e-5)


def test_what_was_fed_may_be_changed_afterwards():
    rows = rows_of(1, 4, 3)
    moment = SecondMoment()
    moment.update(rows)
    wanted = rows.mean(axis=1)
    rows[:] = 0
    np.testing.assert_allclose(moment.mean(), wanted, rtol=1e-6)


def test_reading_does_not_end_the_stream():
    moment = filled(rows_of(1, 10, 3), 10)
    moment.mean()
    moment.update(rows_of(1, 10, 3, seed=1))
    both = np.concatenate([rows_of(1, 10, 3), rows_of(1, 10, 3, seed=1)], axis=1)
    np.testing.assert_allclose(moment.mean(), both.mean(axis=1), rtol=1e-5, atol=1e-6)
