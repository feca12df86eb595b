"""Verb verify at another place: what Qualcomm's emulator, or OpenVINO, makes of an artifact, against the simulation."""

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewbits.artifact import names
from fewbits.artifact.folder import reference_file, temporary_folder
from fewbits.artifact.samples import Arrays, Samples
from fewbits.deployment.fresh import Job, run_fresh
from fewbits.deployment.place_certificate import (
    PlaceCertificate,
    compare_outputs,
    limits_of,
    not_proven_of,
)
from fewbits.deployment.places import Place, PlaceJob
from fewbits.deployment.qnn_graph import CompiledTypes, compiled_types
from fewbits.quantization.adopt import adopt
from fewbits.reporting.record import RunRecord, machine, versions, write_json
from fewbits.runtime.session import RunOptions, SessionPolicy
from fewbits.spec.soc import Soc
from fewbits.workflow.adopt import open_qdq
from fewbits.workflow.localize import localize
from fewbits.workflow.stages import Stages
from fewbits.workflow.verify_score import FIRST, AnySize, PlaceScoring, sizes_of

_ORT = "onnxruntime, every QuantizeLinear and DequantizeLinear executed as written"
_ORT_HALF = f"{_ORT}; float16 nodes in float32, since torch is not installed"
_TORCH = "the torch executor, which rounds to float16 before and after every fp16 node"


@dataclass(frozen=True, slots=True)
class VerifyPlaceResult:
    """What `verify` found at another place.

    Attributes:
        certificate: the comparison; `certificate.passed` is the verdict.
        place: where it ran.
        soc: the chip that was emulated; None elsewhere.
        path: where the certificate was written.
        seconds: stage -> wall time.
    """

    certificate: PlaceCertificate
    place: Place
    soc: Soc | None
    path: Path
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether types and outputs are within the limits."""
        return self.certificate.passed


@dataclass(frozen=True, slots=True)
class PlaceRun:
    """What is to be verified, and where.

    Attributes:
        folder: of the artifact.
        record: of it.
        stored: samples to compare outputs on.
        damaged: files that are missing or not the recorded ones; with any, nothing passes.
        place: where to run.
        soc: the chip, at Qualcomm's.
        options: of onnxruntime, for the simulation.
        time_limit_s: for loading the model there, and for every answer.
        scoring: how to score there; None does not.
    """

    folder: Path
    record: RunRecord
    stored: Samples
    damaged: tuple[str, ...]
    place: Place
    soc: Soc
    options: RunOptions
    time_limit_s: float
    scoring: PlaceScoring | None = None


def verify_at(run: PlaceRun, stages: Stages) -> VerifyPlaceResult:
    """Run the samples at a place, compare, score, and write the certificate.

    Raises:
        MissingExtraError: the place's extra is not installed.
        ModelError: the place does not take the model in a size that the samples have.
    """
    model, feeds = run.folder / names.ARTIFACT, run.stored.feeds
    with temporary_folder() as scratch:
        job = PlaceJob(model, sizes_of(model, feeds[0]), run.soc, scratch, run.time_limit_s)
        with AnySize(run.place, job) as served, stages.stage(f"run on {run.place.name}", len(feeds)) as told:
            placed = []
            for feed in feeds:
                placed.append(served(feed))
                told.advance(1)
        types = compiled_types(model, scratch / FIRST) if run.place.is_htp else CompiledTypes({}, 0, (), ())
    score = None if run.scoring is None else run.scoring.score(run.place, job, stages)
    with stages.stage("run the simulation"):
        exact, floats, reference = _references(run)
    outputs = compare_outputs(model, placed, exact, floats)
    worst = [name for name, output in outputs.items() if not output.passed]
    localized = localize(run.place, job, feeds[0], worst, stages) if worst else None
    certificate = PlaceCertificate(
        place=run.place.what,
        passed=not run.damaged and not types.wrong and not worst,
        samples=len(feeds),
        reference=reference,
        outputs=outputs,
        score=score,
        wrong_types=types.wrong,
        localized=localized,
        conditions=_conditions(run, job.dims, types),
        limits=limits_of(len(feeds)),
        not_proven=not_proven_of(run.place.is_htp, score is not None),
    )
    path = run.folder / names.PLACE_CERTIFICATES[run.place.name]
    write_json(path, asdict(certificate))
    return VerifyPlaceResult(certificate, run.place, run.soc if run.place.is_htp else None, path, stages.seconds)


def _references(run: PlaceRun) -> tuple[Sequence[Arrays], Sequence[Arrays], str]:
    """Return what the file gives as written, what the float model gives, and what computed the former."""
    model, feeds = run.folder / names.ARTIFACT, run.stored.feeds
    jobs = [Job(model, SessionPolicy.EXACT), Job(reference_file(run.folder), SessionPolicy.DEFAULT)]
    exact, floats = run_fresh(jobs, feeds, options=run.options)
    if "fp16" not in run.record.precision:
        return exact, floats, _ORT
    if importlib.util.find_spec("torch") is None:
        return exact, floats, _ORT_HALF
    from fewbits.runtime.torch_run import run_quantized

    stripped = open_qdq(model)
    adopted = adopt(stripped.model, stripped.given, run.record.target, is_complete=True)
    return run_quantized(stripped.model, adopted.plan, adopted.encoded.encodings, feeds), floats, _TORCH


def _conditions(run: PlaceRun, dims: Mapping[str, int], types: CompiledTypes) -> dict[str, Any]:
    htp = {"soc": asdict(run.soc), "operators_checked": types.checked} if run.place.is_htp else {}
    package = {run.place.package: importlib.metadata.version(run.place.package)}
    return {
        "on": run.place.name,
        **htp,
        "dims": dict(dims),
        "versions": {**versions(), **package},
        "machine": machine(),
        "files": run.record.files,
        "damaged": run.damaged,
    }
