import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.numerics.second_moment import MOST_INPUTS, SecondMoment
from fewbits.numerics.weight_search import search_block_scales, search_weight_scales
from fewbits.spec.dtypes import DType, PerChannel, QuantSpec


def spec_of(bits: int) -> QuantSpec:
    return QuantSpec(DType.container(bits, signed=True), bits, is_symmetric=True, granularity=PerChannel(0))


def problem(groups=1, channels=6, *, taps=1, inputs=24, rows=400, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(3, (groups, channels, taps, inputs)).astype(np.float32)
    moment = SecondMoment()
    mixing = rng.standard_normal((groups, inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    moment.update(np.maximum(rng.standard_normal((groups, rows, inputs)) @ mixing + 0.5, 0))
    return weights, moment


def loss(weights, scales, spec, moment, *, centered=False):
    """The objective in float64: sum over taps of d^T M d."""
    groups, channels = weights.shape[:2]
    step = scales.reshape(groups, channels, 1, 1).astype(np.float32)
    delta = np.clip(np.rint(weights / step), spec.qmin, spec.qmax) * step - weights
    matrix = moment.matrix(centered=centered)
    return np.einsum("gctj,gjk,gctk->gc", delta.astype(np.float64), matrix.astype(np.float64), delta).ravel()


def absmax(weights, spec):
    return (np.abs(weights).max(axis=(2, 3)) / spec.qmax).astype(np.float32).ravel()


@given(
    bits=st.sampled_from([2, 3, 4, 6, 8]), groups=st.sampled_from([1, 3]), taps=st.sampled_from([1, 4]),
    centered=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_never_worse_than_absmax_on_its_own_objective(bits, groups, taps, centered, seed):
    weights, moment = problem(groups, 3, taps=taps, inputs=8, rows=60, seed=seed)
    spec = spec_of(bits)
    scales = search_weight_scales(weights, spec, moment, centered=centered)
    assert scales.shape == (groups * 3,)
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    before = loss(weights, absmax(weights, spec), spec, moment, centered=centered)
    after = loss(weights, scales, spec, moment, centered=centered)
    # candidates are compared in float32: errors of its sums, relative to the weights' own power
    noise = 1e-6 * loss(weights, np.full(groups * 3, 1e9), spec, moment, centered=centered)
    assert (after <= before * (1 + 1e-3) + noise).all()


def test_search_gains_much_at_few_bits():
    weights, moment = problem()
    spec = spec_of(3)
    scales = search_weight_scales(weights, spec, moment)
    assert loss(weights, scales, spec, moment).sum() < 0.6 * loss(weights, absmax(weights, spec), spec, moment).sum()


def test_centered_search_spends_nothing_on_the_mean():
    weights, moment = problem()
    spec = spec_of(3)
    free = search_weight_scales(weights, spec, moment, centered=True)
    bound = search_weight_scales(weights, spec, moment, centered=False)
    assert (
        loss(weights, free, spec, moment, centered=True).sum() < loss(weights, bound, spec, moment, centered=True).sum()
    )


def test_dead_channels_and_dead_weights_get_a_usable_scale():
    weights, moment = problem()
    weights[0, 2] = 0
    scales = search_weight_scales(weights, spec_of(8), moment)
    assert np.isfinite(scales).all()
    assert 0.3 * np.abs(weights).max() / 127 <= scales[2] <= 1.06 * np.abs(weights).max() / 127
    dead = search_weight_scales(np.zeros_like(weights), spec_of(8), moment)
    assert (dead > 0).all()


def test_denormal_channels_keep_a_normal_scale():
    weights, moment = problem()
    weights[0, 1] *= np.float32(1e-42)
    assert search_weight_scales(weights, spec_of(8), moment).min() >= np.finfo(np.float32).tiny


def test_inputs_that_never_vary_do_not_break_the_search():
    weights, _ = problem()
    moment = SecondMoment()
    moment.update(np.zeros((1, 10, 24), np.float32))
    assert (search_weight_scales(weights, spec_of(4), moment) > 0).all()


def test_channels_are_independent():
    weights, moment = problem(channels=4)
    spec = spec_of(4)
    together = search_weight_scales(weights, spec, moment)
    alone = [search_weight_scales(weights[:, i : i + 1], spec, moment)[0] for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=0.02)  # one channel alone may afford finer candidates


def test_groups_see_their_own_inputs():
    weights, moment = problem(groups=2, channels=2)
    spec, other = spec_of(3), SecondMoment()
    both = search_weight_scales(weights, spec, moment)
    rng = np.random.default_rng(0)
    other.update(np.stack([rng.standard_normal((400, 24)), np.zeros((400, 24))]).astype(np.float32))
    changed = search_weight_scales(weights, spec, other)
    assert both.shape == changed.shape == (4,)
    assert not np.array_equal(both, changed)


@pytest.mark.parametrize("bits", [3, 8])
def test_very_wide_layers_are_searched_by_variance_and_mean(bits):
    rng = np.random.default_rng(1)
    weights = rng.standard_t(3, (1, 2, 1, MOST_INPUTS + 8)).astype(np.float32)
    moment = SecondMoment()
    moment.update(np.abs(rng.standard_normal((1, 50, MOST_INPUTS + 8))))
    spec = spec_of(bits)
    scales = search_weight_scales(weights, spec, moment)

    def cheap(found):
        step = found.reshape(1, 2, 1, 1)
        delta = np.clip(np.rint(weights / step), spec.qmin, spec.qmax) * step - weights
        shift = (delta * moment.mean()[:, None, None]).sum(-1)
        return ((delta**2 * moment.variance()[:, None, None]).sum(-1) + shift**2).ravel()

    assert (cheap(scales) <= cheap(absmax(weights, spec)) * (1 + 1e-3)).all()


def block_loss(weights, scale, blocks, spec, moment):
    steps = scale[..., blocks][:, :, None]
    delta = np.clip(np.rint(weights / steps), spec.qmin, spec.qmax) * steps - weights
    return np.einsum("gctj,gjk,gctk->gc", delta, moment.matrix().astype(np.float64), delta)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_scales_of_blocks_are_searched_one_by_one(bits, unit):
    weights, moment = problem(2, 3, taps=1, inputs=8, rows=60, seed=1)
    weights = weights * np.float32(unit)
    weights[1, 2], weights[0, 1, 0, 1::2] = 0, 0  # an output, and a block, that are dead
    blocks, spec = np.arange(8) % 2, spec_of(bits)
    tops = np.stack([np.abs(weights[..., blocks == b]).max(axis=(2, 3)) for b in range(2)], -1)
    whole = np.where(tops > 0, tops, tops.max()) / spec.qmax
    scale = search_block_scales(weights, whole, blocks, spec, moment)
    assert (scale > 0).all()
    assert np.isfinite(scale.astype(np.float32)).all()
    before, after = (block_loss(weights / unit, one / unit, blocks, spec, moment) for one in (whole, scale))
    assert (after <= before * (1 + 1e-6) + 1e-12).all()
    assert after.sum() < (0.75 if bits < 8 else 0.98) * before.sum()
    live = np.delete(scale.reshape(-1, 2), [1, 5], axis=0) / np.delete(whole.reshape(-1, 2), [1, 5], axis=0)
    assert np.unique(live[:, 0] / live[:, 1]).size > 1


def test_blocks_of_very_many_inputs_are_searched_by_themselves():
    weights, moment = problem(2, 3, taps=1, inputs=1025, rows=20)
    assert moment.matrix() is None
    blocks, spec = np.arange(1025) // 25, spec_of(4)
    tops = np.stack([np.abs(weights[..., blocks == b]).max(axis=(2, 3)) for b in range(41)], -1)
    scale = search_block_scales(weights, tops / spec.qmax, blocks, spec, moment)
    errors = []
    for one in (tops / spec.qmax, scale):
        steps = one[..., blocks][:, :, None]
        delta = np.clip(np.rint(weights / steps), spec.qmin, spec.qmax) * steps - weights
        square, shift = delta**2 * moment.variance()[:, None, None], delta * moment.mean()[:, None, None]
        parts = [square[..., blocks == b].sum(-1) + shift[..., blocks == b].sum(-1) ** 2 for b in range(41)]
        errors.append(np.stack(parts, -1)[:, :, 0])
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert errors[1].sum() < 0.7 * errors[0].sum()
