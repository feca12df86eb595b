"""Samples for training: shuffled anew in every round, in batches that do not depend on how the data came."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from fewbits.errors import DataError
from fewbits.runtime.torch_graph import feeds_to_torch

Arrays = Mapping[str, npt.NDArray[np.generic]]
Tensors = dict[str, torch.Tensor]
_HELD_OUT = 0.1
_MOST_HELD_OUT = 256


class Samples:
    """Samples in memory, a part of them held out.

    Samples of one shape are shuffled one by one; where shapes differ, batches stay as they came.

    Args:
        feeds: one entry per batch; the first axis counts samples.
        batch_size: samples per training batch, where they can be shuffled.
        device: where the tensors go.

    Attributes:
        train: batches' worth of samples that are trained on.
        held_out: batches that only judge; those of `train` where there are too few to hold any out.
        holds_out: whether the two are different samples.

    Raises:
        DataError: there are no samples.
    """

    def __init__(self, feeds: Iterable[Arrays], batch_size: int, device: str = "cpu") -> None:
        batches = [{name: np.asarray(value) for name, value in arrays.items()} for arrays in feeds]
        if not batches:
            raise DataError("There are no samples to train on: name calibration data.")
        units = _joined(batches)
        self._size = batch_size if units is not None else 1
        self._device = device
        whole = units if units is not None else batches
        count = len(next(iter(whole.values()))) if isinstance(whole, dict) else len(whole)
        held = min(int(count * _HELD_OUT), _MOST_HELD_OUT)
        self.holds_out = held > 0
        self._whole = whole
        self._train = torch.arange(count - held)
        self.held_out = [
            self._batch(part) for part in torch.split(torch.arange(count - held if held else 0, count), self._size)
        ]

    def forever(self, seed: int) -> Iterator[Tensors]:
        """Yield training batches without end, every sample once per round."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = self._train[torch.randperm(len(self._train), generator=generator)]
            for part in torch.split(order, self._size):
                # a last batch of a few samples would weigh as much as a whole one
                if len(part) == self._size or len(order) < self._size:
                    yield self._batch(part)

    def _batch(self, index: torch.Tensor) -> Tensors:
        chosen = index.numpy()
        if isinstance(self._whole, dict):
            return feeds_to_torch({name: value[chosen] for name, value in self._whole.items()}, self._device)
        return feeds_to_torch(self._whole[int(chosen[0])], self._device)


def _joined(batches: list[dict[str, npt.NDArray[np.generic]]]) -> dict[str, npt.NDArray[np.generic]] | None:
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
