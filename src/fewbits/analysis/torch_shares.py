"""How a batch is probed within the memory that is left: in pieces of a few samples, and a few probes at a time.

Projections are drawn for the whole batch, and squares averaged as they are without a limit: fewer probes at a time give
the same figures to the last bit. Pieces of a batch do where torch computes a sample alike whatever is beside it; its
convolutions may add in another order, which moves figures by less than a millionth. So they come second.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.analysis.sensitivity import COPIES, FIRST_BYTES, HELD, MOST_BYTES
from fewbits.errors import SpecError
from fewbits.runtime.memory import MB

F64 = npt.NDArray[np.float64]
Squares = Mapping[tuple[Any, ...], F64]
"""Place -> squared projections, [samples, probes], or [samples, 1] where nothing changes."""

Left = Callable[[], int]
"""Says what memory is left, in bytes."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Bytes that probing one sample takes.

    Attributes:
        held: by the forward pass, and by what works on one tensor at a time.
        gradients: of one probe.
    """

    held: float
    gradients: float

    @classmethod
    def of(cls, sizes: Sequence[float], gradients: float) -> "SampleSize":
        """Return it, given the bytes of every tensor, and of all gradients."""
        return cls(HELD * sum(sizes) + COPIES * max(sizes, default=0.0), gradients)

    @property
    def least(self) -> float:
        """With one probe at a time."""
        return self.held + self.gradients


@dataclass(frozen=True, slots=True)
class Shares:
    """What is done at once.

    Attributes:
        samples: of the batch.
        piece: samples that run together.
        probes: per sample.
        turns: probes whose gradients are kept at a time; None goes by `MOST_BYTES`.
    """

    samples: int
    piece: int
    probes: int
    turns: int | None = None

    @classmethod
    def within(cls, left_bytes: int, size: "SampleSize", samples: int, probes: int) -> "Shares":
        """Return the whole batch with as many probes as fit, or the largest of its halves, quarters ... that does.

        What torch will keep is left aside, but not where a sample would then not fit that fits otherwise.

        Args:
            left_bytes: memory that may be taken.
            size: of one sample.
            samples: of the batch.
            probes: per sample.

        Raises:
            SpecError: one sample with one probe does not fit.
        """
        left_bytes = max(left_bytes - FIRST_BYTES, min(left_bytes, math.ceil(size.least)))
        piece = samples
        while size.least * piece > left_bytes:
            if piece == 1:
                raise SpecError(
                    f"Sensitivity by one pass should take {size.least / MB:.0f} MB for one sample, and --memory "
                    f"leaves {left_bytes / MB:.0f} MB: allow more, or go by brute force (--method or --ranking "
                    f"brute-force)."
                )
            piece = -(-piece // 2)
        room, gradients = left_bytes - size.held * piece, max(size.gradients * piece, 1.0)
        return cls(samples, piece, probes, int(np.clip(min(room, MOST_BYTES) // gradients, 1, probes)))

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (first sample, number of samples) of each piece."""
        for first in range(0, self.samples, self.piece):
            yield first, min(self.piece, self.samples - first)


def across_probes(turns: Sequence[Squares], shares: Shares) -> Squares:
    """Return the squares of all probes of one piece, from those of a few at a time."""
    if len(turns) == 1:
        return turns[0]
    each = shares.turns or shares.probes // len(turns)
    counts = [min(each, shares.probes - begin) for begin in range(0, shares.probes, each)]
    return {
        key: np.concatenate([_wide(t[key], n) for t, n in zip(turns, counts, strict=True)], axis=1) for key in turns[0]
    }


def _wide(squares: F64, probes: int) -> F64:
    return np.broadcast_to(squares, (len(squares), probes))


def means(squares: F64, together: int) -> list[F64]:
    """Return the mean of each sample over every share of `together` probes."""
    return [
        np.ascontiguousarray(squares[:, i : i + together]).mean(axis=1) for i in range(0, squares.shape[1], together)
    ]
