"""A source, fitted to the model and cut into batches: the one `Dataset` of the house."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fewbits.errors import DataError, SpecError
from fewbits.runtime.data.digest import Hash
from fewbits.runtime.data.fit import BatchAxis, Chunk, Piece, check, resolve
from fewbits.runtime.data.types import Array, Batch, InputInfo

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where chunks come from; every call of `chunks` starts anew."""

    @property
    def has_labels(self) -> bool:
        """Whether its chunks carry labels."""

    def chunks(self) -> Iterator[Chunk]:
        """Read from the start."""

    def update(self, digest: Hash) -> None:
        """Add the content to a hash."""


class Stream:
    """A `Dataset` over any `Source`."""

    def __init__(self, name: str, source: Source, inputs: Sequence[InputInfo]) -> None:
        if not inputs:
            raise DataError(f"{name!r} cannot feed the model: it has no inputs.")
        self.name = name
        self._source = source
        self._inputs = tuple(inputs)
        self._axis = BatchAxis.of(self._inputs)
        self._has_labels: bool | None = None
        self._fingerprint: str | None = None

    @property
    def has_labels(self) -> bool:
        """Whether its batches carry labels; a source in the user's code is asked for its first item once."""
        if self._has_labels is None:
            self._has_labels = self._source.has_labels
        return self._has_labels

    @property
    def fingerprint(self) -> str:
        """Content hash (sha256); computed on first use, since it reads everything."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            self._source.update(digest)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def batches(self, batch_size: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Read from the start; see `Dataset.batches`.

        With a static batch, samples that fill no whole batch are left out, and `limit` is rounded to whole batches (at
        least one). Neighbours whose shapes differ never share a batch.

        Raises:
            SpecError: `batch_size` or `limit` is not positive.
            DataError: a sample does not fit the model, or there are none.
        """
        for word, value in (("batch size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise SpecError(f"A {word} of {value} is impossible: it must be at least 1.")
        static = self._axis.size
        return self._batches(_Packer(self.name, static or batch_size, static), limit)

    def _batches(self, packer: "_Packer", limit: int | None) -> Iterator[Batch]:
        seen = 0
        for whole, chunk in self._wholes():
            if limit is not None and packer.static and whole.batched:
                limit = max(packer.static, limit - limit % packer.static)
            start = 0
            while start < whole.count and (limit is None or seen < limit):
                stop = start + packer.room(whole, is_batch=chunk.is_batch)
                stop = min(stop, whole.count, whole.count if limit is None else start + limit - seen)
                part = check(whole.rows(start, stop), self._inputs, chunk.origin, seen, start)
                yield from packer.add(part, closes=packer.size is None)
                seen += part.count
                start += part.count
            if limit is not None and seen >= limit:
                break
        yield from packer.finish(seen)

    def _wholes(self) -> Iterator[tuple[Piece, Chunk]]:
        labelled: bool | None = None
        for chunk in self._source.chunks():
            labelled = chunk.labels is not None if labelled is None else labelled
            if labelled != (chunk.labels is not None):
                has = "no labels, those before it have some" if labelled else "labels, those before it have none"
                raise DataError(f"{chunk.origin} has {has}: label every sample or none.")
            for piece in resolve(chunk, self._inputs, self._axis):
                yield piece, chunk


@dataclass(slots=True)
class _Packer:
    """Joins pieces into batches of `size` samples; None makes each piece a batch."""

    name: str
    size: int | None
    static: int | None
    held: list[Piece] = field(default_factory=list)
    made: int = 0

    @property
    def count(self) -> int:
        return sum(piece.count for piece in self.held)

    def room(self, whole: Piece, *, is_batch: bool) -> int:
        """Return how many samples of `whole` to take next."""
        if not whole.batched:
            return whole.count
        if self.size is None:
            return whole.count if is_batch else 1
        return self.size - self.count

    def add(self, piece: Piece, *, closes: bool) -> Iterator[Batch]:
        if self.held and not _can_join(self.held[-1], piece):
            if self.static:
                raise DataError(
                    f"{self.name!r}: the model's static batch is {self.static}, and samples of different shapes "
                    "cannot share it: make the shapes equal, or fix the batch at 1 with --dim."
                )
            yield self._join()
        self.held.append(piece)
        if closes or not piece.batched or (self.size is not None and self.count >= self.size):
            yield self._join()

    def finish(self, seen: int) -> Iterator[Batch]:
        """Close the last batch."""
        if not seen:
            raise DataError(f"{self.name!r} holds no samples: give at least one.")
        if self.held and self.static:
            if not self.made:
                raise DataError(
                    f"{self.name!r} has {seen} samples, the model's static batch is {self.static}: give at least "
                    f"{self.static} samples, or fix the batch at 1 with --dim."
                )
            text = "%s: the last %d of %d samples fill no batch of %d and are left out."
            logger.warning(text, self.name, self.count, seen, self.static)
        elif self.held:
            yield self._join()

    def _join(self) -> Batch:
        pieces, self.held = self.held, []
        self.made += 1
        first = pieces[0]
        if len(pieces) == 1:
            return Batch(first.feeds, first.labels, first.count)
        feeds = {
            name: np.concatenate([piece.feeds[name] for piece in pieces]) if name in first.batched else array
            for name, array in first.feeds.items()
        }
        labels = None if first.labels is None else np.concatenate([_labels(piece) for piece in pieces])
        return Batch(feeds, labels, sum(piece.count for piece in pieces))


def _labels(piece: Piece) -> Array:
    if piece.labels is None:
        raise AssertionError("pieces with and without labels were joined")
    return piece.labels


def _can_join(left: Piece, right: Piece) -> bool:
    """Whether two pieces fit one batch: equal sample shapes, and equal feeds where axis 0 does not count samples."""
    if not right.batched:
        return False
    if left.labels is not None and left.labels.shape[1:] != _labels(right).shape[1:]:
        return False
    return all(
        left.feeds[name].shape[1:] == right.feeds[name].shape[1:]
        if name in right.batched
        else np.array_equal(left.feeds[name], right.feeds[name])
        for name in right.feeds
    )
