"""fewbits' stages as the benchmarks use them; swap in the public functions here, and nowhere else."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

import fewbits
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.graph.save import to_bytes
from fewbits.quantization.encode import Encoded, Memo, Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.observe import Statistics, Watchlist, observe, watchlist
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.runtime.session import Runner, RunOptions, open_session
from fewbits.spec.plan import Plan
from fewbits.spec.target import Target, load_target
from networks import Network

TARGET = "qnn-htp-v73"
MAX_DROP = 0.3
"""Drop that a verdict accepts, in the unit of the score."""
BATCH = 8
"""Samples per forward pass of calibration: bounds the memory of the watched tensors."""

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Observer:
    """A prepared network, ready to be observed; what was found for a grid is kept, as a `Calibration` keeps it."""

    model: ir.Model
    target: Target
    watch: Watchlist
    runner: Runner
    memo: Memo = field(default_factory=Memo)

    def observe(self, batches: Iterable[tuple[Feeds, int]]) -> Statistics:
        """Return what the float model's tensors look like on `batches`."""
        return observe(self.runner.run, self.watch, batches)

    def encode(self, statistics: Statistics, precision: str, ranges: Ranges | None = None) -> tuple[Plan, Encoded]:
        """Return plan and encodings of one precision: what "a further precision" costs.

        Raises:
            RuntimeError: an integer precision got no encodings: its time or score would be that of a float model.
        """
        profile = Profile.parse(precision)
        plan = resolve(self.model, profile, self.target)
        encoded = encode(self.model.graph, plan, statistics, ranges or Ranges(), memo=self.memo)
        if not profile.default.is_float and not encoded.encodings:
            raise RuntimeError(
                f"{precision} gave no encodings: the prepared model was changed, or nothing is quantized"
            )
        return plan, encoded

    def build(self, statistics: Statistics, precision: str, ranges: Ranges | None = None) -> bytes:
        """Return the QDQ model of one precision."""
        plan, encoded = self.encode(statistics, precision, ranges)
        return to_bytes(insert_qdq(self.model, plan, encoded))


def open_observer(network: Network, *, target: str = TARGET, threads: int = 0) -> Observer:
    """Load, prepare and open a network with its watched tensors as outputs."""
    model, chosen = prepare(load_model(network.path)).model, load_target(target)
    watch = watchlist(model.graph, chosen)
    runner = open_session(to_bytes(_with_outputs(model, watch.names)), options=RunOptions(threads=threads))
    return Observer(model, chosen, watch, runner)


def _with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    copy = model.clone()
    present = {v.name for v in copy.graph.outputs}
    values = {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.extend(values[n] for n in names if n in values and n not in present)
    return copy


def batches(feeds: Iterable[Feeds], size: int = BATCH) -> Iterator[tuple[Feeds, int]]:
    """Cut feeds into batches of at most `size` samples, each with its count."""
    for feed in feeds:
        total = len(next(iter(feed.values())))
        for begin in range(0, total, size):
            yield {k: v[begin : begin + size] for k, v in feed.items()}, min(size, total - begin)


def single_samples(network: Network, samples: int) -> list[Feeds]:
    """Return calibration samples, each alone, in memory."""
    return [feed for feed, _ in batches(network.calibration(samples), 1)]


def step1(
    network: Network,
    precisions: Sequence[str],
    *,
    target: str = TARGET,
    threads: int = 0,
    samples: int = 400,
    **options: Any,
) -> fewbits.BaselineResult:
    """Return the baseline of a network, scored by its own score on its own data; `options` are those of the verb."""
    return fewbits.baseline(
        network.path,
        data=lambda: network.calibration(samples),
        precisions=precisions,
        metric=network.score,
        higher_is_better=network.higher_is_better,
        max_drop=MAX_DROP,
        target=target,
        samples=samples,
        run_options=RunOptions(threads=threads),
        **options,
    )
