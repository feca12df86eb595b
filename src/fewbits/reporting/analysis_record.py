"""The record of an analysis: how sensitive each group is, what each tensor looks like, and what is wrong where."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from fewbits.reporting.record import VerbRecord, plain

PARTS = ("all", "weights", "activations")
"""What of a group is quantized when its figure is taken."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What quantizing one group, and nothing else, does to the network's output.

    Attributes:
        error: relative error of the output; what it is relative to is said by `AnalysisRecord.metric`.
        sqnr_db: -10 log10(error); None (or infinite) where there is no error.
        low_db: lower end of the 95 % interval of `sqnr_db`; None where the figure has no interval or no end.
        high_db: upper end of the same interval.
    """

    error: float
    sqnr_db: float | None
    low_db: float | None = None
    high_db: float | None = None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group: nodes that always change precision together.

    Attributes:
        name: of its head node.
        op: the head's operator.
        nodes: names of all its nodes, in the graph's order.
        macs: multiply-accumulates per sample; None where shapes are not known.
        weights: elements of its weights.
        precision: that of the full simulation.
        figures: precision -> part (all, weights, activations) -> figure.
        measured: precision -> SQNR in dB of a real run, for the groups that were confirmed by one.
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    macs: int | None
    weights: int
    precision: str
    figures: Mapping[str, Mapping[str, Figure]]
    measured: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of the full simulation: what was seen in it, and the grid it got.

    Attributes:
        name: in the prepared graph.
        role: activation, weight or constant.
        group: name of the group that makes it (or, for weights and graph inputs, reads it); "" for none.
        low: least value that was observed.
        high: greatest value that was observed.
        clip_low: least value that the grid holds; None where the tensor has no grid.
        clip_high: greatest value that the grid holds.
        scale: real units per step; None where there is one per channel, or no grid.
        zero_point: code of zero; None likewise.
        bits: width of the codes; None where the tensor has no grid.
        error_db: SQNR in dB of this tensor in the full simulation against float; None for weights, or where equal.
        channel_low: least value of each channel, at most 1024 of them; empty where not known.
        channel_high: greatest value of each channel, same length.
        histogram: (left edge of the first bin, width of a bin, counts), at most 128 bins; None where not known.
        outlier_channels: (index, its absolute maximum over the median channel's).
        dead_channels: indices of channels that are zero everywhere.
    """

    name: str
    role: Literal["activation", "weight", "constant"]
    group: str
    low: float
    high: float
    clip_low: float | None
    clip_high: float | None
    scale: float | None
    zero_point: int | None
    bits: int | None
    error_db: float | None
    channel_low: tuple[float, ...] = ()
    channel_high: tuple[float, ...] = ()
    histogram: tuple[float, float, tuple[int, ...]] | None = None
    outlier_channels: tuple[tuple[int, float], ...] = ()
    dead_channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong in one place, and what mends it.

    Attributes:
        group: name of the group.
        tensor: name of the tensor; "" where the cause is no single tensor.
        cause: short name, such as channel-range, long-tail, outlier-sample, unequal-add, mask, box-head.
        sentence: for people, with its figures.
        remedy: command-line option or command to paste; "" for none.
        figures: name -> number that the cause rests on.
    """

    group: str
    tensor: str
    cause: str
    sentence: str
    remedy: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRecord(VerbRecord):
    """Everything about one analysis that someone may ask later.

    Attributes beside those of the class that it extends:
        precisions: for which the groups have figures.
        output_names: graph outputs that the error is taken over.
        samples: that the figures rest on.
        probes: random projections per sample; 0 for brute force.
        method: one-pass or brute-force.
        metric: what "error" means, in words.
        groups: in the graph's order.
        tensors: in the graph's order.
        diagnoses: worst first.
        float_score: of the float model, where a metric was asked for.
        score: of the full simulation, likewise.
    """

    precisions: tuple[str, ...]
    output_names: tuple[str, ...]
    samples: int
    probes: int
    method: Literal["one-pass", "brute-force"]
    metric: str
    groups: tuple[GroupRow, ...]
    tensors: tuple[TensorRow, ...]
    diagnoses: tuple[Diagnosis, ...]
    float_score: float | None = None
    score: float | None = None

    def to_json(self) -> str:
        """Return the record as JSON; numbers that JSON lacks become null."""
        return json.dumps(plain(asdict(self)), allow_nan=False, separators=(",", ":")) + "\n"
