"""Samples for training: shuffled anew in every round, in batches that do not depend on how the data came."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from fewbits.errors import DataError
from fewbits.runtime.torch_graph import feeds_to_torch
from fewbits.training.windows import Axes, Windows, choose_windows

Arrays = Mapping[str, npt.NDArray[np.generic]]
Sample = dict[str, npt.NDArray[np.generic]]
Tensors = dict[str, torch.Tensor]
Draw = tuple[int, ...]
"""Number of a sample, and where its window begins, if it has one."""
_HELD_OUT = 0.1
_MOST_HELD_OUT = 256
_FEWEST_CUT = 4  # samples of which one is held out where all are cut into windows


class Samples:
    """Samples in memory, a part of them held out.

    Samples of one shape are shuffled one by one. Where shapes differ along axes that the model leaves open, windows of
    one size are drawn at random places; where that cannot be, batches stay as they came.

    Args:
        feeds: one entry per batch; the first axis counts samples.
        batch_size: samples or windows per training batch, where they can be shuffled.
        device: where the tensors go.
        axes: names of the open axes of every input.
        window: size of a window along these; 0 reads whole samples; None decides by the shapes.

    Attributes:
        held_out: batches that only judge; those that are trained on where there are too few to hold any out.
        holds_out: whether the two are different samples.
        notes: sentences for the user.

    Raises:
        DataError: there are no samples.
        SpecError: windows of this size cannot be cut.
    """

    def __init__(
        self,
        feeds: Iterable[Arrays],
        batch_size: int,
        device: str = "cpu",
        *,
        axes: Axes | None = None,
        window: int | None = None,
    ) -> None:
        batches = [{name: np.asarray(value) for name, value in arrays.items()} for arrays in feeds]
        if not batches:
            raise DataError("There are no samples to train on: name calibration data.")
        self._device = device
        self._source, self.notes = _source(batches, batch_size, axes or {}, window)
        count = self._source.count
        held = min(int(count * _HELD_OUT), _MOST_HELD_OUT)
        if isinstance(self._source, _Cut) and count >= _FEWEST_CUT:
            held = max(held, 1)
        self.holds_out = held > 0
        self._train = range(count - held)
        self.held_out = [self._batch(part) for part in self._source.judges(range(count - held if held else 0, count))]
        if not self.holds_out:
            self.notes = (*self.notes, "There are too few samples to hold any out: the same ones judged.")

    def forever(self, seed: int, skip: int = 0) -> Iterator[Tensors]:
        """Yield training batches without end, every sample once per round.

        Args:
            seed: of the order.
            skip: batches at the beginning that are left out.
        """
        generator = torch.Generator().manual_seed(seed)
        size = self._source.size
        while True:
            order = self._source.round(self._train, generator)
            for begin in range(0, len(order), size):
                part = order[begin : begin + size]
                # a last batch of a few samples would weigh as much as a whole one
                if len(part) < size <= len(order):
                    continue
                if skip:
                    skip -= 1
                else:
                    yield self._batch(part)

    def _batch(self, draws: Sequence[Draw]) -> Tensors:
        return feeds_to_torch(self._source.batch(draws), self._device)


class _Source(Protocol):
    """Where batches come from: `count` samples, `size` draws per batch."""

    count: int
    size: int

    def round(self, train: range, generator: torch.Generator) -> list[Draw]:
        """Return one round of draws, shuffled."""
        ...

    def judges(self, held: range) -> list[list[Draw]]:
        """Return batches of draws that judge."""
        ...

    def batch(self, draws: Sequence[Draw]) -> Sample:
        """Return the arrays of a batch."""
        ...


class _Whole:
    """Whole samples: rows of one array per input, or batches as they came."""

    def __init__(self, samples: Sample | list[Sample], size: int) -> None:
        self._samples = samples
        self.count = len(samples) if isinstance(samples, list) else len(next(iter(samples.values())))
        self.size = 1 if isinstance(samples, list) else size

    def round(self, train: range, generator: torch.Generator) -> list[Draw]:
        return [(train[i],) for i in torch.randperm(len(train), generator=generator).tolist()]

    def judges(self, held: range) -> list[list[Draw]]:
        return [[(i,) for i in held[begin : begin + self.size]] for begin in range(0, len(held), self.size)]

    def batch(self, draws: Sequence[Draw]) -> Sample:
        if isinstance(self._samples, list):
            return self._samples[draws[0][0]]
        index = np.array([number for (number,) in draws])
        return {name: value[index] for name, value in self._samples.items()}


class _Cut:
    """Windows of samples that differ in shape."""

    def __init__(self, samples: list[Sample], windows: Windows, batch_size: int) -> None:
        self._samples, self._windows = samples, windows
        self.count, self.size = len(samples), windows.per_step(batch_size)

    def round(self, train: range, generator: torch.Generator) -> list[Draw]:
        numbers = [i for i in train for _ in range(self._windows.repeats(self._samples[i]))]
        order = [numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist()]
        return [(i, *self._place(i, generator)) for i in order]

    def _place(self, number: int, generator: torch.Generator) -> Draw:
        room = self._windows.room(self._samples[number]) or {}
        return tuple(int(torch.randint(last + 1, (), generator=generator)) for last in room.values())

    def judges(self, held: range) -> list[list[Draw]]:
        most = max(_MOST_HELD_OUT // len(held), 1)
        draws = [(i, *place.values()) for i in held for place in self._windows.tiles(self._samples[i], most)]
        return [draws[begin : begin + self.size] for begin in range(0, len(draws), self.size)]

    def batch(self, draws: Sequence[Draw]) -> Sample:
        cuts = []
        for number, *begin in draws:
            sample = self._samples[number]
            cuts.append(self._windows.cut(sample, dict(zip(self._windows.room(sample) or {}, begin, strict=True))))
        return {name: np.concatenate([one[name] for one in cuts]) for name in cuts[0]}


def _source(batches: list[Sample], batch_size: int, axes: Axes, window: int | None) -> tuple[_Source, tuple[str, ...]]:
    """Return where batches come from, and what there is to say about it."""
    joined = _joined(batches)
    if joined is not None and not window:
        return _Whole(joined, batch_size), ()
    rows = _rows(batches)
    made = "batches are no rows of samples" if rows is None else choose_windows(rows, axes, window)
    if rows is not None and isinstance(made, Windows):
        fitting = [row for row in rows if made.room(row) is not None]
        found = _Cut(fitting, made, batch_size)
        left = f"; {len(rows) - len(fitting)} smaller samples were left out" if len(fitting) < len(rows) else ""
        note = f"Training read random windows of {made}, {found.size} in each step{left}: --window sets their size."
        return found, (note,)
    if joined is not None:
        return _Whole(joined, batch_size), ()
    why = f", since {made}" if made else ""
    return _Whole(batches, 1), (f"Samples differ in shape and were read one by one{why}.",)


def _rows(batches: list[Sample]) -> list[Sample] | None:
    """Return one entry per sample, with a first axis of one; None where there is no axis of samples."""
    rows: list[Sample] = []
    for one in batches:
        if any(value.ndim == 0 for value in one.values()) or len({len(value) for value in one.values()}) != 1:
            return None
        count = len(next(iter(one.values())))
        rows.extend({name: value[i : i + 1] for name, value in one.items()} for i in range(count))
    return rows


def _joined(batches: list[Sample]) -> Sample | None:
    """Return all samples in one array per input; None where they cannot be: other shapes, or no axis of samples."""
    first = batches[0]
    if any(value.ndim == 0 for value in first.values()):
        return None
    for one in batches:
        if one.keys() != first.keys() or any(one[name].shape[1:] != first[name].shape[1:] for name in first):
            return None
        if len({len(value) for value in one.values()}) != 1:
            return None
    return {name: np.concatenate([one[name] for one in batches]) for name in first}
