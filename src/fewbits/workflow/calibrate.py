"""Calibrate: run the float model once over the data; every precision is derived from what that saw."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.quantization.encode import Memo
from fewbits.quantization.observe import Statistics, join_parts, observe, watchlist
from fewbits.runtime.data import Dataset, Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.sessions import open_graph, with_outputs
from fewbits.workflow.source import ModelLike, Source
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.subject import Subject, open_subject
from fewbits.workflow.workers_calibrate import observed_parts

SAMPLES = 400
MOST_WATCHED_BYTES = 64 << 20
MOST_TORCH_BYTES = 256 << 20
"""Bytes that the tensors of a batch have together, at most, where torch runs; a node at a time holds a few of them."""
LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A float model and what calibration saw of it; serves any number of precisions.

    Attributes:
        subject: the float model, its data and target.
        statistics: ranges, histograms and moments; `statistics.samples` float forward passes made them.
        batch_size: samples per call.
        seconds: stage -> wall time.
        memo: weight scales and ranges found so far; precisions that share a grid share the search.
    """

    subject: Subject
    statistics: Statistics
    batch_size: int
    seconds: Mapping[str, float]
    memo: Memo = field(default_factory=Memo)

    @property
    def source(self) -> Source:
        """Where the model comes from, and what an earlier run pinned."""
        return self.subject.source

    @property
    def model(self) -> ir.Model:
        """The prepared float graph."""
        return self.subject.source.model

    @property
    def target(self) -> Target:
        """The device."""
        return self.subject.target


def calibrate(
    model: ModelLike,
    *,
    data: DataLike,
    target: str | Path | Target = DEFAULT_TARGET,
    samples: int = SAMPLES,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    workers: Workers | None = None,
    progress: Watcher | None = None,
) -> Calibration:
    """Prepare a model and run it once over the data.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        samples: calibration samples at most.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        workers: who runs the model; None is this process. The statistics are the same whoever does.
        progress: told of each stage.

    Raises:
        FewbitsError: the model, the data or an option cannot be used.
    """
    stages = Stages(progress)
    with stages.stage("prepare"):
        subject = open_subject(
            model, data=data, target=target, dims=dims, simplify=simplify, preprocess=preprocess,
            batch_size=batch_size, run_options=run_options,
        )  # fmt: skip
    return calibrate_subject(subject, samples=samples, stages=stages, workers=workers)


def calibrate_subject(subject: Subject, *, samples: int, stages: Stages, workers: Workers | None = None) -> Calibration:
    """Run the float model once over at most `samples` of its data.

    Raises:
        DataError: the data cannot be used, or a tensor becomes NaN or Inf on them.
        SpecError: there are no such workers.
    """
    with stages.stage("calibrate", samples) as told:
        watch = watchlist(subject.model.graph, subject.target)
        size = batch_size_for(subject)
        watched, batches = with_outputs(subject.model, tuple(watch.names)), _batches(subject.data, size, samples)
        if workers is None or workers.is_alone:
            runner = open_graph(watched, subject.options)
            statistics = observe(runner.run, watch, batches, split=runner.split, progress=told)
        else:
            parts = observed_parts(watched, subject.options, watch, batches, workers)
            statistics = join_parts(watch, parts, progress=told)
    return Calibration(subject, statistics, size, stages.seconds)


def batch_size_for(subject: Subject, most: int = MOST_WATCHED_BYTES) -> int:
    """Return the caller's batch size, or the one that suits the model and `most` bytes of tensors."""
    graph = subject.model.graph
    return subject.batch_size or choose_batch_size(graph, watchlist(graph, subject.target).names, most)


def choose_batch_size(graph: ir.Graph, names: Iterable[str], most: int = MOST_WATCHED_BYTES) -> int:
    """Return how many samples keep the named tensors of one batch below `most` bytes; 1 where shapes are open."""
    values = {str(value.name): value for value in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    total = 0
    for name in names:
        shape = values[name].shape if name in values else None
        if shape is None or not all(isinstance(dim, int) for dim in list(shape)[1:]):
            return 1
        total += 4 * math.prod(dim for dim in shape if isinstance(dim, int))
    return int(np.clip(most // max(total, 1), 1, LARGEST_BATCH))


def _batches(data: Dataset, batch_size: int, limit: int) -> Iterator[tuple[Mapping[str, npt.NDArray[np.generic]], int]]:
    for batch in data.batches(batch_size, limit):
        yield batch.feeds, batch.size
