"""What of a batch is probed at once within the memory that is left."""

import pytest

pytest.importorskip("torch")

from fewbits.analysis.sensitivity import FIRST_BYTES
from fewbits.analysis.torch_shares import SampleSize, Shares
from fewbits.errors import SpecError

SIZE = SampleSize(held=4e6, gradients=1e6)


def test_what_torch_will_keep_is_left_aside() -> None:
    assert Shares.within(FIRST_BYTES + 20_000_000, SIZE, samples=8, probes=4).piece == 4
    assert Shares.within(FIRST_BYTES + 48_000_000, SIZE, samples=8, probes=4) == Shares(8, 8, 4, turns=2)


def test_a_sample_that_fits_otherwise_is_not_refused() -> None:
    assert Shares.within(5_000_000, SIZE, samples=8, probes=4) == Shares(8, 1, 4, turns=1)
    with pytest.raises(SpecError, match="should take 5 MB for one sample, and --memory leaves 5 MB"):
        Shares.within(4_999_999, SIZE, samples=8, probes=4)
