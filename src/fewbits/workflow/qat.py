"""Step 5 of the workflow: training by a verb, which needs no labels, or a module for a loop of the user's own."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import SpecError
from fewbits.improvement.methods import Kind, parse_methods
from fewbits.runtime.data.open import DataLike
from fewbits.training.schedule import Training
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.convert import convert
from fewbits.workflow.improve import ImproveResult, improve, need_torch, run_verb
from fewbits.workflow.improve_models import floating_model, with_biases
from fewbits.workflow.profiles import open_profile
from fewbits.workflow.qat_export import Exporter
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.ranges import check_ranges
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
    progress: Watcher | None = None,
    **options: Any,
) -> ImproveResult:
    """Train the quantized model to give what the float model gives, on data that need no labels.

    The artifact has the trained weights, biases and scales; grids of weights and activations are pinned for every later
    verb. Needs torch.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run.
        data: what is trained on, and what calibrates; labels are read only where `training` asks for them.
        precision: of every node that `profile` does not name.
        methods: qat last; those of step 4 before it make what training starts from.
        training: how long and how fast.
        progress: told of each stage.
        options: those of `improve`.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    if all(method.kind is not Kind.TRAIN for method in parse_methods(methods)):
        raise SpecError("No method that trains was named: end --method with qat, or run fewbits improve.")
    given = {"data": data, "precision": precision, "methods": methods, "training": training, "auto": False}
    bound = inspect.signature(improve).bind(model, **given, **options)
    bound.apply_defaults()
    named: Options = {name: value for name, value in bound.arguments.items() if name != "progress"}
    return run_verb("qat", named, progress)


def trainable(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    profile: Mapping[str, str] | str | Path | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    **options: Any,
) -> "Trainable":
    """Return the quantized model as a torch module for a training loop of the user's own.

    Call it with tensors in the order of the model's inputs, or with a dict by name; it returns outputs by name. Its
    parameters are the weights and biases under their ONNX names, and the scales and zero points of the grids;
    `parameter_groups` sorts them for an optimizer. `export(output)` writes what `quantize` would. Dropout and the like
    are not in the graph: train and evaluation mode differ in that biases are rounded in the latter only.

    The names are those of the prepared file and the same in every process. `Trainable` says what works in a loop
    (checkpoints, autocast, recomputation, DistributedDataParallel, averaged copies) and what does not (other types than
    float32, pickling, torch.compile for speed).

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose weights and pinned grids
            are where training starts.
        data: calibration data; ranges of activations start from it.
        precision: of every node that `profile` does not name.
        profile: node name -> precision, or a JSON or TOML file of such pairs.
        ranges: auto, minmax, mse, entropy or percentile:99.99: where ranges start.
        weight_ranges: auto, absmax or mse.
        options: those of `calibrate`: target, samples, dims, preprocess, run_options ...

    Raises:
        MissingExtraError: torch is missing.
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    need_torch("qat")
    from fewbits.training.torch_trainable import Trainable

    wanted = open_profile(precision, profile)
    check_ranges(ranges, weight_ranges)
    bound = inspect.signature(calibrate).bind(model, data=data, **options)
    bound.apply_defaults()
    calibration = calibrate(**bound.arguments)
    made = quantize_calibrated(calibration, wanted, ranges=ranges, weight_ranges=weight_ranges)
    named: Options = {name: bound.arguments[name] for name in bound.arguments if name not in ("model", "progress")}
    named |= {"precision": precision, "profile": profile, "ranges": ranges, "weight_ranges": weight_ranges}
    model = with_biases(calibration.model, made.plan, made.encoded)
    exporter, (reference, _, _) = Exporter(calibration, made, named), floating_model(calibration.subject)
    return Trainable(model, made.plan, made.encodings, exporter=exporter.export, reference=reference)


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    data: DataLike,
    precision: str = PRECISION,
    progress: Watcher | None = None,
    **options: Any,
) -> "Trainable":
    """Return the quantized form of a torch module as a module to train.

    The module is converted once, in evaluation mode: BatchNorms are folded into the layers before them, dropout is
    gone, and what `forward` decides in Python is decided. Outputs are called `output`, or as the module names them.
    Parameters have the names of the module's own; a folded bias is called after its weight (`stem.0.weight_bias`).
    Grids are called after tensors of the exported graph, whose names are the same in every process but may change with
    the version of torch: to keep checkpoints over an upgrade, convert once (`fewbits.convert`) and make the module from
    the file by `trainable`.

    `torch_state_dict(module)` gives trained weights back to the torch module, and `load_torch(module)` takes new ones
    from it.

    Args:
        module: a float model, trained; it is not changed, and not kept.
        example_inputs: a tensor, a tuple of tensors, or a dict by argument name.
        data: calibration data.
        precision: of every node that `profile` does not name.
        progress: told of each stage.
        options: those of `trainable`.

    Raises:
        FewbitsError: the module cannot be converted, or something that the caller gave cannot be used.
    """
    converted = convert(module, example_inputs, dynamic_batch=True, progress=progress)
    made = trainable(converted.model, data=data, precision=precision, progress=progress, **options)
    made.name_after(module)
    return made
