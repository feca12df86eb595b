"""Verb evaluate: score any ONNX file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fewbits.analysis.evaluate import Evaluation
from fewbits.analysis.evaluate import evaluate as score_model
from fewbits.analysis.scores import default_metric
from fewbits.artifact import names
from fewbits.artifact.folder import reference_file
from fewbits.errors import MetricError
from fewbits.graph.load import load_model
from fewbits.graph.shapes import fix_dims, infer_shapes
from fewbits.runtime.data import Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import Runner, RunOptions, open_session
from fewbits.workflow.calibrate import choose_batch_size
from fewbits.workflow.scoring import MetricLike, check_metric
from fewbits.workflow.sessions import open_graph, output_infos
from fewbits.workflow.source import ModelLike, model_name, output_folder
from fewbits.workflow.stages import Stages, Watcher


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What `evaluate` found.

    Attributes:
        score: of the model.
        model: what was scored.
        reference: what it was compared with, or None.
        seconds: stage -> wall time.
    """

    score: Evaluation
    model: str
    reference: str | None
    seconds: Mapping[str, float]


def evaluate(
    model: ModelLike,
    *,
    data: DataLike,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    reference: ModelLike | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> EvaluateResult:
    """Score a model as it is; nothing is prepared or changed.

    Args:
        model: a path, bytes, a model in memory, or an output folder, whose artifact is scored.
        data: evaluation data.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        reference: float model for sqnr and agreement; an output folder brings its own.
        samples: at most; None takes all.
        dims: open dimension -> size.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        FewbitsError: the model, the data or the metric cannot be used.
    """
    options, stages = run_options or RunOptions(), Stages(progress)
    named = check_metric(metric, higher_is_better)
    with stages.stage("load"):
        folder = output_folder(model)
        subject = model if folder is None else folder / names.ARTIFACT
        compared = reference if reference is not None or folder is None else reference_file(folder)
        runner, graph = _open(subject, dims, options)
        dataset = open_data(data, inputs=runner.inputs, preprocess=preprocess)
        chosen = named or default_metric(dataset, output_infos(graph))
        if chosen.needs_float and compared is None:
            raise MetricError(
                f"Metric {chosen.name!r} compares with a float model, and none was given: name it with --reference, or "
                f"choose a metric that labels decide, such as top1."
            )
        size = batch_size or _batch_size(graph)
        other = _open(compared, dims, options)[0] if chosen.needs_float and compared is not None else None
    with stages.stage("score", samples) as told:
        score = score_model(runner, dataset, chosen, limit=samples, batch_size=size, reference=other, progress=told)
    against = model_name(compared) if compared is not None and other is not None else None
    return EvaluateResult(score, model_name(subject), against, stages.seconds)


def _batch_size(graph: ir.Model) -> int:
    infer_shapes(graph)
    return choose_batch_size(graph.graph, [str(value.name) for node in graph.graph for value in node.outputs])


def _open(model: ModelLike, dims: Mapping[str, int] | None, options: RunOptions) -> tuple[Runner, ir.Model]:
    """Return a session of the file itself where nothing has to change in it, and its graph."""
    graph = load_model(model)
    if dims:
        fix_dims(graph, dims)
    elif isinstance(model, str | Path):
        return open_session(model, options=options), graph
    return open_graph(graph, options), graph
