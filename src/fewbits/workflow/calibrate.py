"""Calibrate: run the float model once over the data; every precision is derived from what that saw."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.quantization.observe import Statistics, Watchlist, observe, watchlist
from fewbits.runtime.data import Dataset, Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import Runner, RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target, load_target
from fewbits.workflow.sessions import open_graph, with_outputs
from fewbits.workflow.source import ModelLike, Source, open_source
from fewbits.workflow.stages import Stages, Watcher

SAMPLES = 400
MOST_WATCHED_BYTES = 64 << 20
LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A float model and what calibration saw of it; serves any number of precisions.

    Attributes:
        source: the prepared model and where it comes from.
        target: the device.
        statistics: ranges, histograms and moments; `statistics.samples` float forward passes made them.
        data: the calibration data.
        runner: the float model.
        options: how models run.
        batch_size: samples per call.
        seconds: stage -> wall time.
    """

    source: Source
    target: Target
    statistics: Statistics
    data: Dataset
    runner: Runner
    options: RunOptions
    batch_size: int
    seconds: Mapping[str, float]

    @property
    def model(self) -> ir.Model:
        """The prepared float graph."""
        return self.source.model


def calibrate(
    model: ModelLike | Source,
    *,
    data: DataLike,
    target: str | Path | Target = DEFAULT_TARGET,
    samples: int = SAMPLES,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> Calibration:
    """Prepare a model and run it once over the data.

    Args:
        model: a path, bytes, a model in memory, an output folder, or an opened `Source`.
        data: calibration data, see `open_data`.
        target: device profile, its name or a TOML file.
        samples: calibration samples at most.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        FewbitsError: the model, the data or an option cannot be used.
    """
    device = target if isinstance(target, Target) else load_target(target)
    options, stages = run_options or RunOptions(), Stages(progress)
    options.provider_name()
    with stages.stage("prepare"):
        source = model if isinstance(model, Source) else open_source(model, dims=dims, simplify=simplify)
        runner = open_graph(source.model, options)
        dataset = open_data(data, inputs=runner.inputs, preprocess=preprocess)
        watch = watchlist(source.model.graph, device)
    size = batch_size or choose_batch_size(source.model.graph, watch)
    with stages.stage("calibrate", samples) as told:
        names = tuple(watch.names)
        watched = open_graph(with_outputs(source.model, names), options)
        statistics = observe(watched.run, watch, _batches(dataset, size, samples), progress=told)
    return Calibration(source, device, statistics, dataset, runner, options, size, stages.seconds)


def choose_batch_size(graph: ir.Graph, watch: Watchlist) -> int:
    """Return how many samples keep the watched tensors of one batch below 64 MB; 1 where their shapes are open."""
    values = {str(value.name): value for value in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    total = 0
    for name in watch.names:
        shape = values[name].shape if name in values else None
        if shape is None or not all(isinstance(dim, int) for dim in list(shape)[1:]):
            return 1
        total += 4 * math.prod(dim for dim in shape if isinstance(dim, int))
    return int(np.clip(MOST_WATCHED_BYTES // max(total, 1), 1, LARGEST_BATCH))


def _batches(data: Dataset, batch_size: int, limit: int) -> Iterator[tuple[Mapping[str, npt.NDArray[np.generic]], int]]:
    for batch in data.batches(batch_size, limit):
        yield batch.feeds, batch.size
