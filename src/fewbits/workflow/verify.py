"""Verb verify: reload the artifact in a fresh process and compare it, bit for bit, with what was scored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewbits.analysis.scores import Metric
from fewbits.artifact import names
from fewbits.artifact.folder import reference_file, sha256
from fewbits.artifact.samples import Arrays, Samples, collect_samples, read_samples
from fewbits.deployment.certificate import Certificate, certify
from fewbits.deployment.fresh import Job, run_fresh
from fewbits.deployment.places import PLACES, place_names
from fewbits.deployment.qnn import TIME_LIMIT_S
from fewbits.errors import ModelError, SpecError
from fewbits.reporting.record import RunRecord, machine, read_record, versions, write_json
from fewbits.runtime.data import Dataset, Preprocess, open_data
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.processor import saturates
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.soc import find_soc
from fewbits.workflow.scoring import MetricLike, check_metric
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.verify_place import PlaceRun, VerifyPlaceResult, verify_at
from fewbits.workflow.verify_score import PlaceScoring

HERE = "ort-cpu"
SAMPLES = 16
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What `verify` found.

    Attributes:
        certificate: the comparison; `certificate.passed` is the verdict.
        damaged: files that are missing, or are not what the run recorded.
        path: where the certificate was written.
        seconds: stage -> wall time.
    """

    certificate: Certificate
    damaged: tuple[str, ...]
    path: Path
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every file is the recorded one and no byte of the outputs differs."""
        return self.certificate.passed


def verify(
    output: str | Path,
    *,
    on: str = HERE,
    soc: str | int = "sm8550",
    data: DataLike | None = None,
    samples: int = SAMPLES,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    eval_samples: int | None = None,
    preprocess: Preprocess | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    custom_op_libraries: Sequence[str] = (),
    progress: Watcher | None = None,
) -> VerifyResult | VerifyPlaceResult:
    """Reload an artifact in a fresh process, compare, and write certificate.json beside it.

    On qnn-htp it runs on Qualcomm's emulator instead, on openvino in OpenVINO, and is compared with the file executed
    exactly as written: every output, which may be at most 3 dB below what quantization costs anyway; with a metric the
    score, beside that of the simulation; on qnn-htp the types of all operators. Where an output does not pass, every
    operator is run on its own, and those that differ are named.

    Without `data` the stored samples are run, and compared with what the scored sim answered when it was scored. With
    `data`, the sim is opened again in this process and compared with the fresh one on those samples as well.

    Args:
        output: folder that `quantize` (or a later verb) wrote.
        on: where to run: ort-cpu, qnn-htp (extra `qnn`) or openvino (extra `openvino`).
        soc: the chip that qnn-htp emulates, by name or number.
        data: further samples; to be scored on, too, where a metric is named.
        samples: of `data` at most, for comparing outputs.
        metric: a name, file.py:function, or a function of `predict`: the score there; not on ort-cpu.
        higher_is_better: direction of the user's own metric.
        eval_samples: to score on, at most; None takes all.
        preprocess: how images become inputs.
        time_limit_s: on other places, for loading the model and for every answer.
        custom_op_libraries: shared libraries with the model's own operators; those that the record names are not
            loaded, because loading one runs its code.
        progress: told of each stage.

    Raises:
        SpecError: no such place or chip, the folder holds no record, or a metric without data or on ort-cpu.
        MissingExtraError: the place's extra is not installed.
        ModelError: the model cannot be run.
    """
    if on != HERE and on not in PLACES:
        raise SpecError(f"Cannot verify on {on!r}: choose one of {', '.join((HERE, *place_names()))}.")
    named, chip = _check_metric(metric, higher_is_better, on=on, data=data), find_soc(soc)
    if on in PLACES:
        PLACES[on].need()
    folder, stages = Path(output), Stages(progress)
    record = read_record(folder / names.RECORD)
    options = _options(record, on, custom_op_libraries)
    with stages.stage("check files"):
        damaged = _damaged(folder, record)
        _require(folder, names.ARTIFACT, names.FLOAT)
        stored = _stored(folder, has_data=data is not None)
    scoring = None
    if data is not None:
        with stages.stage("run sim", samples):
            stored = _more(folder, stored, data, samples=samples, preprocess=preprocess, options=options)
        if named is not None:
            runner = open_session(folder / names.ARTIFACT, options=options)
            scored = open_data(data, inputs=runner.inputs, preprocess=preprocess)
            scoring = PlaceScoring(folder, named, scored, eval_samples, options)
    if on in PLACES:
        run = PlaceRun(folder, record, stored, damaged, PLACES[on], chip, options, time_limit_s, scoring)
        return verify_at(run, stages)
    with stages.stage("run in a fresh process"):
        certificate = _compare(folder, stored, options, _conditions(record, on, damaged), is_whole=not damaged)
    path = folder / names.CERTIFICATE
    write_json(path, asdict(certificate))
    return VerifyResult(certificate, damaged, path, stages.seconds)


def _check_metric(
    metric: MetricLike | None, higher_is_better: bool | None, *, on: str, data: DataLike | None
) -> Metric | None:
    if metric is not None and on == HERE:
        raise SpecError(
            f"On {HERE} every byte is compared with what was scored, so that a score would say nothing more: leave "
            f"--metric out, or name a place with --on {' or '.join(place_names())}."
        )
    if metric is not None and data is None:
        raise SpecError("A metric needs data to score on: add --data.")
    return check_metric(metric, higher_is_better)


def _stored(folder: Path, *, has_data: bool) -> Samples:
    """Return the stored samples; none where the run kept none and others are given."""
    if not (folder / names.SAMPLES).is_file() and has_data:
        return Samples((), ())
    if not (folder / names.SAMPLES).is_file():
        raise ModelError(
            f"The folder {str(folder)!r} holds no samples to run ({names.SAMPLES}): give some with --data."
        )
    return read_samples(folder / names.SAMPLES)


def _options(record: RunRecord, on: str, libraries: Sequence[str]) -> RunOptions:
    used = record.options.get("run_options")
    used = used if isinstance(used, Mapping) else {}
    needed = used.get("custom_op_libraries") or ()
    if needed and not libraries:
        raise SpecError(
            f"This artifact was scored with the custom operator library {str(needed[0])!r}: name it, or the one that "
            f"stands for it here, with --custom-op-library."
        )
    options = RunOptions(str(used.get("provider", "cpu")), int(used.get("threads", 0)), tuple(libraries))
    if options.provider.lower() not in ("cpu", "cpuexecutionprovider"):
        raise SpecError(
            f"This artifact was scored on {options.provider!r}, so its stored outputs cannot be expected from {on}: "
            f"quantize again with --provider cpu."
        )
    return options


def _damaged(folder: Path, record: RunRecord) -> tuple[str, ...]:
    return tuple(
        name
        for name, facts in record.files.items()
        if not (folder / name).is_file() or sha256(folder / name) != facts["sha256"]
    )


def _require(folder: Path, *wanted: str) -> None:
    for name in wanted:
        if not (folder / name).is_file():
            raise ModelError(f"The folder {str(folder)!r} lacks {name}: write it again with `fewbits quantize`.")


def _more(
    folder: Path, stored: Samples, data: DataLike, *, samples: int, preprocess: Preprocess | None, options: RunOptions
) -> Samples:
    runner = open_session(folder / names.ARTIFACT, options=options)
    dataset = open_data(data, inputs=runner.inputs, preprocess=preprocess)
    extra = collect_samples(runner, _feeds(dataset, samples), most=samples, most_bytes=_MOST_BYTES)
    return Samples((*stored.feeds, *extra.feeds), (*stored.outputs, *extra.outputs))


def _feeds(data: Dataset, samples: int) -> Iterator[Arrays]:
    for batch in data.batches(1, samples):
        yield batch.feeds


def _compare(
    folder: Path, stored: Samples, options: RunOptions, conditions: Mapping[str, Any], *, is_whole: bool
) -> Certificate:
    # the float model first: what it takes is mapped and given back, which is not so of memory that others leave behind
    jobs = [Job(reference_file(folder), SessionPolicy.DEFAULT)]
    jobs += [Job(folder / names.ARTIFACT, policy) for policy in SessionPolicy]
    floats, *results = run_fresh(jobs, stored.feeds, options=options)
    by_policy = dict(zip(SessionPolicy, results, strict=True))
    return certify(
        stored.outputs,
        by_policy[SessionPolicy.DEFAULT],
        exact=by_policy[SessionPolicy.EXACT],
        plain=by_policy[SessionPolicy.PLAIN],
        floats=floats,
        conditions=conditions,
        is_whole=is_whole,
    )


def _conditions(record: RunRecord, on: str, damaged: tuple[str, ...]) -> dict[str, Any]:
    return {
        "on": on,
        "versions": versions(),
        "machine": machine(),
        "plain_sessions_saturate": saturates(),
        "scored_with": {"versions": record.versions, "machine": record.machine, "created": record.created},
        "files": record.files,
        "damaged": damaged,
    }
