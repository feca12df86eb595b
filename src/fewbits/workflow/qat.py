"""Verb qat: step 5 of the workflow, without labels and without a training loop of the user's own."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import MissingExtraError
from fewbits.improvement.methods import Effort
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.training.schedule import Training
from fewbits.workflow.calibrate import SAMPLES, calibrate
from fewbits.workflow.convert import convert
from fewbits.workflow.improve import ImproveResult, run_verb
from fewbits.workflow.improve_models import with_biases
from fewbits.workflow.profiles import open_profile
from fewbits.workflow.qat_export import Exporter
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.scoring import MetricLike
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Watcher
from fewbits.workflow.writing import Options

if TYPE_CHECKING:
    from fewbits.training.torch_trainable import Trainable

PRECISION = "w4a8"
QAT = "gptq,qat"
"""Where training starts matters most where weights are narrow, and gptq takes seconds."""


def train(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    methods: Sequence[str] | str = QAT,
    training: Training | None = None,
    effort: Effort | None = None,
    clips: str = "exact",
    score_each: bool = False,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    eval_data: DataLike | None = None,
    profile: Mapping[str, str] | str | Path | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> ImproveResult:
    """Train the quantized model to give what the float model gives, on unlabelled data.

    Methods named before qat, which is last, make what training starts from; `training` says how long and how fast. The
    artifact has the trained weights, biases and scales; grids of weights and activations are pinned for every later
    verb. The other arguments are those of `improve`; needs torch.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name != "progress"}
    return run_verb("qat", {**options, "auto": False}, progress)


def trainable(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    target: str | Path | Target = DEFAULT_TARGET,
    profile: Mapping[str, str] | str | Path | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    samples: int = SAMPLES,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> "Trainable":
    """Return the quantized model as a torch module for a training loop of the user's own.

    Call it with tensors in the order of the model's inputs, or with a dict by name; it returns outputs by name. Its
    parameters are the weights and biases under their ONNX names, and the scales and zero points of the grids;
    `parameter_groups` sorts them for an optimizer. `export(output)` writes what `quantize` would.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose weights and pinned grids
            are where training starts.
        data: calibration data; ranges of activations start from it.
        precision: of every node that `profile` does not name.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        profile: node name -> precision, or a JSON or TOML file of such pairs.
        ranges: auto, minmax, mse, entropy or percentile:99.99: where ranges start.
        weight_ranges: auto, absmax or mse.
        samples: calibration samples at most.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        MissingExtraError: torch is missing.
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name not in ("progress", "model")}
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("Training needs torch: pip install 'fewbits[torch]'.")
    from fewbits.training.torch_trainable import Trainable

    wanted = open_profile(precision, profile)
    check_ranges(ranges, weight_ranges)
    calibration = calibrate(
        model, data=data, target=target, samples=samples, dims=dims, simplify=simplify, preprocess=preprocess,
        batch_size=batch_size, run_options=run_options, progress=progress,
    )  # fmt: skip
    made = quantize_calibrated(calibration, wanted, ranges=ranges, weight_ranges=weight_ranges)
    exporter = Exporter(calibration, made, options).export
    model = with_biases(calibration.model, made.plan, made.encoded)
    return Trainable(model, made.plan, made.encodings, exporter=exporter)


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    data: DataLike,
    precision: str = PRECISION,
    progress: Watcher | None = None,
    **options: Any,
) -> "Trainable":
    """Return the quantized form of a torch module as a module to train; see `trainable`, which takes the other options.

    The module is converted once, in evaluation mode: normalizations are folded into the layers before them.

    Args:
        module: a float model, trained.
        example_inputs: a tensor, a tuple of tensors, or a dict by argument name.
        data: calibration data.
        precision: of every node that `profile` does not name.
        progress: told of each stage.
        options: of `trainable`.

    Raises:
        FewbitsError: the module cannot be converted, or something that the caller gave cannot be used.
    """
    converted = convert(module, example_inputs, dynamic_batch=True, progress=progress)
    return trainable(converted.model, data=data, precision=precision, progress=progress, **options)
