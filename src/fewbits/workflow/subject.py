"""A float model ready to run, with its data and its target: what every verb that scores or calibrates begins with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from fewbits.runtime.data import Dataset, Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.data.types import Array
from fewbits.runtime.memory import Ceiling
from fewbits.runtime.session import Runner, RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target, load_target
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.source import ModelLike, Source, open_source


@dataclass(frozen=True, eq=False)
class Subject:
    """A float model ready to run.

    Attributes:
        source: the prepared model and where it comes from.
        target: the device.
        data: calibration data.
        runner: the float model that is quantized.
        reference: the float model that scores and errors are taken against; `runner` itself, unless an improver gave
            that one other weights.
        options: how models run.
        batch_size: samples per call; None where the caller leaves it to fewbits.
        ceiling: memory that the process may take; None sets no limit. See `ceiling.hold`.
    """

    source: Source
    target: Target
    data: Dataset
    runner: Runner
    reference: Runner
    options: RunOptions
    batch_size: int | None = None
    ceiling: Ceiling | None = None

    @property
    def model(self) -> ir.Model:
        """The prepared float graph."""
        return self.source.model

    @property
    def reference_model(self) -> ir.Model:
        """The prepared float graph that scores and errors are taken against."""
        return self.source.model if self.source.reference is None else self.source.reference

    @cached_property
    def first_feeds(self) -> Mapping[str, Array]:
        """The first calibration sample, as a batch of one; read once."""
        return next(iter(self.data.batches(1, 1))).feeds


def open_subject(
    model: ModelLike,
    *,
    data: DataLike,
    target: str | Path | Target = DEFAULT_TARGET,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
) -> Subject:
    """Prepare a model, load it, and open its calibration data; nothing runs yet.

    Args:
        model: a path, bytes, a model in memory, or an output folder.
        data: calibration data.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call.
        run_options: provider and threads.

    Raises:
        FewbitsError: the model, the data or an option cannot be used.
    """
    device = load_target(target)
    options = run_options or RunOptions()
    options.provider_name()
    source = open_source(model, dims=dims, simplify=simplify, options=options)
    runner = open_graph(source.model, options)
    reference = runner if source.reference is None else open_graph(source.reference, options)
    dataset = open_data(data, inputs=runner.inputs, preprocess=preprocess)
    return Subject(source, device, dataset, runner, reference, options, batch_size)
