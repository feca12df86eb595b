"""Verb verify on the HTP emulator: what Qualcomm's backend makes of an artifact, against the simulation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import temporary_folder, write_file
from fewbits.artifact.samples import Arrays, Samples
from fewbits.deployment.fresh import Job, run_fresh
from fewbits.deployment.htp_parity import HtpCertificate, compare_outputs
from fewbits.deployment.qnn import TIME_LIMIT_S, QnnJob, emulate
from fewbits.deployment.qnn_graph import compiled_types
from fewbits.errors import SpecError
from fewbits.reporting.record import RunRecord, machine, plain, versions
from fewbits.runtime.session import RunOptions, SessionPolicy
from fewbits.spec.soc import Soc, find_soc
from fewbits.workflow.compile import open_dims_of
from fewbits.workflow.stages import Stages


@dataclass(frozen=True, slots=True)
class VerifyHtpResult:
    """What `verify` found on the emulator.

    Attributes:
        certificate: the comparison; `certificate.passed` is the verdict.
        soc: the chip that was emulated.
        path: where the certificate was written.
        seconds: stage -> wall time.
    """

    certificate: HtpCertificate
    soc: Soc
    path: Path
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether types and outputs are within the limits."""
        return self.certificate.passed


def verify_on_htp(
    folder: Path,
    record: RunRecord,
    stored: Samples,
    damaged: tuple[str, ...],
    *,
    soc: str | int,
    options: RunOptions,
    stages: Stages,
) -> VerifyHtpResult:
    """Run the stored samples on the emulator and write certificate.qnn-htp.json.

    Args:
        folder: of the artifact.
        record: of it.
        stored: samples to run.
        damaged: files that are missing or not the recorded ones; with any, nothing passes.
        soc: the chip.
        options: of onnxruntime, for the simulation.
        stages: told of each stage.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        SpecError: the chip is unknown, or the samples have several shapes.
        ModelError: the compiler does not take the model.
    """
    model, chip = folder / names.ARTIFACT, find_soc(soc)
    job = QnnJob(model, chip, _dims(model, stored.feeds))
    with temporary_folder() as scratch:
        with stages.stage(f"emulate {chip.name}", len(stored.feeds)):
            emulated = emulate(job, stored.feeds, scratch, time_limit_s=TIME_LIMIT_S)
        types = compiled_types(model, scratch)
    jobs = [Job(model, SessionPolicy.EXACT), Job(folder / names.FLOAT, SessionPolicy.DEFAULT)]
    with stages.stage("run the simulation"):
        exact, floats = run_fresh(jobs, stored.feeds, options=options)
    outputs = compare_outputs(model, emulated, exact, floats)
    certificate = HtpCertificate(
        passed=not damaged and not types.wrong and all(parity.passed for parity in outputs.values()),
        samples=len(stored.feeds),
        outputs=outputs,
        wrong_types=types.wrong,
        conditions={
            "on": "qnn-htp emulator",
            "soc": asdict(chip),
            "dims": dict(job.dims),
            "operators_checked": types.checked,
            "versions": versions(),
            "machine": machine(),
            "files": record.files,
            "damaged": damaged,
        },
    )
    path = folder / names.HTP_CERTIFICATE
    write_file(path, (json.dumps(plain(asdict(certificate)), indent=1) + "\n").encode())
    return VerifyHtpResult(certificate, chip, path, stages.seconds)


def _dims(model: Path, feeds: Sequence[Arrays]) -> dict[str, int]:
    """Return the sizes that the samples give to the open dimensions."""
    found: dict[str, int] = {}
    for name, axes in open_dims_of(model).items():
        for feed in feeds:
            for axis, dim in axes.items():
                size = feed[name].shape[axis]
                if found.setdefault(dim, size) != size:
                    raise SpecError(
                        f"The stored samples have several sizes of {dim!r}, and the compiler takes one: quantize again "
                        f"with --dim {dim}={found[dim]}."
                    )
    return found
