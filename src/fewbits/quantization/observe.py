"""Stage observe: (float model, data) -> Statistics, in one pass. Nothing here knows a precision.

The float model runs once over the samples with the tensors of interest as extra outputs; each batch is reduced to an
exact range, a histogram and, for layers with weights, second moments of their inputs, and then forgotten.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from fewbits.errors import DataError
from fewbits.graph.topology import constant, data_positions, data_values, fusions, is_float32, op_rule
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.second_moment import SecondMoment
from fewbits.quantization.infinities import outside
from fewbits.quantization.layer_rows import PieceRows, Span, is_deep, layer_rows
from fewbits.quantization.layers import Layer, find_layers
from fewbits.runtime.progress import Progress
from fewbits.spec.optable import Kind
from fewbits.spec.target import Target

MOST_COUNTED = 1 << 12
"""Elements of one tensor counted per sample: larger tensors are counted with a stride (their range stays exact)."""

Feeds = Mapping[str, npt.NDArray[np.generic]]
RunNamed = Callable[[list[str], Feeds], Mapping[str, npt.NDArray[np.generic]]]
Split = Callable[[Feeds], Sequence[Feeds]]


@dataclass(frozen=True, slots=True)
class Watchlist:
    """What to observe in a graph.

    Attributes:
        tensors: names of the tensors whose range and histogram are needed.
        layers: the layers with constant weights, whose inputs are sampled.
        aliases: tensor that only passes values through -> the watched tensor it takes them from.
        softmax_axes: tensor that only a Softmax reads -> the axis it normalizes.
        nonnegative: tensors whose operator cannot give less than zero: since every grid holds zero, their minimum is
            taken as zero and not looked for.
    """

    tensors: tuple[str, ...]
    layers: tuple[Layer, ...]
    aliases: Mapping[str, str]
    softmax_axes: Mapping[str, int] = field(default_factory=dict)
    nonnegative: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """Every tensor whose values are needed, once."""
        return list(dict.fromkeys([*self.tensors, *(layer.source for layer in self.layers)]))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What calibration saw of the float model.

    Attributes:
        histograms: watched tensor -> range and histogram.
        moments: node name of a layer -> second moments of its input vectors.
        aliases: tensors that pass values through -> the watched tensor that stands for them.
        samples: how many samples were read; as many float forward passes were made.
    """

    histograms: Mapping[str, Histogram]
    moments: Mapping[str, SecondMoment]
    aliases: Mapping[str, str]
    samples: int

    def histogram(self, tensor: str) -> Histogram | None:
        """Return the histogram of `tensor`, or of the tensor whose values it passes through."""
        return self.histograms.get(self.aliases.get(tensor, tensor))


def watchlist(graph: ir.Graph, target: Target) -> Watchlist:
    """Return the tensors that any plan for `target` may give a grid, once per distinct set of values.

    Inside a fused group nothing is watched, unless what overflows fp16 there could come out small.
    """
    data, fused = data_values(graph), fusions(graph, target.fused, target.left_float)
    heads = {head for follower, head in fused.items() if follower.op_type in _BOUNDING}
    tensors: dict[str, None] = {}
    aliases: dict[str, str] = {}
    for node in graph:
        rule = op_rule(node)
        if rule is None:
            continue
        positions = data_positions(node, rule)
        reads = [node.inputs[i] for i in positions]
        for value in reads if node not in fused else ():
            if value is not None and constant(value) is None and str(value.name) not in aliases:
                tensors.setdefault(str(value.name))
        source = reads[0] if reads else None
        for out in node.outputs:
            if not is_float32(out) or node in heads:
                continue
            if rule.kind is Kind.PASS and source is not None and source in data and constant(source) is None:
                aliases[str(out.name)] = aliases.get(str(source.name), str(source.name))
            elif out in data:
                tensors.setdefault(str(out.name))
    axes = {name: axis for name, axis in _softmax_inputs(graph) if name in tensors}
    positive = frozenset(str(v.name) for node in graph for v in node.outputs if _is_nonnegative(node)) & set(tensors)
    return Watchlist(tuple(tensors), find_layers(graph), aliases, axes, positive)


def _is_nonnegative(node: ir.Node) -> bool:
    if node.op_type == "Clip":
        low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and bool(np.all(low.numpy() >= 0))
    return node.op_type in ("Relu", "Sigmoid", "Softmax", "Sqrt", "Abs", "Exp")


_BOUNDING = frozenset({"Relu", "Clip"})  # an infinity goes in, and what a large number gives comes out


def _softmax_inputs(graph: ir.Graph) -> Iterator[tuple[str, int]]:
    for node in graph:
        value = node.inputs[0] if node.op_type == "Softmax" and node.inputs else None
        if value is not None and len(list(value.uses())) == 1 and not value.is_graph_output():
            yield str(value.name), node.attributes.get_int("axis", -1)


def observe(
    run: RunNamed,
    watch: Watchlist,
    batches: Iterable[tuple[Feeds, int]],
    *,
    split: Split | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Run the float model once over `batches` and return what was seen.

    Args:
        run: runs the float model and returns the named tensors.
        watch: what to look at.
        batches: feeds, each with its number of samples.
        split: cuts a batch into pieces that run one after the other, to save memory; the statistics are the same to the
            bit where tensors keep samples apart. None, or no pieces, runs it as a whole.
        progress: told of every batch.

    Raises:
        DataError: there is no sample, or a tensor becomes NaN or Inf (the message names tensor and sample).
    """
    watched = {name: _Watched() for name in watch.tensors}
    moments = {layer.node: SecondMoment() for layer in watch.layers}
    samples = 0
    with threadpool_limits(1, "blas"):  # many small products: BLAS threads would only fight those of ORT
        for size in _take_in(
            run, watch, batches, (watched, lambda node, rows: moments[node].update(rows)), split=split
        ):
            samples += size
            if progress is not None:
                progress.advance(size)
        return _closed(watch, watched, moments, samples)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What was seen of a few batches, on its way to be joined with others.

    Attributes:
        histograms: watched tensor -> range and histogram, and how many elements were minus infinity.
        rows: node name of a layer -> sampled input vectors of each batch.
        samples: how many samples were read.
    """

    histograms: Mapping[str, tuple[Histogram, int]]
    rows: Mapping[str, list[npt.NDArray[Any]]]
    samples: int


def observe_part(
    run: RunNamed, watch: Watchlist, batches: Iterable[tuple[Feeds, int]], first: int, split: Split | None = None
) -> Part:
    """Return what is seen of a few batches, of which the first begins with sample number `first`.

    Raises:
        DataError: a tensor becomes NaN or Inf.
    """
    watched = {name: _Watched() for name in watch.tensors}
    rows: dict[str, list[npt.NDArray[Any]]] = {layer.node: [] for layer in watch.layers}
    samples = sum(_take_in(run, watch, batches, (watched, lambda node, some: rows[node].append(some)), first, split))
    return Part({name: (seen.finish(), seen.masked) for name, seen in watched.items()}, rows, samples)


def join_parts(watch: Watchlist, parts: Iterable[Part], *, progress: Progress | None = None) -> Statistics:
    """Return the statistics of all parts, given in the order of their samples: bit for bit those of one stream.

    Histograms merge exactly; second moments are sums of floats, so their rows are added here, in their order.
    """
    watched = {name: _Watched() for name in watch.tensors}
    moments = {layer.node: SecondMoment() for layer in watch.layers}
    samples = 0
    with threadpool_limits(1, "blas"):
        for part in parts:
            for name, (histogram, masked) in part.histograms.items():
                seen = watched[name]
                seen.histogram, seen.masked = seen.histogram.merge(histogram), seen.masked + masked
            for node, batches in part.rows.items():
                for rows in batches:
                    moments[node].update(rows)
            samples += part.samples
            if progress is not None:
                progress.advance(part.samples)
        return _closed(watch, watched, moments, samples)


_Into = tuple[Mapping[str, "_Watched"], Callable[[str, npt.NDArray[Any]], None]]
"""Where what is seen goes: tensor -> what is known of it; and who takes the rows of a layer."""


def _take_in(  # noqa: PLR0917 - what is run, on what, and where it goes
    run: RunNamed,
    watch: Watchlist,
    batches: Iterable[tuple[Feeds, int]],
    into: _Into,
    first: int = 0,
    split: Split | None = None,
) -> Iterator[int]:
    """Run the model over the batches and yield how many samples each held."""
    watched, take_rows = into
    looked = sum(is_deep(sample) for sample in range(first))
    for feeds, size in batches:
        batch = Span.after(first, size, looked)
        rows: Iterable[tuple[str, npt.NDArray[Any]]]
        if split is not None and (pieces := split(feeds)):
            rows = _take_pieces(run, watch, pieces, watched, batch)
        else:  # the values die with the call: those of two batches are never held at once
            rows = _take_batch(run, watch, feeds, watched, batch)
        for node, some in rows:
            take_rows(node, some)
        first, looked = first + size, looked + len(batch.deep)
        yield size


def _take_batch(
    run: RunNamed, watch: Watchlist, feeds: Feeds, watched: Mapping[str, "_Watched"], span: Span
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Take the values of one batch in, and yield the rows of layers."""
    values = _all_values(run, watch.names, feeds)
    _update_all(watch, watched, values, span)
    yield from layer_rows(watch.layers, values, span)


def _take_pieces(
    run: RunNamed, watch: Watchlist, pieces: Iterable[Feeds], watched: Mapping[str, "_Watched"], batch: Span
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Do the same piece by piece. Moments are sums of floats, so rows are handed on as one batch has them."""
    gathered, first, looked = PieceRows(watch.layers), batch.first, batch.looked
    for feeds in pieces:
        span = Span.after(first, len(next(iter(feeds.values()))), looked)
        values = _all_values(run, watch.names, feeds)
        _update_all(watch, watched, values, span)
        gathered.add(values, span)
        del values
        first, looked = first + span.size, looked + len(span.deep)
    yield from gathered.of_batch(batch)


def _closed(
    watch: Watchlist, watched: Mapping[str, "_Watched"], moments: Mapping[str, SecondMoment], samples: int
) -> Statistics:
    for moment in moments.values():
        moment.finish()
    if samples == 0:
        raise DataError("The calibration data hold no sample: give at least one with --data.")
    return Statistics({name: seen.close() for name, seen in watched.items()}, moments, watch.aliases, samples)


def _all_values(run: RunNamed, names: list[str], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
    return {**feeds, **run([name for name in names if name not in feeds], feeds)}


def _update_all(
    watch: Watchlist, watched: Mapping[str, "_Watched"], values: Mapping[str, npt.NDArray[Any]], span: Span
) -> None:
    for name, seen in watched.items():
        x = values[name]
        if name in watch.softmax_axes:
            x = seen_by_softmax(x, watch.softmax_axes[name])
        _update(seen, x, name, span, is_nonnegative=name in watch.nonnegative)


def seen_by_softmax(x: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Return `x` with all that vanishes in a Softmax raised to where it vanishes: log(n) + 8 below its row's top.

    A mask of -10000 or -inf would otherwise stretch the grid until all real scores share one step. Rows that are masked
    as a whole say nothing and become zeros.

    Args:
        x: scores, any shape.
        axis: the axis that Softmax normalizes; n is its length.
    """
    if not x.size:
        return x
    top = x.max(axis=axis, keepdims=True)
    floor = top - (_VANISHED + np.log(max(x.shape[axis], 1)))
    return np.asarray(np.where(top <= _MASKED, x.dtype.type(0), np.maximum(x, floor)))


_VANISHED = 8.0  # all that is raised adds up to less than exp(-8) = 0.034 % of the probability
_MASKED = -5000.0
_WAITING = 1 << 16


@dataclass(slots=True)
class _Watched:
    """The histogram of one tensor, and sampled elements that wait to be counted: few large calls are faster."""

    histogram: Histogram = field(default_factory=Histogram)
    waiting: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(_WAITING, np.float32))
    size: int = 0
    masked: int = 0

    def add(self, low: float, high: float, *samples: npt.NDArray[Any]) -> None:
        """Take in an exact range, and elements inside it: arrays of any shape, copied once."""
        self.histogram.update_range(low, high)
        for sample in samples:
            if self.size + sample.size > _WAITING:
                self.finish()
            if sample.size > _WAITING:
                self.histogram.update_counts(sample)
                continue
            self.waiting[self.size : self.size + sample.size].reshape(sample.shape)[...] = sample
            self.size += sample.size

    def finish(self) -> Histogram:
        if self.size:
            self.histogram.update_counts(self.waiting[: self.size])
            self.size = 0
        return self.histogram

    def close(self) -> Histogram:
        """Count all that waits; minus infinity is a mask and gets a code of its own, well below all else."""
        histogram = self.finish()
        if self.masked and histogram.low <= histogram.high:
            low = outside(histogram.low, histogram.high)[0]
            histogram.update_range(low, histogram.high)
            histogram.update_counts(np.full(self.masked, low, np.float32))
        return histogram


def _update(seen: _Watched, x: npt.NDArray[Any], name: str, span: Span, *, is_nonnegative: bool) -> None:
    if x.size == 0:
        return
    # samples may be folded into the first axis with something else: [samples * heads, ...]
    size = span.size
    rows = x.reshape(size, -1) if size and x.ndim and x.shape[0] % size == 0 else x.reshape(1, -1)
    highs = rows.max(axis=1)
    lows = np.zeros_like(highs) if is_nonnegative else rows.min(axis=1)
    low, high = float(lows.min()), float(highs.max())
    stride = -(-rows.shape[1] // MOST_COUNTED)
    stride += 1 - stride % 2  # an even stride would see the same columns of every row
    sample = rows[:, ::stride]
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = _finite_part(x, name, f"{span.first} to {span.first + size - 1}")
        seen.masked += max(int(np.isneginf(sample).sum()), 1)
        if finite.size:
            seen.add(float(finite.min()), float(finite.max()), sample[np.isfinite(sample)])
    elif stride > 1:
        # the stride steps over most outliers: count each sample's extremes, so that clipping them has a price
        seen.add(low, high, sample, lows, highs)
    else:
        seen.add(low, high, sample)


def _finite_part(x: npt.NDArray[Any], name: str, samples: str) -> npt.NDArray[Any]:
    """Return all but minus infinity; NaN and plus infinity are errors."""
    if np.isnan(x).any() or np.isposinf(x).any():
        raise DataError(
            f"Tensor {name!r} of the float model becomes NaN or Inf within samples {samples} of the calibration data: "
            f"check those samples, or the model."
        )
    return np.asarray(x[np.isfinite(x)])
