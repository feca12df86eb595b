"""Verb quantize: a float model and data in, a scored artifact out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.analysis.evaluate import Drop, Evaluation
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.folder import staged
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.record import RunRecord
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.memory import Ceiling
from fewbits.runtime.session import RunOptions
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.calibrate import SAMPLES, Calibration, calibrate_subject
from fewbits.workflow.ceiling import Load, hold
from fewbits.workflow.finish import finish
from fewbits.workflow.pins import fit_pins
from fewbits.workflow.profiles import open_profile
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.scoring import MetricLike, Scoring, check_metric, open_scoring
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.subject import Subject, open_subject
from fewbits.workflow.writing import Options


@dataclass(frozen=True, slots=True, eq=False)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        score: of the artifact.
        float_score: of the prepared float model.
        drop: what was lost, in the metric's direction.
        quantized: the model, its plan, encodings and notes.
        record: what was written to record.json.
        output: the folder, or None where none was asked for.
        calibration: can serve further precisions.
        scoring: can score further models.
    """

    score: Evaluation
    float_score: Evaluation
    drop: Drop
    quantized: Quantized
    record: RunRecord
    output: Path | None
    calibration: Calibration
    scoring: Scoring

    @property
    def plan(self) -> Plan:
        """The grids and the reasons."""
        return self.quantized.plan

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """Grid key -> encoding."""
        return self.quantized.encodings


def quantize(
    model: ModelLike,
    *,
    precision: str = "w8a8",
    data: DataLike,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    eval_data: DataLike | None = None,
    profile: Mapping[str, str] | str | Path | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    encodings: str | Path | None = None,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    memory: int | str | None = None,
    progress: Watcher | None = None,
) -> QuantizeResult:
    """Quantize a model, score it, and write the artifact.

    The scored session is opened from the file that is handed over. Nothing is left in `output` unless all of it is.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run.
        precision: of every node that `profile` does not name: w8a8, w8a16, w16a16, w4a8, w4a16g32, fp16, fp32 ...
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        output: folder for the files; None writes nothing.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        eval_data: what to score on; None scores on `data`.
        profile: node name -> precision, or a JSON or TOML file of such pairs.
        ranges: auto, minmax, mse, entropy or percentile:99.99.
        weight_ranges: auto, absmax or mse.
        bias_correction: let biases take up the mean error of rounded weights.
        samples: calibration samples at most.
        eval_samples: evaluation samples at most; None takes all.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        encodings: an encodings file whose grids are used as they are.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        memory: that the process may take, "4GB" or bytes: refused where less does not suffice, held by doing less at
            once elsewhere, with the same results. None sets no limit.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name not in ("progress", "model")}
    wanted = open_profile(precision, profile)
    check_ranges(ranges, weight_ranges)
    named = check_metric(metric, higher_is_better)
    stages, ceiling = Stages(progress), Ceiling.of(memory)
    with staged(output) as folder:
        with stages.stage("prepare"):
            subject = open_subject(
                model, data=data, target=target, dims=dims, simplify=simplify, preprocess=preprocess,
                batch_size=batch_size, run_options=run_options,
            )  # fmt: skip
            subject = hold(subject, ceiling, Load(samples))
            scoring = open_scoring(
                subject, samples=samples, eval_data=eval_data, metric=named, eval_samples=eval_samples,
                preprocess=preprocess,
            )  # fmt: skip
            pinned = open_pins(subject, wanted, encodings)
        calibration = calibrate_subject(subject, samples=samples, stages=stages)
        with stages.stage("quantize"):
            made = quantize_calibrated(
                calibration, wanted, ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction,
                pinned=pinned,
            )  # fmt: skip
        with stages.stage("score float", scoring.limit) as told:
            before = scoring.score_float(told)
        done = finish("quantize", folder, calibration, scoring, made, before=before, stages=stages, options=options)
    where = None if output is None else Path(output)
    return QuantizeResult(done.score, before, done.drop, made, done.record, where, calibration, scoring)


def open_pins(subject: Subject, profile: Profile, encodings: str | Path | None) -> dict[str, Encoding]:
    """Return the encodings of earlier runs and of the caller's file; refuse what cannot be before anything runs."""
    plan = resolve(subject.model, profile, subject.target)
    pinned = dict(subject.source.pinned)
    if encodings is None:
        return pinned
    given = read_encodings(encodings, subject.model.graph)
    if not fit_pins(plan, given):
        raise SpecError(
            f"Nothing in the encodings file {str(encodings)!r} fits this model in {profile}: check that it was made "
            f"for the same prepared model and bit widths."
        )
    return pinned | given
