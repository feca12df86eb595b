"""Verb prepare: an equivalent graph that quantizes well, and the proof that it is equivalent."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fewbits.errors import DataError, ModelError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import PassReport
from fewbits.graph.quantized import refuse_quantized
from fewbits.graph.save import save_model
from fewbits.graph.shapes import fix_dims
from fewbits.runtime.data import Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.workflow.parity import Parity, measure, random_feeds
from fewbits.workflow.requantize import float_behind
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.source import ModelLike, model_name, prepare_for
from fewbits.workflow.stages import Stages, Watcher

SAMPLES = 16
RANDOM_FEEDS = 4


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
    requantize: bool = False,
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
        requantize: take in a quantized model, as the float model behind it; without it such a model is refused.
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
        graph, changes = load_model(model), tuple[PassReport, ...]()
        if requantize:
            graph, report = float_behind(graph, model_name(model))
            changes = (report,) if report.changed else ()
        refuse_quantized(graph, model_name(model))
        if dims:
            fix_dims(graph, dims)
        prepared = prepare_for(graph, options, simplify=simplify)
    with stages.stage("compare", samples if data is not None else RANDOM_FEEDS):
        parity = _compare(graph, prepared.model, data=data, samples=samples, preprocess=preprocess, options=options)
    if output is not None:
        with stages.stage("write"):
            save_model(prepared.model, output)
    nodes = sum(1 for _ in graph.graph), sum(1 for _ in prepared.model.graph)
    path = None if output is None else Path(output)
    return PrepareResult(prepared.model, (*changes, *prepared.changes), parity, nodes, path, stages.seconds)


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
            return measure(left, right, random_feeds(left.inputs, RANDOM_FEEDS), label)
    except (ModelError, DataError) as error:
        return Parity(label, 0, {}, {}, str(error))
    dataset = open_data(data, inputs=left.inputs, preprocess=preprocess)
    return measure(left, right, (batch.feeds for batch in dataset.batches(1, samples)), label)
