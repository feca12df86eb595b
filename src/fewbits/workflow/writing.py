"""Write what every model-making verb hands over: artifact, float companion, encodings, samples, record."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from fewbits import __version__
from fewbits.artifact import names
from fewbits.artifact.converter_commands import converter_commands
from fewbits.artifact.converter_facts import read_facts
from fewbits.artifact.encodings_json import encodings_document
from fewbits.artifact.folder import file_facts, write_file
from fewbits.artifact.samples import Arrays, collect_samples, write_samples
from fewbits.graph.save import save_model
from fewbits.reporting.record import RunRecord, plain, write_json
from fewbits.runtime.data import Dataset
from fewbits.runtime.session import LargeSession, Runner, RunOptions, open_session
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan
from fewbits.spec.target import Target
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.source import Source

Options = dict[str, Any]


def write_models(folder: Path, calibration: Calibration, made: Quantized) -> None:
    """Write the artifact, its float companion and its encodings; and the float models it was improved from, if any.

    Raises:
        OutputError: they cannot be written.
    """
    LargeSession.rest()  # writing takes memory of its own
    save_model(made.model, folder / names.ARTIFACT)
    save_model(calibration.model, folder / names.FLOAT)
    source = calibration.source
    if source.reference is not None:
        save_model(source.reference, folder / names.REFERENCE)
    if source.pinned and source.unrounded is not None:
        save_model(source.unrounded, folder / names.UNROUNDED)
    write_encodings(folder, calibration.model, made.plan, made.encodings)


def write_encodings(folder: Path, model: ir.Model, plan: Plan, encodings: Mapping[str, Encoding]) -> None:
    """Write the encodings of a plan.

    Args:
        folder: the output folder.
        model: the float graph.
        plan: the grids.
        encodings: grid key -> encoding.

    Raises:
        OutputError: they cannot be written.
    """
    write_json(folder / names.ENCODINGS, encodings_document(model.graph, plan, encodings, producer=__version__))


def open_artifact(folder: Path, options: RunOptions) -> Runner:
    """Open the very file that is handed over, under the default policy."""
    return open_session(folder / names.ARTIFACT, options=options)


def write_samples_of(folder: Path, runner: Runner, calibration: Calibration) -> None:
    """Store the first few calibration samples with what the scored sim answers to them.

    Raises:
        OutputError: they cannot be written.
    """
    write_samples(folder / names.SAMPLES, collect_samples(runner, _feeds(calibration.subject.data)))


def write_commands(folder: Path, target: str, precisions: Collection[str]) -> None:
    """Write the command lines of Qualcomm's converters for the models, encodings and samples in `folder`.

    Args:
        folder: holds them.
        target: name of the target that the model was made for.
        precisions: that its nodes have.

    Raises:
        OutputError: they cannot be written.
    """
    write_file(folder / names.COMMANDS, converter_commands(read_facts(folder, target, precisions)).encode())


def _feeds(data: Dataset) -> Iterator[Arrays]:
    for batch in data.batches(1):
        yield batch.feeds


def record_run(
    verb: str,
    folder: Path,
    calibration: Calibration,
    scoring: Scoring,
    made: Quantized,
    *,
    scores: Mapping[str, Any],
    seconds: Mapping[str, float],
    options: Options,
) -> RunRecord:
    """Return the record of a run whose files are in `folder`."""
    return RunRecord(
        verb=verb,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options={name: described(value) for name, value in options.items() if value is not None},
        model=model_facts(calibration.source),
        data=data_facts(calibration, scoring, options),
        target=made.plan.target,
        precision=made.counts,
        declined=made.declined,
        profile={name: str(precision) for name, precision in made.profile.nodes.items()},
        scores=scores,
        timings={name: round(value, 4) for name, value in seconds.items()},
        widened=dict(made.encoded.widened),
        notes=(*made.notes, *calibration.source.notes),
        trials=made.trials,
        pinned=tuple(made.pinned),
        files=file_facts(folder),
    )


def write_record(folder: Path, record: RunRecord) -> None:
    """Write record.json.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(folder / names.RECORD, record.to_json().encode())


def described(value: Any) -> Any:
    """Return an option as the record shows it: text, numbers and paths as they are, the rest by kind."""
    if isinstance(value, Target):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, bytes | np.ndarray | onnx.ModelProto | ir.Model):
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return plain(value) if isinstance(value, str | int | float | bool | Path | tuple) else str(value)


def model_facts(source: Source) -> dict[str, Any]:
    """Return what records say of the model: where it comes from, what preparing changed, whether it was improved."""
    improved = {} if source.reference is None else {"improved": True, "reference": names.REFERENCE}
    return {
        "source": source.name,
        "sha256": source.sha256,
        "prepared": True,
        "changes": [
            {"pass": report.name, "changed": report.changed, "declined": [str(item) for item in report.declined]}
            for report in source.changes
        ],
        **improved,
    }


def data_facts(calibration: Calibration, scoring: Scoring | None, options: Options) -> dict[str, Any]:
    """Return what records say of the data; without `scoring`, of the calibration data only.

    Fingerprints are taken of data that lie still: files, folders, arrays; not of a loader, which may shuffle.
    """

    def facts(data: Dataset, given: Any, samples: int | None) -> dict[str, Any]:
        still = isinstance(given, str | Path | Mapping | np.ndarray)
        return {"name": data.name, "fingerprint": data.fingerprint if still else None, "samples": samples}

    calibrated = facts(calibration.subject.data, options["data"], calibration.statistics.samples)
    if scoring is None or scoring.is_on_calibration_data:
        return {"calibration": calibrated}
    return {"calibration": calibrated, "evaluation": facts(scoring.data, options["eval_data"], scoring.limit)}
