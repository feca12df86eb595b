"""Rows of a layer's input in a batch: what its second moments are made from, however the batch is cut into pieces."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.quantization.layers import Layer

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Span:
    """The samples of a batch, or of a piece of one.

    Attributes:
        first: number of the first.
        size: how many.
        looked: samples before it that give moments, too.
        deep: those of it that do, counted from its first.
    """

    first: int
    size: int
    looked: int
    deep: list[int]

    @classmethod
    def after(cls, first: int, size: int, looked: int) -> "Span":
        """Return `size` samples from number `first` on."""
        return cls(first, size, looked, [i for i in range(size) if is_deep(first + i)])


def is_deep(sample: int) -> bool:
    """Whether a sample gives moments too: the first ones and every eighth after; all give ranges and histograms."""
    return sample < _ALL_DEEP or sample % _DEEP_STRIDE == 0


_ALL_DEEP, _DEEP_STRIDE = 8, 8


def layer_rows(layers: Iterable[Layer], values: Mapping[str, Array], span: Span) -> Iterator[tuple[str, Array]]:
    """Yield (node name of a layer, its sampled input vectors [G, R, K]), where the samples give some."""
    for layer in layers:
        rows = _rows(layer, values[layer.source], span)
        if rows is not None:
            yield layer.node, rows


def _rows(layer: Layer, x: Array, span: Span) -> Array | None:
    part = _looked_at(x, layer, span)
    return None if part is None else layer.sample_rows(part, span.looked)


def _looked_at(x: Array, layer: Layer, span: Span) -> Array | None:
    """Return what gives moments of a layer's input: deep samples, or all where a sample is one row of a Gemm."""
    is_by_sample = _is_by_sample(x, layer, span)
    if is_by_sample and layer.op == "Gemm":
        return x
    if not span.deep:
        return None
    return x[span.deep] if is_by_sample and len(span.deep) < span.size else x


def _is_by_sample(x: Array, layer: Layer, span: Span) -> bool:
    return x.ndim > 1 and len(x) == span.size and not layer.transposed[0]


@dataclass
class PieceRows:
    """Gathers what the pieces of one batch show, and gives the rows that the batch would give as a whole.

    Where the first axis of an input counts other things than samples ([samples * tokens, K]), rows are drawn from the
    whole batch: such inputs are kept until its end.

    Attributes:
        layers: whose rows are wanted.
    """

    layers: tuple[Layer, ...]
    _rows: dict[str, list[Array]] = field(default_factory=dict)
    _whole: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Array], span: Span) -> None:
        """Take in one piece."""
        apart = [layer for layer in self.layers if _is_by_sample(values[layer.source], layer, span)]
        for node, rows in layer_rows(apart, values, span):
            self._rows.setdefault(node, []).append(rows)
        for source in {layer.source for layer in self.layers if layer not in apart}:
            self._whole.setdefault(source, []).append(values[source])

    def of_batch(self, span: Span) -> Iterator[tuple[str, Array]]:
        """Yield (node name, rows) of the whole batch."""
        for node, parts in self._rows.items():
            yield node, np.concatenate(parts, axis=1)
        joined = {source: np.concatenate(parts) if parts[0].ndim else parts[0] for source, parts in self._whole.items()}
        yield from layer_rows((layer for layer in self.layers if layer.source in joined), joined, span)
