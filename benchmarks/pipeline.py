"""fewbits' stages as the benchmarks use them; swap in the public functions here, and nowhere else."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

import fewbits
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.graph.save import to_bytes
from fewbits.quantization.encode import Encoded, Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.observe import Statistics, Watchlist, observe, watchlist
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.runtime.session import Runner, RunOptions, open_session
from fewbits.spec.plan import Plan
from fewbits.spec.target import Target, load_target
from networks import Network

TARGET = "qnn-htp-v73"
BATCH = 8
"""Samples per forward pass of calibration: bounds the memory of the watched tensors."""

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Observer:
    """A prepared network, ready to be observed."""

    model: ir.Model
    target: Target
    watch: Watchlist
    runner: Runner

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
        encoded = encode(self.model.graph, plan, statistics, ranges or Ranges())
        if not profile.default.is_float and not encoded.encodings:
            raise RuntimeError(
                f"{precision} gave no encodings: the prepared model was changed, or nothing is quantized"
            )
        return plan, encoded

    def build(self, statistics: Statistics, precision: str, ranges: Ranges | None = None) -> bytes:
        """Return the QDQ model of one precision."""
        plan, encoded = self.encode(statistics, precision, ranges)
        return to_bytes(insert_qdq(self.model, plan, encoded))


@dataclass(frozen=True, slots=True)
class Quantized:
    """One scored precision."""

    precision: str
    score: float
    build_s: float
    score_s: float


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


def quantize_all(
    network: Network, precisions: Sequence[str], *, target: str = TARGET, threads: int = 0, samples: int = 400
) -> tuple[list[Quantized], dict[str, Any]]:
    """Calibrate once, then build and score every precision with the default ranges.

    Returns:
        The scores, and what calibration took: seconds of preparing and observing, samples read.
    """
    options = RunOptions(threads=threads)
    calibration = fewbits.calibrate(
        network.path, data=lambda: network.calibration(samples), target=target, samples=samples, run_options=options
    )
    cost = {
        "prepare_s": calibration.seconds["prepare"],
        "observe_s": calibration.seconds["calibrate"],
        "samples": calibration.statistics.samples,
    }

    def build(precision: str) -> Runner:
        return open_session(fewbits.quantize_calibrated(calibration, precision).to_bytes(), options=options)

    return [_scored(network, p, lambda p=p: build(p)) for p in precisions], cost


def score_float(network: Network, *, threads: int = 0) -> Quantized:
    """Score the network as it came."""
    return _scored(network, "fp32", lambda: open_session(network.path, options=RunOptions(threads=threads)))


def _scored(network: Network, precision: str, make: Callable[[], Runner]) -> Quantized:
    begin = time.perf_counter()
    runner = make()
    built = time.perf_counter()
    score = network.score(runner)
    return Quantized(precision, score, built - begin, time.perf_counter() - built)
