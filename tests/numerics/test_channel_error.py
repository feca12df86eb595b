"""The objective of range selection: each channel counts by its own variance."""

import numpy as np
import pytest

from fewbits.numerics.channel_error import ChannelError, channel_axis_of


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 10), 1), ((2, 3, 4, 5), 1), ((2, 85, 400), 1), ((2, 400, 85), 2), ((7,), 0), ((2, 4, 4), 2)],
)
def test_channel_axis_of_known_layouts(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis_of(shape) == axis


def _outputs(rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.standard_normal((64, 2, 5, 5)) * np.array([100.0, 1.0])[None, :, None, None])


def test_value_weighs_a_small_channel_like_a_large_one() -> None:
    reference = _outputs(np.random.default_rng(0))
    errors = []
    for channel, size in ((0, 10.0), (1, 0.1)):
        test = reference.copy()
        test[:, channel] += size
        found = ChannelError()
        found.update(reference, test)
        errors.append(found.value)
    assert errors[0] == pytest.approx(0.01 / 2, rel=0.05)
    # a thousandth of the mean variance (5000) is added: 5 beside this channel's own 1
    assert errors[1] == pytest.approx(0.01 / 2 / 6, rel=0.1)


def test_value_does_not_depend_on_batches() -> None:
    rng = np.random.default_rng(1)
    reference = _outputs(rng)
    test = reference + rng.standard_normal(reference.shape)
    whole, parts = ChannelError(), ChannelError()
    whole.update(reference, test)
    for begin in range(0, 64, 16):
        parts.update(reference[begin : begin + 16], test[begin : begin + 16])
    assert parts.value == pytest.approx(whole.value, rel=1e-12)


def test_value_is_zero_for_equal_and_none_for_constant_outputs() -> None:
    reference = _outputs(np.random.default_rng(2))
    same, still, empty = ChannelError(), ChannelError(), ChannelError()
    same.update(reference, reference)
    still.update(np.ones((4, 3)), np.zeros((4, 3)))
    empty.update(np.zeros((0, 3)), np.zeros((0, 3)))
    assert same.value == 0.0
    assert still.value is None
    assert empty.value is None


def test_value_takes_outputs_of_changing_size() -> None:
    rng = np.random.default_rng(3)
    found = ChannelError()
    for size in (5, 9):
        reference = rng.standard_normal((1, 3, size, size))
        found.update(reference, reference * 0.9)
    assert found.value == pytest.approx(0.01, rel=0.2)


def test_value_of_one_number_per_sample() -> None:
    reference = np.arange(10.0)
    found = ChannelError()
    found.update(reference, reference + 1)
    assert found.value == pytest.approx(1 / reference.var(), rel=0.01)


def test_infinities_of_the_float_model_do_not_count_and_nan_of_the_other_is_the_worst():
    reference = np.float32([[1, -np.inf], [3, 5], [2, 6]])
    masked, plain = ChannelError(), ChannelError()
    masked.update(reference, np.float32([[1.5, -60], [3, 5], [2, 6]]))
    plain.update(np.float32([[1, 0], [3, 5], [2, 6]]), np.float32([[1.5, 0], [3, 5], [2, 6]]))
    assert masked.value == plain.value > 0
    broken = ChannelError()
    broken.update(reference, np.float32([[np.nan, 0], [3, 5], [2, 6]]))
    assert broken.value == np.inf
