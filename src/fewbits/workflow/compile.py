"""Verbs compile and estimate: what Qualcomm's compiler makes of a model for one chip, checked, without the chip."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import sha256, temporary_folder
from fewbits.deployment.qnn import TIME_LIMIT_S, QnnJob, need_qnn, run_qnn
from fewbits.deployment.qnn_graph import CompiledTypes, compiled_types
from fewbits.deployment.qnn_profile import Estimate, read_estimate
from fewbits.deployment.qnn_worker import CONTEXT
from fewbits.errors import ModelError, OutputError, SpecError
from fewbits.graph.load import read_proto
from fewbits.reporting.record import machine, versions, write_json
from fewbits.runtime.data.types import Array
from fewbits.runtime.store import STORE, Store, key_of
from fewbits.spec.soc import Soc, find_soc, socs
from fewbits.workflow.stages import Stages, Watcher

BINARY = CONTEXT.replace(".onnx", "_qnn.bin")
DLC = "model.dlc"
REPORT = "compile.json"


@dataclass(frozen=True, slots=True)
class CompileResult:
    """What `compile` found.

    Attributes:
        soc: the chip.
        types: in which type every operator was compiled, against what the file says.
        estimate: the compiler's own, where it has one for the chip.
        binary_bytes: size of the context binary.
        files: what was written, by role: context, binary, dlc, report; empty where types differ or nothing is kept.
        seconds: stage -> wall time.
    """

    soc: Soc
    types: CompiledTypes
    estimate: Estimate | None
    binary_bytes: int
    files: Mapping[str, Path]
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every operator that was found has the type that the file says."""
        return not self.types.wrong


def compile(  # noqa: A001 - the verb's name; builtins.compile is not used here
    model: str | Path,
    *,
    soc: str | int,
    dims: Mapping[str, int] | None = None,
    output: str | Path | None = None,
    dlc: bool = False,
    time_limit_s: float = TIME_LIMIT_S,
    progress: Watcher | None = None,
) -> CompileResult:
    """Compile a model for a chip into a context binary, in a process of its own, and check what it runs in.

    Where an operator runs in another type than the file says, nothing is handed over but the report.

    Args:
        model: a QDQ or float16 ONNX file, or the output folder of a verb.
        soc: name or number of the chip, such as sm8650.
        dims: open dimension -> size; the compiler needs all of them.
        output: folder for context.onnx, context_qnn.bin, compile.json (and the DLC); None keeps nothing.
        dlc: write a DLC, too.
        time_limit_s: for each job of the compiler.
        progress: told of each stage.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        SpecError: the chip is unknown, or an open dimension has no size.
        ModelError: the compiler does not take the model; the message names nodes.
        OutputError: the files cannot be written.
    """
    need_qnn()
    job, stages = open_job(model, soc, dims), Stages(progress)
    with temporary_folder() as scratch:
        (scratch / "context").mkdir()
        (scratch / "dlc").mkdir()
        with stages.stage(f"compile for {job.soc.name}"):
            run_qnn(job, "compile", scratch / "context", time_limit_s=time_limit_s)
        types = compiled_types(job.model, scratch / "context")
        if dlc and not types.wrong:
            with stages.stage("write DLC"):
                run_qnn(job, "dlc", scratch / "dlc", time_limit_s=time_limit_s)
        binary = scratch / "context" / BINARY
        size = binary.stat().st_size if binary.is_file() else 0
        found = CompileResult(job.soc, types, read_estimate(scratch / "context"), size, {}, stages.seconds)
        if output is None:
            return found
        return _kept(found, job, scratch, Path(output))


def _kept(found: CompileResult, job: QnnJob, scratch: Path, folder: Path) -> CompileResult:
    """Copy the files out, the report last; those of an earlier run go."""
    made = {CONTEXT: scratch / "context" / CONTEXT, BINARY: scratch / "context" / BINARY}
    if dlc := next(iter((scratch / "dlc").glob("*.dlc")), None):
        made[DLC] = dlc
    roles = {CONTEXT: "context", BINARY: "binary", DLC: "dlc"}
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, role in roles.items():
            (folder / name).unlink(missing_ok=True)
            if found.passed and name in made:
                files[role] = folder / name
                partial = folder / f".{name}.partial"
                shutil.copyfile(made[name], partial)
                partial.replace(files[role])
    except OSError as error:
        raise OutputError(f"Cannot write to {str(folder)!r}: {error.strerror or error}. Choose another -o.") from error
    files["report"] = folder / REPORT
    document = {
        "model": {"file": job.model.name, "sha256": sha256(job.model)},
        "dims": dict(job.dims),
        "versions": versions(),
        "machine": machine(),
        **asdict(found),
        "files": {role: path.name for role, path in files.items()},
    }
    write_json(files["report"], document)
    return CompileResult(found.soc, found.types, found.estimate, found.binary_bytes, files, found.seconds)


@dataclass(frozen=True, slots=True)
class EstimateResult:
    """The compiler's estimate of a model's latency on one chip: simulated, nothing ran.

    Attributes:
        soc: the chip.
        estimate: latency with bounds, traffic.
        binary_bytes: size of the context binary.
        is_cached: it was known from before.
    """

    soc: Soc
    estimate: Estimate
    binary_bytes: int
    is_cached: bool


def estimate(
    model: str | Path,
    *,
    soc: str | int,
    dims: Mapping[str, int] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    progress: Watcher | None = None,
) -> EstimateResult:
    """Return how long the compiler says that a model takes on a chip.

    What was estimated before is kept in the run's folder, by content of the model, chip, sizes and versions.

    Args:
        model: a QDQ or float16 ONNX file, or the output folder of a verb.
        soc: name or number of a chip that has estimates, such as soc77.
        dims: open dimension -> size.
        time_limit_s: for the compiler.
        progress: told of each stage.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        SpecError: the chip is unknown or has no estimates, or an open dimension has no size.
        ModelError: the compiler does not take the model, runs it in other types, or has no cost for an operator.
    """
    chip = find_soc(soc)
    if not chip.estimates:
        known = ", ".join(other.name for other in socs() if other.estimates)
        raise SpecError(f"The compiler has no latency estimates for {chip.name}: it has them for {known}.")
    need_qnn()
    job = open_job(model, soc, dims)
    path = Path(model) / STORE if Path(model).is_dir() else None
    key = key_of("estimate", _contents(job.model), chip.id, dict(job.dims), versions())
    with Store(path) as store:
        known_figures = store.get(key)
        if known_figures is None:
            made = compile(model, soc=soc, dims=dims, time_limit_s=time_limit_s, progress=progress)
            known_figures = {**asdict(_usable(made)), "binary_bytes": made.binary_bytes}
            store.put(key, known_figures)
            is_cached = False
        else:
            is_cached = True
    size = known_figures.pop("binary_bytes")
    return EstimateResult(chip, Estimate(**known_figures), size, is_cached)


def _contents(model: Path) -> list[str]:
    """Return the content hashes of a model and of the files that hold its weights."""
    weights = (entry for tensor in read_proto(model).graph.initializer for entry in tensor.external_data)
    files = sorted({model.parent / entry.value for entry in weights if entry.key == "location"})
    return [sha256(file) for file in (model, *files) if file.is_file()]  # the compiler says what is missing


def _usable(made: CompileResult) -> Estimate:
    if made.types.wrong:
        name, op, planned, compiled = made.types.wrong[0]
        raise ModelError(
            f"An estimate would be of another model: {op} {name!r} is {planned} in the file and was compiled in "
            f"{compiled}. See `fewbits compile`."
        )
    if made.estimate is None:
        raise ModelError(f"The compiler gave no estimate for {made.soc.name}: try another chip.")
    if made.estimate.missing_ops:
        raise ModelError(
            f"The compiler has no cost for {made.estimate.missing_ops} operators of this model on {made.soc.name}: its "
            f"estimate says nothing."
        )
    return made.estimate


def open_job(model: str | Path, soc: str | int, dims: Mapping[str, int] | None) -> QnnJob:
    """Return the job for a model file or an output folder, with every open dimension fixed.

    Raises:
        SpecError: the chip is unknown, or an open dimension has no size or does not exist.
        ModelError: the file cannot be read.
    """
    path, chip, given = Path(model), find_soc(soc), dict(dims or {})
    path = path / names.ARTIFACT if path.is_dir() else path
    check_dims(path, given, "Qualcomm's compiler")
    return QnnJob(path, chip, given)


def check_dims(model: Path, dims: Mapping[str, int], who: str) -> None:
    """Refuse sizes that leave a dimension of the model open, or that fit none.

    Args:
        model: the ONNX file.
        dims: open dimension -> size.
        who: needs all of them.

    Raises:
        SpecError: an open dimension has no size, a wrong one, or does not exist.
        ModelError: the file cannot be read.
    """
    wanted = {dim for axes in open_dims_of(model).values() for dim in axes.values()}
    if missing := sorted(wanted - set(dims)):
        words = " ".join(f"--dim {name}=1" for name in missing)
        raise SpecError(f"{who} needs the size of every dimension: add, with your sizes, {words}.")
    if unknown := sorted(set(dims) - wanted):
        raise SpecError(
            f"The model has no open dimension {unknown[0]!r}: it has {', '.join(sorted(wanted)) or 'none'}."
        )
    if small := [name for name, size in dims.items() if size < 1]:
        raise SpecError(f"--dim {small[0]}={dims[small[0]]} is no size: write 1 or more.")


def dims_of(model: Path, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return open dimension of a model file -> the size that these feeds give it.

    Raises:
        ModelError: the file cannot be read.
    """
    axes = open_dims_of(model)
    return {dim: int(feeds[name].shape[axis]) for name, of in axes.items() for axis, dim in of.items()}


def open_dims_of(model: Path) -> dict[str, dict[int, str]]:
    """Return input -> axis -> name of its open dimensions.

    Raises:
        ModelError: the file cannot be read.
    """
    return {
        value.name: {axis: dim.dim_param for axis, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
        for value in read_proto(model).graph.input
    }
