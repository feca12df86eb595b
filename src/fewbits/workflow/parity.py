"""How close two ways of running one network are: the same feeds through both, SQNR and largest difference by output."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.errors import DataError
from fewbits.numerics.metrics import SqnrAccumulator
from fewbits.runtime.data.types import InputInfo

SEED = 0
_MOST_BYTES = 4 << 30  # of one made-up input

Feeds = Mapping[str, npt.NDArray[np.generic]]
Run = Callable[[Feeds], Mapping[str, npt.NDArray[np.generic]]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Outputs of one model against those of another.

    Attributes:
        feeds: what was run: "the data", "random feeds" ...
        samples: how many feeds were run.
        sqnr_db: output -> SQNR; None where every value is equal.
        max_abs: output -> largest difference.
        reason: why nothing could be compared; empty where it was.
    """

    feeds: str
    samples: int
    sqnr_db: Mapping[str, float | None]
    max_abs: Mapping[str, float]
    reason: str = ""


def random_feeds(inputs: Iterable[InputInfo], count: int, seed: int = SEED) -> Iterator[Feeds]:
    """Yield seeded feeds: normal floats, integers 0 and 1, open dimensions 1.

    Raises:
        DataError: an input would take more than 4 GB.
    """
    rng = np.random.default_rng(seed)
    wanted = tuple(inputs)
    for info in wanted:
        size = math.prod(dim for dim in info.shape if isinstance(dim, int)) * info.dtype.itemsize
        if size > _MOST_BYTES:
            raise DataError(f"The input {info!s:.200} takes {size / 1e9:.3g} GB, too much to make one up: give data.")
    for _ in range(count):
        feeds: dict[str, npt.NDArray[np.generic]] = {}
        for info in wanted:
            shape = tuple(dim if isinstance(dim, int) else 1 for dim in info.shape)
            is_real = info.dtype.kind == "f"
            feeds[info.name] = (rng.standard_normal(shape) if is_real else rng.integers(0, 2, shape)).astype(info.dtype)
        yield feeds


def measure(left: Run, right: Run, feeds: Iterable[Feeds], label: str) -> Parity:
    """Run both models on the feeds and compare the outputs of `right` with those of `left`, the reference.

    A value that is NaN or the same infinity in both counts as equal; one that is so in one of them only makes the
    SQNR minus infinity.
    """
    sums: dict[str, SqnrAccumulator] = {}
    largest: dict[str, float] = {}
    count = 0
    for one in feeds:
        wanted, given = left(one), right(one)
        count += 1
        for name, reference in wanted.items():
            if reference.dtype.kind not in "fiub" or not reference.size:
                continue
            sums.setdefault(name, SqnrAccumulator())
            largest.setdefault(name, 0.0)
            expected, found = _comparable(reference, given[name])
            if expected.size:
                sums[name].update(expected, found)
                largest[name] = max(largest[name], float(np.abs(expected - found).max()))
    ratios = {name: None if found.noise == 0 else found.db for name, found in sums.items()}
    return Parity(label, count, ratios, largest)


def _comparable(
    reference: npt.NDArray[np.generic], test: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the values to compare as float64: those that are not finite, and alike, are left out."""
    left, right = reference.astype(np.float64), test.astype(np.float64)
    if np.isfinite(left).all() and np.isfinite(right).all():
        return left, right
    alike = (left == right) | (np.isnan(left) & np.isnan(right))
    kept = np.isfinite(left) | ~alike
    left, right = left[kept], right[kept]
    broken = ~(np.isfinite(left) & np.isfinite(right))
    return np.where(broken, 0.0, left), np.where(broken, np.inf, right)
