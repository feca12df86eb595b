"""A first look at a model and its data, before any verb runs: do they load, do they fit, which metric would be taken.

In: what the user names. Out: inputs, outputs, what the data are; nothing is quantized and nothing is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.analysis.evaluate import require_labels
from fewbits.analysis.scores import Metric, default_metric, parse_metric
from fewbits.runtime.data import Dataset, InputInfo, Preprocess, open_data
from fewbits.runtime.data.images import has_images
from fewbits.runtime.session import RunOptions
from fewbits.workflow.sessions import open_graph, output_infos
from fewbits.workflow.source import open_source


@dataclass(frozen=True, slots=True)
class ModelLook:
    """What a model takes and gives.

    Attributes:
        inputs: in the model's order; open dimensions have names.
        outputs: in the model's order.
    """

    inputs: tuple[InputInfo, ...]
    outputs: tuple[InputInfo, ...]


def look_at_model(model: str, dims: Mapping[str, int] | None = None) -> ModelLook:
    """Return what a model takes and gives, after it was loaded into onnxruntime.

    Args:
        model: a path, or the output folder of an earlier run.
        dims: open dimension -> size.

    Raises:
        FewbitsError: it cannot be read, prepared or loaded, or has no such dimension.
    """
    graph = open_source(model, dims=dims, simplify=False).model
    return ModelLook(tuple(open_graph(graph, RunOptions(threads=1)).inputs), output_infos(graph))


def are_images(data: str) -> bool:
    """Say whether data are an image folder, which preprocessing is for."""
    folder = Path(data).expanduser()
    return folder.is_dir() and ((folder / "labels.csv").is_file() or has_images(folder))


def look_at_data(data: str, look: ModelLook, preprocess: Preprocess | None = None) -> Dataset:
    """Return data that fit a model, as their first sample shows.

    Args:
        data: any kind of data that verbs take.
        look: the model.
        preprocess: how images become inputs.

    Raises:
        DataError: there are no such data, or they do not fit.
    """
    opened = open_data(data, inputs=look.inputs, preprocess=preprocess)
    next(iter(opened.batches(1, 1)))
    return opened


def suggest_metric(data: Dataset, look: ModelLook) -> str:
    """Return the name of the metric that verbs take where the user names none."""
    return default_metric(data, look.outputs).name


def look_at_metric(name: str, data: Dataset, higher_is_better: bool | None = None) -> Metric:
    """Return the metric of that name, which the data allow.

    Raises:
        SpecError: there is no such metric, or it has another direction.
        MetricError: it needs labels that the data do not have, or the user's function cannot be loaded.
    """
    metric = parse_metric(name, higher_is_better=higher_is_better)
    require_labels(metric, data)
    return metric
