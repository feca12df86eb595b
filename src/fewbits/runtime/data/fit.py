"""Fit what a source holds to the model's inputs: names, batch axis, shape, dtype, finite values.

In: a `Chunk`, whatever the source had at hand. Out: `Piece`s, rows of which the model accepts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewbits.errors import DataError
from fewbits.runtime.data.casts import cast, require_finite
from fewbits.runtime.data.types import Array, InputInfo


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Arrays as the source holds them.

    Attributes:
        arrays: input name -> array, with or without a batch axis.
        labels: labels of all samples in `arrays`, or None.
        origin: the file or item, for messages.
        is_batch: True when its owner made it one batch; False when it is a store to cut from.
    """

    arrays: Mapping[str, Array]
    labels: Array | None
    origin: str
    is_batch: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Feeds of the right rank; `batched` are the inputs whose axis 0 counts samples, empty when it cannot be cut."""

    feeds: Mapping[str, Array]
    labels: Array | None
    count: int
    batched: frozenset[str]

    def rows(self, start: int, stop: int) -> "Piece":
        """Return samples start..stop; a piece that cannot be cut returns itself."""
        if not self.batched:
            return self
        feeds = {name: array[start:stop] if name in self.batched else array for name, array in self.feeds.items()}
        labels = None if self.labels is None else self.labels[start:stop]
        return Piece(feeds, labels, stop - start, self.batched)


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """Which inputs count samples on axis 0, and how many the model insists on (None: any number)."""

    names: frozenset[str]
    size: int | None

    @classmethod
    def of(cls, inputs: Sequence[InputInfo]) -> "BatchAxis":
        """Read the batch axis off the shapes.

        The first dynamic axis 0 is the batch; inputs with another name there, or a fixed length, do not count samples.
        Without a dynamic one the first input of rank >= 2 gives the static batch, and the inputs that share it follow.
        A model of rank-1 inputs longer than 1 has no batch axis.
        """
        leading = [info.shape[0] for info in inputs if info.shape and not isinstance(info.shape[0], int)]
        if leading:
            names = [info.name for info in inputs if info.shape and _same_symbol(info.shape[0], leading[0])]
            return cls(frozenset(names), None)
        static = [info for info in inputs if len(info.shape) >= 2 or info.shape == (1,)]
        if not static:
            return cls(frozenset(), None)
        size = static[0].shape[0]
        return cls(frozenset(info.name for info in static if info.shape[0] == size), size or None)  # type: ignore[arg-type]


def _same_symbol(dim: int | str | None, batch: int | str | None) -> bool:
    return not isinstance(dim, int) and (dim == batch or dim is None or batch is None)


def match_names(arrays: Mapping[str, Array], inputs: Sequence[InputInfo], origin: str) -> None:
    """Check that `arrays` are exactly the model's inputs.

    Raises:
        DataError: an input is missing, or a name is not the model's.
    """
    wanted = [info.name for info in inputs]
    has = f"The model has the inputs {', '.join(map(repr, wanted))}"
    if unknown := [name for name in arrays if name not in wanted]:
        raise DataError(
            f"{origin} holds {', '.join(map(repr, unknown))}, which the model does not take. {has}: "
            "rename the array, or remove it."
        )
    if missing := [name for name in wanted if name not in arrays]:
        raise DataError(f"{origin} lacks {', '.join(map(repr, missing))}. {has}: every one of them needs an array.")


def resolve(chunk: Chunk, inputs: Sequence[InputInfo], axis: BatchAxis) -> Iterator[Piece]:
    """Find the samples in a chunk: add a missing batch axis, or take one inference per row of a model without one.

    Raises:
        DataError: names, ranks or lengths that do not fit.
    """
    match_names(chunk.arrays, inputs, chunk.origin)
    lead = next((info for info in inputs if info.name in axis.names), inputs[0])
    is_static = not lead.shape or isinstance(lead.shape[0], int)
    if is_static and chunk.arrays[lead.name].ndim == len(lead.shape) + 1:
        yield from _one_per_row(chunk, inputs, lead)
        return
    is_expanded = lead.name in axis.names and chunk.arrays[lead.name].ndim == len(lead.shape) - 1
    feeds = {info.name: _ranked(chunk, info, can_add=info.name in axis.names) for info in inputs}
    lengths = {name: len(feeds[name]) for name in feeds if name in axis.names}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise DataError(f"{chunk.origin}: the inputs disagree on the number of samples ({said}): make them equal.")
    piece = Piece(feeds, chunk.labels, lengths[lead.name] if lengths else 1, axis.names)
    yield _with_labels(piece, chunk.origin, is_expanded=is_expanded, can_be_one=is_static)


def _one_per_row(chunk: Chunk, inputs: Sequence[InputInfo], lead: InputInfo) -> Iterator[Piece]:
    count = len(chunk.arrays[lead.name])
    rows = {info.name for info in inputs if chunk.arrays[info.name].ndim == len(info.shape) + 1}
    for name in rows:
        if len(chunk.arrays[name]) != count:
            raise DataError(
                f"{chunk.origin}: {name!r} has {len(chunk.arrays[name])} samples, {lead.name!r} has {count}: "
                "make them equal."
            )
    whole = _with_labels(
        Piece(chunk.arrays, chunk.labels, count, frozenset(rows)), chunk.origin, is_expanded=False, can_be_one=False
    )
    for row in range(count):
        one = whole.rows(row, row + 1)
        feeds = {info.name: one.feeds[info.name][0] if info.name in rows else one.feeds[info.name] for info in inputs}
        yield replace(one, feeds=feeds, batched=frozenset())


def _ranked(chunk: Chunk, info: InputInfo, *, can_add: bool) -> Array:
    array = chunk.arrays[info.name]
    if can_add and array.ndim == len(info.shape) - 1:
        return array[None]
    if array.ndim != len(info.shape):
        raise DataError(
            f"{chunk.origin}: input {info.name!r} has {len(info.shape)} dimensions ({info}), "
            f"the array has {array.ndim}, shape {list(array.shape)}: reshape it."
        )
    return array


def _with_labels(piece: Piece, origin: str, *, is_expanded: bool, can_be_one: bool) -> Piece:
    labels = piece.labels
    if labels is None:
        return piece
    is_one = labels.ndim == 0 or (len(labels) == 1 and piece.count != 1)
    if labels.ndim == 0 or (is_expanded and len(labels) != 1):
        labels = labels[None]
    if can_be_one and is_one and piece.count != 1:
        # One label for a static shape: what looked like the batch axis belongs to the sample.
        return Piece(piece.feeds, labels, 1, frozenset())
    if len(labels) != piece.count:
        raise DataError(f"{origin} has {len(labels)} labels for {piece.count} samples: give one label per sample.")
    return replace(piece, labels=labels)


def check(piece: Piece, inputs: Sequence[InputInfo], origin: str, first: int, row: int) -> Piece:
    """Cast the feeds to the model's dtypes and check dimensions and values.

    Args:
        piece: rows to check.
        inputs: the model's inputs.
        origin: the file or item, for messages.
        first: index in the whole data of the first sample of `piece`.
        row: index in its chunk of the first sample of `piece`.

    Raises:
        DataError: a dimension, dtype or value that the model cannot take.
    """
    feeds = {}
    for info in inputs:
        array = np.asarray(piece.feeds[info.name])
        batched = info.name in piece.batched
        if any(isinstance(dim, int) and dim != have for dim, have in _pairs(info, array, batched=batched)):
            have = list(array.shape)
            raise DataError(f"{origin}: input {info} cannot take an array of shape {have}: reshape or resize it.")
        array = cast(array, info, origin)
        require_finite(array, info.name, origin, first, row if batched else None)
        feeds[info.name] = array
    return replace(piece, feeds=feeds)


def _pairs(info: InputInfo, array: Array, *, batched: bool) -> list[tuple[int | str | None, int]]:
    """Pair wanted and present dimensions; the batch axis is left out, since batches are cut to size later."""
    return list(zip(info.shape, array.shape, strict=True))[1 if batched else 0 :]
