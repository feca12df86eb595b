"""Samples for training: each once per round, held-out ones never, in batches of the wanted size."""

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.training.torch_samples import Samples


def numbered(count: int, *, per_batch: int = 3) -> list[dict[str, np.ndarray]]:
    values = np.arange(count, dtype=np.float32)[:, None]
    return [{"x": values[i : i + per_batch]} for i in range(0, count, per_batch)]


def numbers(batch: dict) -> list[int]:
    return [int(v) for v in batch["x"][:, 0]]


def test_every_sample_of_a_round_comes_once_and_held_out_ones_never() -> None:
    samples = Samples(numbered(40), 6)
    held = [n for batch in samples.held_out for n in numbers(batch)]
    assert held == [36, 37, 38, 39]
    batches = samples.forever(1)
    rounds = [[n for _ in range(6) for n in numbers(next(batches))] for _ in range(2)]
    for seen in rounds:
        assert sorted(seen) == list(range(36))
    assert rounds[0] != rounds[1]


def test_the_order_is_that_of_the_seed() -> None:
    first, again, other = (Samples(numbered(30), 4).forever(seed) for seed in (1, 1, 2))
    orders = [[numbers(next(stream)) for _ in range(5)] for stream in (first, again, other)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_short_last_batch_waits_for_the_next_round() -> None:
    batches = Samples(numbered(10), 4).forever(0)
    assert [len(numbers(next(batches))) for _ in range(6)] == [4] * 6


def test_few_samples_make_one_batch_and_judge_themselves() -> None:
    samples = Samples(numbered(5), 16)
    assert not samples.holds_out
    assert sorted(numbers(next(samples.forever(0)))) == [0, 1, 2, 3, 4]
    assert [numbers(batch) for batch in samples.held_out] == [[0, 1, 2, 3, 4]]


def test_batches_of_other_shapes_stay_as_they_came() -> None:
    feeds = [{"x": np.full((1, 2 + i), i, np.float32)} for i in range(20)]
    samples = Samples(feeds, 8)
    assert [tuple(batch["x"].shape) for batch in samples.held_out] == [(1, 20), (1, 21)]
    stream = samples.forever(0)
    seen = [int(next(stream)["x"][0, 0]) for _ in range(18)]
    assert sorted(seen) == list(range(18))


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples to train on"):
        Samples([], 4)
