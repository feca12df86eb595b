"""Verbs import and apply-encodings: grids that others chose, as an output folder that every other verb takes."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import onnx_ir as ir

from fewbits.artifact import names
from fewbits.artifact.encodings_read import read_given
from fewbits.artifact.folder import file_facts, sha256, staged, temporary_folder
from fewbits.artifact.samples import collect_samples, write_samples
from fewbits.errors import OutputError
from fewbits.graph.load import load_model, read_proto
from fewbits.graph.opset import raise_opset
from fewbits.graph.passes import constants
from fewbits.graph.save import save_model
from fewbits.graph.shapes import fix_dims, infer_shapes
from fewbits.quantization.adopt import Adopted, adopt
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.strip import Stripped, strip_qdq
from fewbits.reporting.record import RunRecord
from fewbits.runtime.data import Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.given import GivenGrids
from fewbits.spec.plan import Plan, Role
from fewbits.spec.target import DEFAULT_TARGET, Target, load_target
from fewbits.workflow.lint import LintResult, lint
from fewbits.workflow.parity import Feeds, Parity, measure, random_feeds
from fewbits.workflow.source import check_loads
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.writing import write_commands, write_encodings, write_record

SAMPLES = 4
"""Samples of the data that are stored and compared, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class AdoptResult:
    """A model on grids that were given.

    Attributes:
        output: the folder.
        adopted: the plan, its encodings, notes.
        parity: of what the plan says with the file as it is (import) or with the float model (apply-encodings).
        lint: what the target will refuse or change.
        record: what was written to record.json.
        seconds: stage -> wall time.
    """

    output: Path
    adopted: Adopted
    parity: Parity
    lint: LintResult
    record: RunRecord
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Task:
    """What both verbs are asked for."""

    verb: str
    source: Path
    target: Target
    data: DataLike | None
    preprocess: Preprocess | None
    options: RunOptions
    dims: Mapping[str, int] | None = None
    encodings: Path | None = None


def apply_encodings(
    model: str | Path,
    encodings: str | Path,
    *,
    output: str | Path,
    target: str | Path | Target = DEFAULT_TARGET,
    data: DataLike | None = None,
    dims: Mapping[str, int] | None = None,
    preprocess: Preprocess | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> AdoptResult:
    """Make the QDQ model that a float model and an encodings file describe; no data are needed.

    Args:
        model: the float ONNX file that the encodings were made for; it is not simplified, so that names hold.
        encodings: AIMET's layout 0.6.1, 1.0.0 or 2.0.0, from AIMET or from fewbits.
        output: folder for the files.
        target: device whose rules the result is held against; it changes nothing.
        data: samples to store beside the artifact, and to compare on; None compares on random feeds.
        dims: open dimension -> size.
        preprocess: how images become inputs.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        FewbitsError: a file cannot be read, the two do not belong together, or the folder cannot be written.
    """
    device, options = load_target(target), run_options or RunOptions()
    task = _Task("apply-encodings", Path(model), device, data, preprocess, options, dims, Path(encodings))
    stages = Stages(progress)
    with stages.stage("read"):
        graph = load_model(task.source)
        constants.run(graph)
        if dims:
            fix_dims(graph, dims)
        graph, _ = raise_opset(graph, check=check_loads)
        infer_shapes(graph)
        given = read_given(encodings, graph.graph, is_full_range=True)
    with staged(output) as folder:
        with stages.stage("quantize"):
            adopted = adopt(graph, given, task.target.name)
            save_model(insert_qdq(graph, adopted.plan, adopted.encoded), folder / names.ARTIFACT)
            save_model(graph, folder / names.FLOAT)
        parity = _compare(folder / names.FLOAT, folder / names.ARTIFACT, folder, task, stages)
        record = _finished(task, graph, given, adopted, folder)
        found = lint(folder / names.ARTIFACT, target=task.target)
    return AdoptResult(Path(output), adopted, parity, found, record, stages.seconds)


def import_qdq(
    model: str | Path,
    *,
    output: str | Path,
    target: str | Path | Target = DEFAULT_TARGET,
    data: DataLike | None = None,
    preprocess: Preprocess | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> AdoptResult:
    """Take in anyone's QDQ model: the file as it is, the float model behind it, plan and encodings.

    The float model holds the values that the stored integers stand for. That nothing was lost is shown by rebuilding
    the QDQ model from it and comparing the outputs of both, executed exactly as written.

    Args:
        model: a QDQ ONNX file, whoever wrote it.
        output: folder for the files; other verbs take it as MODEL and keep its grids.
        target: device whose rules the file is held against; it changes nothing.
        data: samples to store beside the artifact, and to compare on; None compares on random feeds.
        preprocess: how images become inputs.
        run_options: provider and threads.
        progress: told of each stage.

    Raises:
        FewbitsError: the file cannot be read or is no QDQ model, or the folder cannot be written.
    """
    task = _Task("import", Path(model), load_target(target), data, preprocess, run_options or RunOptions())
    stages = Stages(progress)
    with stages.stage("read"):
        stripped = open_qdq(task.source)
        graph, _ = raise_opset(stripped.model, check=check_loads)
        infer_shapes(graph)
    with staged(output) as folder:
        with stages.stage("write"):
            adopted = _with_clamps(adopt(graph, stripped.given, task.target.name, is_complete=True), stripped.clamps)
            _copy(task.source, folder / names.ARTIFACT)
            save_model(graph, folder / names.FLOAT)
        with temporary_folder() as scratch:
            save_model(insert_qdq(graph, adopted.plan, adopted.encoded), scratch / names.ARTIFACT)
            parity = _compare(folder / names.ARTIFACT, scratch / names.ARTIFACT, folder, task, stages)
        record = _finished(task, graph, stripped.given, adopted, folder)
        found = lint(folder / names.ARTIFACT, target=task.target)
    return AdoptResult(Path(output), adopted, parity, found, record, stages.seconds)


def open_qdq(path: Path) -> Stripped:
    """Return the float graph behind a QDQ file, and its grids.

    Raises:
        ModelError: the file cannot be read, or is no QDQ model.
    """
    model = load_model(path)
    constants.run(model)
    infer_shapes(model)
    stripped = strip_qdq(model, f"the model file {str(path)!r}")
    infer_shapes(stripped.model)
    return stripped


def _with_clamps(adopted: Adopted, count: int) -> Adopted:
    if not count:
        return adopted
    note = (
        f"{count} operators write grids that start at 0, and the file has no Relu: the float model got a Relu (a Clip "
        f"where the grid ends at 6) behind each, which the grids stood for."
    )
    return replace(adopted, notes=(note, *adopted.notes))


def _compare(reference: Path, test: Path, folder: Path, task: _Task, stages: Stages) -> Parity:
    """Compare two files, executed as written, on the data or on random feeds; store the data's first samples."""
    with stages.stage("compare"):
        left = open_session(reference, policy=SessionPolicy.EXACT, options=task.options)
        right = open_session(test, policy=SessionPolicy.EXACT, options=task.options)
        if task.data is None:
            return measure(left, right, random_feeds(left.inputs, SAMPLES), "random feeds")
        dataset = open_data(task.data, inputs=left.inputs, preprocess=task.preprocess)
        feeds: list[Feeds] = [batch.feeds for batch in dataset.batches(1, SAMPLES)]
        artifact = open_session(folder / names.ARTIFACT, options=task.options)
        write_samples(folder / names.SAMPLES, collect_samples(artifact, feeds))
        return measure(left, right, feeds, "the data")


def _copy(source: Path, target: Path) -> None:
    """Copy a model file as it is, or write it anew where its weights lie in files beside it."""
    is_external = any(t.data_location == t.EXTERNAL for t in read_proto(source).graph.initializer)
    if is_external:
        save_model(load_model(source), target)
        return
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise OutputError(f"Cannot write {target.name}: {error.strerror or error}. Choose another -o.") from error


def _finished(task: _Task, graph: ir.Model, given: GivenGrids, adopted: Adopted, folder: Path) -> RunRecord:
    """Write encodings and record into `folder`, where the models lie already."""
    plan = adopted.plan
    write_encodings(folder, graph, plan, adopted.encoded.encodings)
    counts = Counter(str(node.precision) for node in plan.nodes.values())
    usual = next((name for name, _ in counts.most_common() if name != "fp32"), "fp32")
    differing = {name: node for name, node in plan.nodes.items() if str(node.precision) != usual and not node.reason}
    options = {"precision": usual, "target": task.target.name, "dims": dict(task.dims or {})}
    record = RunRecord(
        verb=task.verb,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options=options if task.encodings is None else {**options, "encodings": str(task.encodings)},
        model={"source": str(task.source), "sha256": sha256(task.source), "prepared": True, "changes": []},
        data={},
        target=task.target.name,
        precision=dict(counts.most_common()),
        declined={},
        profile={name: str(node.precision) for name, node in differing.items()},
        scores={},
        timings={},
        widened={},
        notes=adopted.notes,
        pinned=_pinned(plan, given),
        trials=(),
        files=file_facts(folder),
    )
    write_commands(folder, task.target.name, counts)
    write_record(folder, record)
    return record


def _pinned(plan: Plan, given: GivenGrids) -> tuple[str, ...]:
    """Return the tensors whose grids later runs keep: all that were given, but biases, which follow from the others."""
    kept = [key for key in given.encodings if key in plan.grids and key not in given.tensors]
    return tuple(key for key in kept if plan.grids[key].role is not Role.BIAS)
