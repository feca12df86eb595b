"""Verb convert: from a PyTorch model to ONNX, and the proof that both compute the same."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import DataError, MissingExtraError, ModelError, SpecError
from fewbits.graph.load import load_model
from fewbits.graph.save import save_model
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.data import InputInfo, Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import Runner, RunOptions
from fewbits.workflow.parity import SEED, Feeds, Parity, measure, random_feeds
from fewbits.workflow.sessions import open_graph, output_infos
from fewbits.workflow.stages import Stages, Watcher

if TYPE_CHECKING:
    from fewbits.runtime.torch_export import Exported
    from fewbits.runtime.torch_model import TorchModel

logger = logging.getLogger(__name__)

OPSET = 21
SAMPLES = 16
# float32 keeps 24 bits: equal graphs differ by their order of sums only and stay above 90 dB even when they are deep,
# a wrong operator or weight is far below 60. float16 keeps 11 bits, and ONNX Runtime's CPU computes it in float32.
# Of integers and booleans, mostly decisions, one in a thousand may flip where two scores tie.
MIN_SQNR_DB = {"f8": 60.0, "f4": 60.0, "f2": 40.0}
MIN_SQNR_DB_OF_INTEGERS = 30.0

Dynamic = Mapping[str, Mapping[int, str]]
InputShapes = Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class ConvertResult:
    """What `convert` made.

    Attributes:
        model: the ONNX graph; it shares no memory with the module.
        output: where it was written, or None.
        inputs: names, types and shapes; an open dimension is a name.
        outputs: the same of the outputs.
        opset: ONNX operator set.
        nodes: nodes of the graph.
        parity: ONNX against torch: on the example inputs, on a drawn batch, at other sizes where dimensions are open,
            and on the data where they are given.
        seconds: stage -> wall time.
    """

    model: ir.Model
    output: Path | None
    inputs: tuple[InputInfo, ...]
    outputs: tuple[InputInfo, ...]
    opset: int
    nodes: int
    parity: tuple[Parity, ...]
    seconds: Mapping[str, float]


def convert(
    module: Any,
    example_inputs: Any = None,
    *,
    output: str | Path | None = None,
    input_shapes: InputShapes | None = None,
    input_dtypes: str | Mapping[str, str] | None = None,
    weights: str | Path | None = None,
    dynamic_batch: bool = False,
    dynamic: Dynamic | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSET,
    data: DataLike | None = None,
    samples: int = SAMPLES,
    preprocess: Preprocess | None = None,
    min_sqnr_db: float | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> ConvertResult:
    """Convert a PyTorch model to ONNX, run both on the same inputs, and write the file where they agree.

    The model is exported in evaluation mode by `torch.export`; afterwards every part of it is back in its own mode.
    Naming a file or a package runs its code; a saved program is to be trusted like one.

    Args:
        module: an `nn.Module`, a `torch.export.ExportedProgram`, a .pt2 file, or `file.py:factory` or
            `pkg.module:factory`, where the factory is a module or a function without arguments that returns one.
        example_inputs: a tensor, a tuple of tensors in the order of `forward`, or a dict by argument name; arrays will
            do. A saved program brings its own.
        output: an .onnx file; None writes nothing.
        input_shapes: makes random inputs instead: shapes in the order of `forward`, or by argument name.
        input_dtypes: type of these, such as int64: one for all, or by argument name; float32 where it is left out.
        weights: a state dict (torch.save) to load into the module first.
        dynamic_batch: leave axis 0 open in every input that has the size of the first there.
        dynamic: input -> axis -> name of an open dimension.
        output_names: names of the outputs, in order.
        opset: ONNX operator set, 18 or newer.
        data: samples to compare on as well.
        samples: of `data` at most.
        preprocess: how images become inputs.
        min_sqnr_db: what every output must reach against torch; None chooses by its type.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        MissingExtraError: torch is not installed.
        ModelError: the model cannot be loaded or exported, gives NaN, or its ONNX form computes something else.
        FewbitsError: an option or the data cannot be used, or the file cannot be written.
    """
    _require_torch()
    from fewbits.runtime import torch_export, torch_load, torch_model

    stages = Stages(progress)
    with stages.stage("load"):
        found = torch_load.load_torch(module, weights)
    with torch_model.evaluating(found):
        with stages.stage("export"):
            model, example = _example(found, example_inputs, input_shapes, input_dtypes)
            model = replace(model, outputs=tuple(output_names or ()))
            axes = _dynamic_axes(model, example, dynamic_batch=dynamic_batch, dynamic=dynamic)
            names = tuple(torch_model.check_model(model, example))
            exported = torch_export.export_onnx(model, example, outputs=names, dynamic=axes, opset=opset)
        with stages.stage("compare"):
            graph = load_model(exported.model)
            runner, outputs = open_graph(graph, run_options or RunOptions()), output_infos(graph)
            parity = [*_parity(model, runner, exported, example)]
            if data is not None:
                dataset = open_data(data, inputs=runner.inputs, preprocess=preprocess)
                parity.append(measure(model, runner, (b.feeds for b in dataset.batches(1, samples)), "the data"))
            _require_parity(parity, outputs, min_sqnr_db)
    if output is not None:
        with stages.stage("write"):
            save_model(graph, output)
    path, nodes = None if output is None else Path(output), sum(1 for _ in graph.graph)
    return ConvertResult(graph, path, runner.inputs, outputs, opset, nodes, tuple(parity), stages.seconds)


def _require_torch() -> None:
    try:
        from fewbits.runtime import torch_load  # noqa: F401 - torch_load imports torch
    except ImportError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        raise MissingExtraError("Converting a torch model needs torch: pip install 'fewbits[torch]'.") from error


def _example(
    found: Any, given: Any, shapes: InputShapes | None, dtypes: str | Mapping[str, str] | None
) -> tuple["TorchModel", Feeds]:
    """Return the bound model and its example inputs, as they are given or drawn for the shapes."""
    from fewbits.runtime import torch_model

    if shapes is None:
        if dtypes is not None:
            raise SpecError(
                "Input types are for inputs made from shapes: add --input-shape, or leave --input-dtype out."
            )
        is_one = given is not None and not isinstance(given, Mapping | tuple | list)
        model, named = torch_model.bind(found, (given,) if is_one else given)
        return model, torch_model.as_arrays(named)
    if given is not None:
        raise SpecError("Example inputs and input shapes are two ways to say one thing: give one of them.")
    if not isinstance(shapes, Mapping) and all(isinstance(size, int) for size in shapes):
        shapes = [shapes]  # type: ignore[list-item]
    model, named = torch_model.bind(found, shapes)
    return model, next(random_feeds(_infos(named, dtypes), 1))


def _infos(shapes: Mapping[str, Any], dtypes: str | Mapping[str, str] | None) -> list[InputInfo]:
    by_name = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(shapes, dtypes or "float32")
    if unknown := [name for name in by_name if name not in shapes]:
        raise SpecError(f"A type is given for {unknown[0]!r}; the inputs are {', '.join(map(repr, shapes))}.")
    infos = []
    for name, shape in shapes.items():
        text = by_name.get(name, "float32")
        try:
            dtype = np.dtype(text)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "fiub":
            raise SpecError(
                f"Input {name!r} cannot have the type {text!r}: use float32, float16, int64, int32 or bool."
            )
        infos.append(InputInfo(name, dtype, tuple(shape)))
    return infos


def _dynamic_axes(
    model: "TorchModel", example: Feeds, *, dynamic_batch: bool, dynamic: Dynamic | None
) -> dict[str, dict[int, str]]:
    """Return input -> axis -> name of the open dimension, checked against the example inputs."""
    if model.program is not None and (dynamic_batch or dynamic):
        raise SpecError(
            "A saved program keeps the dimensions that it was exported with: export it again with dynamic_shapes, and "
            "leave --dynamic-batch and --dynamic out."
        )
    axes: dict[str, dict[int, str]] = {name: {} for name in example}
    if dynamic_batch:
        sizes = {name: array.shape[0] for name, array in example.items() if array.ndim}
        first = next(iter(sizes.values()), None)
        axes |= {name: {0: "batch"} for name, size in sizes.items() if size == first}
    for name, wanted in (dynamic or {}).items():
        if name not in example:
            raise SpecError(
                f"There is no input {name!r} to leave open: the inputs are {', '.join(map(repr, example))}."
            )
        for axis, dim in wanted.items():
            if not 0 <= axis < example[name].ndim:
                raise SpecError(f"Input {name!r} has no axis {axis}: its shape is {list(example[name].shape)}.")
            if not dim.isidentifier():
                raise SpecError(f"An open dimension cannot be called {dim!r}: use letters, digits and underscores.")
            axes[name][axis] = dim
    return {name: found for name, found in axes.items() if found}


def _parity(model: "TorchModel", runner: Runner, exported: "Exported", example: Feeds) -> Iterator[Parity]:
    rng = np.random.default_rng(SEED)
    yield _compare(model, runner, example, "the example inputs")
    drawn = {name: _drawn(array, array.shape, rng) for name, array in example.items()}
    _note_constants(model, example, drawn)
    yield _compare(model, runner, drawn, "drawn inputs")
    for shapes in exported.other_shapes():
        drawn = {name: _drawn(array, shapes[name], rng) for name, array in example.items()}
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        yield _compare(model, runner, drawn, f"other sizes: {sizes}")


def _drawn(array: npt.NDArray[np.generic], shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """Draw from the values of the example, which are valid where others may not be; of a constant make normal floats,
    of zeros 0 and 1.
    """
    values = np.unique(array)
    if len(values) == 1 and array.dtype.kind == "f":
        return rng.standard_normal(shape).astype(array.dtype)
    if len(values) == 1 and array.dtype.kind in "iu" and values[0] == 0:
        return rng.integers(0, 2, shape).astype(array.dtype)
    return np.asarray(rng.choice(array.ravel(), shape), dtype=array.dtype)


def _note_constants(model: "TorchModel", example: Feeds, drawn: Feeds) -> None:
    """Say which outputs do not depend on the inputs: there, the comparison shows little."""
    try:
        left, right = model(example), model(drawn)
    except DataError:
        return
    for name, array in left.items():
        is_float = array.dtype.kind == "f" and array.size > 0 and array.shape == right[name].shape
        if is_float and sqnr_db(array, right[name]) > MIN_SQNR_DB["f4"]:
            logger.warning("output %r hardly changes with the inputs: are the trained weights loaded?", name)


def _compare(model: "TorchModel", runner: Runner, feeds: Feeds, label: str) -> Parity:
    try:
        wanted = model(feeds)
    except DataError as error:
        return Parity(label, 0, {}, {}, str(error))
    if holed := [name for name, array in wanted.items() if array.dtype.kind == "f" and np.isnan(array).any()]:
        return Parity(label, 0, {}, {}, f"torch itself gives NaN in {holed[0]!r}")
    try:
        return measure(lambda _: wanted, runner, [feeds], label)
    except DataError as error:
        raise ModelError(
            f"The ONNX model fails on {label}, where torch does not: {error} Leave that dimension static, or change "
            f"the code that it comes from."
        ) from error


def _require_parity(parity: Sequence[Parity], outputs: Sequence[InputInfo], min_sqnr_db: float | None) -> None:
    dtypes = {info.name: info.dtype for info in outputs}
    for one in parity:
        for name, found in one.sqnr_db.items():
            dtype, largest = dtypes[name], one.max_abs[name]
            limit = MIN_SQNR_DB.get(dtype.str[1:], MIN_SQNR_DB_OF_INTEGERS) if min_sqnr_db is None else min_sqnr_db
            is_noise_on_zeros = found == -np.inf and 0 < largest < 1e-5
            if found is None or found >= limit or is_noise_on_zeros:
                continue
            raise ModelError(
                f"Output {name!r} of the ONNX model is only {found:.1f} dB from torch's on {one.feeds} (largest "
                f"difference {largest:.3g}), and {dtype} must reach {limit:g} dB: look for random numbers or state in "
                f"forward, or accept the figure with --min-sqnr."
            )
