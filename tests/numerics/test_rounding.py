from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.numerics.rounding import (
    Ordered,
    RoundingProblem,
    best_steps,
    nearest_of_blocks,
    round_nearest,
    round_together,
)
from fewbits.spec.dtypes import DType, PerChannel, QuantSpec

ROUNDING = 1e-9  # float64 sums of a few hundred products


def made(
    *shape: int, bits: int = 4, is_shared: bool = False, least: float = 0.0, seed: int = 0, blocks: int = 0
) -> tuple[RoundingProblem, np.ndarray]:
    """Return a problem of shape [G, C, T, K] with correlated inputs, and scales that cover each channel or block."""
    rng = np.random.default_rng(seed)
    groups, channels, _, inputs = shape
    target = rng.standard_normal(shape) * np.exp(rng.uniform(-1, 1, (groups, channels, 1, 1)))
    mixing = rng.standard_normal((groups, inputs, inputs)) + 2  # a common part, so that errors can make up
    cost = mixing @ mixing.transpose(0, 2, 1) / inputs + 0.05 * np.eye(inputs)
    spec = QuantSpec(DType.container(bits, signed=True), bits, True, PerChannel(0))
    scale = np.abs(target).max(axis=(2, 3))[..., None] / spec.qmax
    if is_shared:
        scale = np.full_like(scale, scale.max())
    of_input = None
    if blocks:  # those of a convolution lie in turns, too
        of_input = np.arange(inputs) % blocks
        scale = np.stack([np.abs(target[..., of_input == b]).max(axis=(2, 3)) for b in range(blocks)], -1) / spec.qmax
    return RoundingProblem(target, cost, spec, np.full((groups, channels), least), is_shared, of_input), scale


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)),
    bits=st.sampled_from([2, 3, 4, 8]), sharing=st.sampled_from([(False, 0), (True, 0), (False, 2), (False, 3)]),
    least=st.sampled_from([0.0, 0.05, 2.0]), seed=st.integers(0, 999),
)  # fmt: skip
def test_together_is_never_worse_than_nearest(shape, bits, sharing, least, seed):
    is_shared, blocks = sharing[0], min(sharing[1], shape[3])
    problem, scale = made(*shape, bits=bits, is_shared=is_shared, least=least, blocks=blocks, seed=seed)
    codes, steps = round_together(problem, scale)
    allowed = np.maximum(scale, least)
    nearest = problem.objective(round_nearest(problem, problem.target, allowed), allowed)
    assert (problem.objective(codes, steps) <= nearest * (1 + ROUNDING)).all()
    assert codes.shape == (shape[0], shape[1] * shape[2], shape[3])
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert codes.min() >= problem.spec.qmin
    assert codes.max() <= problem.spec.qmax
    assert (steps >= least).all()
    if is_shared:
        assert np.unique(steps).size == 1


def test_nearest_codes_stay_on_the_grid_and_go_to_even():
    problem, _ = made(1, 2, 2, 3)
    values = np.array([0.5, 1.5, -2.5, 99, -99, 3.4] * 2, float).reshape(1, 2, 2, 3)
    found = round_nearest(problem, values * [[[[1]], [[2]]]], np.array([[[1.0], [2.0]]]))
    np.testing.assert_array_equal(found, np.array([[0, 2, -2], [7, -7, 3]] * 2, float)[None])


def test_together_wins_much_where_inputs_are_correlated():
    problem, scale = made(2, 16, 1, 100)  # more inputs than one block of columns
    codes, steps = round_together(problem, scale)
    nearest = problem.objective(round_nearest(problem, problem.target, scale), scale).sum()
    assert problem.objective(codes, steps).sum() < 0.3 * nearest


@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
def test_together_is_close_to_the_best_of_all_codes(inputs):
    shares = []
    for seed in range(12):
        problem, scale = made(2, 5, 1, inputs, bits=2, seed=seed)
        codes, steps = round_together(problem, scale)
        found = problem.objective(codes, steps)
        every = np.array(list(product(range(problem.spec.qmin, problem.spec.qmax + 1), repeat=inputs)), float)
        least = np.min([problem.objective(np.tile(one, (2, 5, 1)), steps) for one in every], axis=0)
        assert (found >= least * (1 - ROUNDING) - 1e-12).all()
        shares.append((found.sum(), least.sum()))
    total, least_total = np.sum(shares, axis=0)
    assert total <= 1.1 * least_total  # the descent ends where no single code can move, which is not always the best


def test_gptq_alone_is_close_to_the_best_of_all_codes():
    found, nearest, least = 0.0, 0.0, 0.0
    for seed in range(12):
        problem, scale = made(2, 5, 1, 4, bits=2, seed=seed)
        found += problem.objective(Ordered(problem).gptq(scale), scale).sum()
        nearest += problem.objective(round_nearest(problem, problem.target, scale), scale).sum()
        every = product(range(problem.spec.qmin, problem.spec.qmax + 1), repeat=4)
        least += np.min([problem.objective(np.tile(np.array(one, float), (2, 5, 1)), scale) for one in every], 0).sum()
    assert found - least < 0.5 * (nearest - least)


@pytest.mark.parametrize("columns", [5, 64, 65, 130])
def test_gptq_spreads_each_error_as_the_paper_does(columns):
    problem, scale = made(1, 3, 1, columns, seed=3)
    order = np.argsort(-np.diag(problem.cost[0]), kind="stable")
    left, cost = problem.target[0, :, 0][:, order].copy(), problem.cost[0][np.ix_(order, order)]
    codes, inverse = np.zeros_like(left), np.linalg.inv(cost)
    for j in range(columns):  # Frantar et al. 2023, eq. 2 and 3: the inverse of what is left, without Cholesky
        codes[:, j] = np.clip(np.rint(left[:, j] / scale[0, :, 0]), problem.spec.qmin, problem.spec.qmax)
        error = (left[:, j] - codes[:, j] * scale[0, :, 0]) / inverse[j, j]
        left[:, j + 1 :] -= error[:, None] * inverse[j, j + 1 :]
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    wanted = np.empty_like(codes)
    wanted[:, order] = codes
    np.testing.assert_array_equal(Ordered(problem).gptq(scale)[0], wanted)


@pytest.mark.parametrize("taps", [1, 2])
def test_descend_lowers_the_cost_of_every_row_with_every_sweep(taps):
    problem, scale = made(2, 6, taps, 12)
    start = np.random.default_rng(1).integers(-7, 8, problem.rows.shape).astype(float)
    costs = []
    for sweeps in range(5):
        codes = Ordered(problem).descend(start, scale, sweeps=sweeps)
        delta = codes * problem.steps(scale) - problem.rows
        costs.append(((delta @ problem.cost) * delta).sum(-1))
    np.testing.assert_array_equal(Ordered(problem).descend(start, scale, sweeps=0), start)
    assert (np.diff(costs, axis=0) <= ROUNDING * costs[0]).all()
    assert (costs[1] < 0.9 * costs[0]).all()


def test_descend_ends_where_no_single_code_can_move():
    problem, scale = made(1, 4, 1, 6)
    codes = Ordered(problem).descend(round_nearest(problem, problem.target, scale), scale, sweeps=50)
    least = problem.objective(codes, scale)
    for j, step in product(range(6), (-1, 1)):
        moved = codes.copy()
        moved[:, :, j] = np.clip(moved[:, :, j] + step, problem.spec.qmin, problem.spec.qmax)
        assert (problem.objective(moved, scale) >= least * (1 - ROUNDING)).all()


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("taps", [1, 3])
def test_best_steps_are_the_least_squares_scale(taps, is_shared):
    problem, scale = made(2, 3, taps, 7, is_shared=is_shared)
    codes = round_nearest(problem, problem.target, scale)
    found = best_steps(problem, codes, scale)
    root = np.linalg.cholesky(problem.cost)
    q, t = ((values @ root).reshape(2, 3, -1) for values in (codes, problem.rows))
    axes = None if is_shared else -1
    wanted = np.broadcast_to(np.sum(q * t, axis=axes) / np.sum(q * q, axis=axes), found.shape[:2])[..., None]
    np.testing.assert_allclose(found, wanted, rtol=2**-23)  # it is rounded to float32
    least = problem.objective(codes, found)
    assert all((problem.objective(codes, found * factor) > least).all() for factor in (0.999, 1.001))


def test_best_steps_of_blocks_come_to_the_joint_least_squares():
    problem, scale = made(2, 3, 1, 12, blocks=4, least=1e-6)
    codes = round_nearest(problem, problem.target, scale)
    found, costs = scale, [problem.objective(codes, scale)]
    for _ in range(200):
        found = best_steps(problem, codes, found)
        costs.append(problem.objective(codes, found))
    assert (costs[1] < costs[0]).all()
    assert (np.diff(costs, axis=0) <= 1e-6 * costs[0]).all()  # scales are float32
    root = np.linalg.cholesky(problem.cost)
    for g, c in product(range(2), range(3)):
        parts = np.stack([codes[g, c] * (problem.blocks == block) for block in range(4)]) @ root[g]
        wanted = np.linalg.lstsq(parts.T, problem.rows[g, c] @ root[g], rcond=None)[0]
        assert (wanted > 0).all()
        np.testing.assert_allclose(found[g, c], wanted, rtol=1e-4)


@pytest.mark.parametrize("taps", [1, 2])
def test_nearest_of_blocks_takes_the_best_trial_of_each_block_in_turn(taps):
    problem, scale = made(2, 3, taps, 10, blocks=3, least=0.01)
    trials = [scale * ratio for ratio in (0.9, 0.8, 0.6)]
    codes, found = nearest_of_blocks(problem, problem.target, scale, trials)
    np.testing.assert_array_equal(codes, round_nearest(problem, problem.target, found))
    wanted = scale.copy()
    for block, g, c in product(range(3), range(2), range(3)):
        costs = []
        for trial in (scale, *trials):
            tried = wanted.copy()
            tried[g, c, block] = max(trial[g, c, block], 0.01)
            costs.append(problem.objective(round_nearest(problem, problem.target, tried), tried)[g, c])
        wanted[g, c, block] = max((scale, *trials)[int(np.argmin(costs))][g, c, block], 0.01)
    np.testing.assert_array_equal(found, wanted)
    start = problem.objective(round_nearest(problem, problem.target, scale), scale)
    assert problem.objective(codes, found).sum() < 0.97 * start.sum()


def test_best_steps_respect_the_least_and_keep_what_says_nothing():
    problem, scale = made(1, 3, 1, 5, least=9.0)
    assert (best_steps(problem, round_nearest(problem, problem.target, scale), scale) == 9).all()
    free, scale = made(1, 3, 1, 5)
    zero = np.zeros_like(free.rows)
    np.testing.assert_array_equal(best_steps(free, zero, scale), scale.astype(np.float32))
    against = -round_nearest(free, free.target, scale)  # a negative scale would suit it
    np.testing.assert_array_equal(best_steps(free, against, scale), scale.astype(np.float32))


def test_without_correlations_nearest_codes_are_the_best():
    problem, scale = made(2, 4, 2, 70)
    plain = RoundingProblem(problem.target, np.stack([np.diag(np.linspace(1, 2, 70))] * 2), problem.spec, problem.least)
    nearest = round_nearest(plain, plain.target, scale)
    np.testing.assert_array_equal(Ordered(plain).gptq(scale), nearest)
    np.testing.assert_array_equal(Ordered(plain).descend(nearest, scale), nearest)
    codes, steps = round_together(plain, scale, ratios=())
    np.testing.assert_array_equal(codes, nearest)
    np.testing.assert_array_equal(steps, scale)


def test_a_row_of_zeros_stays_zero():
    problem, scale = made(1, 2, 1, 5)
    problem.target[0, 1] = 0
    codes, steps = round_together(problem, scale)
    assert not codes[0, 1].any()
    assert (steps > 0).all()


def test_groups_do_not_know_of_each_other():
    both, scale = made(3, 2, 2, 6)
    codes, steps = round_together(both, scale)
    for g in range(3):
        one = RoundingProblem(both.target[g : g + 1], both.cost[g : g + 1], both.spec, both.least[g : g + 1])
        alone = round_together(one, scale[g : g + 1])
        np.testing.assert_array_equal(alone[0][0], codes[g])
        np.testing.assert_array_equal(alone[1][0], steps[g])
