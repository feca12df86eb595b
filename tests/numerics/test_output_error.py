import math

import numpy as np
import pytest

from fewbits.numerics.channel_error import ChannelError
from fewbits.numerics.metrics import sqnr_db
from fewbits.numerics.output_error import RelativeOutputError

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((16, 4)).astype(np.float32) * np.float32([1, 2, 50, 0.1])
NOISY = LOGITS + RNG.standard_normal((16, 4)).astype(np.float32) * 0.05
BOXES = RNG.standard_normal((16, 5, 9)).astype(np.float32)


def test_channel_error_is_the_mean_over_outputs_of_the_house_objective():
    found = RelativeOutputError(("logits", "boxes"))
    alone = ChannelError()
    for part in (slice(0, 10), slice(10, 16)):
        found.update({"logits": LOGITS[part], "boxes": BOXES[part]}, {"logits": NOISY[part], "boxes": BOXES[part]})
        alone.update(LOGITS[part], NOISY[part])
    assert found.by_output == {"logits": alone.value, "boxes": 0.0}
    assert found.value == alone.value / 2


def test_power_error_is_the_inverse_of_the_sqnr():
    found = RelativeOutputError(("logits",), "power")
    for part in (slice(0, 10), slice(10, 16)):
        found.update({"logits": LOGITS[part]}, {"logits": NOISY[part]})
    assert -10 * math.log10(found.value) == pytest.approx(sqnr_db(LOGITS, NOISY), abs=1e-9)


@pytest.mark.parametrize("normalize", ["channel", "power"])
def test_what_cannot_be_compared_does_not_count(normalize):
    found = RelativeOutputError(("logits", "ids", "still", "cut"), normalize)
    still = np.ones((16, 4), np.float32)
    found.update(
        {"logits": LOGITS, "ids": np.arange(16), "still": still, "cut": BOXES},
        {"logits": NOISY, "ids": np.arange(16) + 1, "still": still + 1, "cut": BOXES[:, :2]},
    )
    assert list(found.by_output) == ["logits"]
    assert RelativeOutputError(("ids",), normalize).value is None


@pytest.mark.parametrize("normalize", ["channel", "power"])
def test_nan_is_an_infinite_error(normalize):
    found = RelativeOutputError(("logits",), normalize)
    found.update({"logits": LOGITS}, {"logits": np.where(LOGITS > 0, np.float32(np.nan), LOGITS)})
    assert found.value == math.inf


def test_power_of_an_output_of_zeros_is_unknown():
    error = ChannelError()
    error.update(np.zeros((4, 3)), np.ones((4, 3)))
    assert error.power_value is None
    assert ChannelError().power_value is None
