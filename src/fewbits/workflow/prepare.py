"""Verb prepare: an equivalent graph that quantizes well, and the proof that it is equivalent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import DataError, ModelError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import PassReport
from fewbits.graph.prepare import prepare as prepare_graph
from fewbits.graph.save import save_model
from fewbits.graph.shapes import fix_dims
from fewbits.numerics.metrics import SqnrAccumulator
from fewbits.runtime.data import Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.session import Runner, RunOptions
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.source import ModelLike, check_loads
from fewbits.workflow.stages import Stages, Watcher

SAMPLES = 16
RANDOM_FEEDS = 4
SEED = 0

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Outputs of the prepared graph against those of the model as given.

    Attributes:
        feeds: "the data", or "random feeds" where none were given.
        samples: how many were run.
        sqnr_db: output -> SQNR; None where every value is equal.
        max_abs: output -> largest difference.
        reason: why nothing could be compared; empty where it was.
    """

    feeds: str
    samples: int
    sqnr_db: Mapping[str, float | None]
    max_abs: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PrepareResult:
    """What `prepare` made.

    Attributes:
        model: the prepared graph.
        changes: what each pass did and declined.
        parity: how close the outputs are.
        nodes: nodes before and after.
        output: where it was written, or None.
        seconds: stage -> wall time.
    """

    model: ir.Model
    changes: tuple[PassReport, ...]
    parity: Parity
    nodes: tuple[int, int]
    output: Path | None
    seconds: Mapping[str, float]


def prepare(
    model: ModelLike,
    *,
    output: str | Path | None = None,
    simplify: bool = True,
    dims: Mapping[str, int] | None = None,
    data: DataLike | None = None,
    samples: int = SAMPLES,
    preprocess: Preprocess | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> PrepareResult:
    """Prepare a model, compare it with the original, and write it.

    Args:
        model: a path, bytes or a model in memory.
        output: an .onnx file; None writes nothing.
        simplify: let onnxslim rewrite the graph; the other passes always run.
        dims: open dimension -> size.
        data: samples for the comparison; None makes random ones, which only shows that the graph still runs alike.
        samples: of `data` at most.
        preprocess: how images become inputs.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        FewbitsError: the model, the data or an option cannot be used, or the file cannot be written.
    """
    options, stages = run_options or RunOptions(), Stages(progress)
    with stages.stage("prepare"):
        graph = load_model(model)
        if dims:
            fix_dims(graph, dims)
        prepared = prepare_graph(graph, simplify=simplify, check=check_loads)
    with stages.stage("compare", samples if data is not None else RANDOM_FEEDS):
        parity = _compare(graph, prepared.model, data=data, samples=samples, preprocess=preprocess, options=options)
    if output is not None:
        with stages.stage("write"):
            save_model(prepared.model, output)
    nodes = sum(1 for _ in graph.graph), sum(1 for _ in prepared.model.graph)
    path = None if output is None else Path(output)
    return PrepareResult(prepared.model, prepared.changes, parity, nodes, path, stages.seconds)


def random_feeds(inputs: tuple[InputInfo, ...], count: int, seed: int = SEED) -> Iterator[Feeds]:
    """Yield seeded feeds: normal floats, integers 0 and 1, open dimensions 1."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        feeds: dict[str, npt.NDArray[np.generic]] = {}
        for info in inputs:
            shape = tuple(dim if isinstance(dim, int) else 1 for dim in info.shape)
            is_real = info.dtype.kind == "f"
            feeds[info.name] = (rng.standard_normal(shape) if is_real else rng.integers(0, 2, shape)).astype(info.dtype)
        yield feeds


def _compare(
    before: ir.Model,
    after: ir.Model,
    *,
    data: DataLike | None,
    samples: int,
    preprocess: Preprocess | None,
    options: RunOptions,
) -> Parity:
    label = "the data" if data is not None else "random feeds"
    try:
        left, right = open_graph(before, options), open_graph(after, options)
        if data is None:
            return _measure(left, right, random_feeds(left.inputs, RANDOM_FEEDS), label)
    except (ModelError, DataError) as error:
        return Parity(label, 0, {}, {}, str(error))
    dataset = open_data(data, inputs=left.inputs, preprocess=preprocess)
    return _measure(left, right, (batch.feeds for batch in dataset.batches(1, samples)), label)


def _measure(left: Runner, right: Runner, feeds: Iterator[Feeds], label: str) -> Parity:
    sums = {name: SqnrAccumulator() for name in left.output_names}
    largest = dict.fromkeys(left.output_names, 0.0)
    count = 0
    for one in feeds:
        wanted, given = left(one), right(one)
        count += 1
        for name, reference in wanted.items():
            if reference.dtype.kind not in "fiub" or not reference.size:
                continue
            sums[name].update(reference, given[name])
            difference = reference.astype(np.float64) - given[name].astype(np.float64)
            largest[name] = max(largest[name], float(np.abs(difference).max()))
    ratios = {name: None if found.noise == 0 else found.db for name, found in sums.items()}
    return Parity(label, count, ratios, largest)
