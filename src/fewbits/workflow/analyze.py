"""Verb analyze: how sensitive every group is, what every tensor looks like, and what is wrong with the worst."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fewbits.analysis.cost import sizes_of
from fewbits.analysis.diagnose import Finding, diagnose
from fewbits.analysis.sensitivity import PARTS, Part, Sensitivity
from fewbits.analysis.sensitivity import Figure as Measured
from fewbits.analysis.tensors import TensorFact, TensorFacts
from fewbits.artifact import names
from fewbits.artifact.folder import staged, write_file
from fewbits.errors import SpecError
from fewbits.graph.inspect import inspect_graph
from fewbits.graph.topology import constant
from fewbits.quantization.groups import find_groups
from fewbits.reporting.analysis_record import AnalysisRecord, Diagnosis, Figure, GroupRow, TensorRow
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.memory import Ceiling
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.precision import Precision
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import SAMPLES, Calibration, calibrate_subject
from fewbits.workflow.ceiling import ONE_PASS, Load, hold
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.report import report
from fewbits.workflow.sensitivity import SAMPLES as ANALYSIS_SAMPLES
from fewbits.workflow.sensitivity import choose_method, one_pass, settle_method
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.subject import open_subject
from fewbits.workflow.tensor_facts import tensor_facts
from fewbits.workflow.writing import Options, data_facts, described, model_facts

PRECISIONS = ("w8a8", "w8a16", "fp16")
ERROR = "squared error over the channel's variance, averaged over channels and outputs"


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisResult:
    """What `analyze` found.

    Attributes:
        sensitivity: of every group in every precision.
        facts: of every tensor of the first precision.
        findings: what is wrong with the worst groups in it.
        record: what was written to record.json.
        output: the folder, or None.
        calibration: can serve further precisions.
    """

    sensitivity: Sensitivity
    facts: TensorFacts
    findings: tuple[Finding, ...]
    record: AnalysisRecord
    output: Path | None
    calibration: Calibration


def analyze(
    model: ModelLike,
    *,
    data: DataLike,
    precisions: Sequence[str] = PRECISIONS,
    method: str = "auto",
    analysis_samples: int = ANALYSIS_SAMPLES,
    probes: int | None = None,
    outputs: Sequence[str] | None = None,
    confirm: int = 5,
    worst: int = 10,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    memory: int | str | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
    progress: Watcher | None = None,
) -> AnalysisResult:
    """Find what the network is sensitive to, layer by layer, and why; no labels are needed.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        precisions: in which groups are judged; the first is the one whose tensors are looked at and diagnosed.
        method: "one-pass", with gradients, needs torch; "brute-force" runs the network once per group and precision;
            "auto" is the former where torch is installed.
        analysis_samples: calibration samples that the figures rest on, at most.
        probes: random projections of the output per sample (one-pass); None takes 2, and more for few samples.
        outputs: the outputs whose error counts; None takes all float outputs that vary.
        confirm: the most sensitive groups in the first precision whose error is measured by a real run (one-pass).
        worst: findings at most.
        output: folder for record.json and report.html; None writes nothing.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        ranges: auto, minmax, mse, entropy or percentile:99.99.
        weight_ranges: auto, absmax or mse.
        bias_correction: let biases take up the mean error of rounded weights.
        samples: calibration samples at most.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        memory: that the process may take, "4GB" or bytes: refused where less does not suffice, held by doing less at
            once elsewhere, with the same results. None sets no limit.
        device: where torch computes: cpu or cuda.
        workers: who calibrates and measures groups; None is this process. The figures are the same whoever does.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name != "progress"}
    options |= {"method": choose_method(method, "method")}
    wanted = _check(precisions)
    _check_counts(1, {"--analysis-samples": analysis_samples, "--probes": 1 if probes is None else probes})
    _check_counts(0, {"--confirm": confirm, "--worst": worst})
    check_ranges(ranges, weight_ranges)
    stages, ceiling = Stages(progress), Ceiling.of(memory)
    with staged(output) as folder:
        with stages.stage("prepare"):
            subject = open_subject(
                model, data=data, target=target, dims=dims, simplify=simplify, preprocess=preprocess,
                batch_size=batch_size, run_options=run_options,
            )  # fmt: skip
            later = (ONE_PASS,) if options["method"] == "one-pass" else ()
            subject = hold(subject, ceiling, Load(samples, later, workers))
        calibration = calibrate_subject(subject, samples=samples, stages=stages, workers=workers)
        made = []
        for precision in wanted:
            with stages.stage(f"quantize {precision}"):
                made.append(
                    quantize_calibrated(
                        calibration, precision, ranges=ranges, weight_ranges=weight_ranges,
                        bias_correction=bias_correction,
                    )
                )  # fmt: skip
        options["method"] = settle_method(method, options["method"], calibration.model)
        sensitivity = _Ranking(calibration, made, stages, options).run()
        with stages.stage("look at tensors", analysis_samples) as told:
            facts = tensor_facts(calibration, made[0], samples=analysis_samples, progress=told)
        findings = diagnose(
            calibration.model.graph, made[0].plan, made[0].encoded, facts, sensitivity, sensitivity.groups,
            precision=wanted[0], worst=worst,
        )  # fmt: skip
        record = _record(calibration, made, sensitivity, facts, findings, stages, options)
        if output is not None:
            write_file(folder / names.RECORD, record.to_json().encode())
            report(folder)
    return AnalysisResult(sensitivity, facts, findings, record, None if output is None else Path(output), calibration)


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """How the figures of the groups are found."""

    calibration: Calibration
    made: Sequence[Quantized]
    stages: Stages
    options: Options

    def run(self) -> Sensitivity:
        """Return the sensitivity of every group in every precision."""
        samples, outputs = self.options["analysis_samples"], self.options["outputs"]
        if self.options["method"] == "brute-force":
            return self._measure(self.made, PARTS)
        with self.stages.stage("one pass", samples) as told:
            found = one_pass(
                self.calibration, self.made, samples=samples, probes=self.options["probes"], outputs=outputs,
                device=self.options["device"], progress=told,
            )  # fmt: skip
        top = found.ranked(found.precisions[0])[: self.options["confirm"]]
        if not top:
            return found
        real = self._measure(self.made[:1], ("all",), top)
        return found.confirmed({(name, found.precisions[0]): real.error(name, found.precisions[0]) for name in top})

    def _measure(
        self, made: Sequence[Quantized], parts: Sequence[Part], groups: Sequence[str] | None = None
    ) -> Sensitivity:
        output = self.options["output"]
        timed = Stages(seconds=self.stages.seconds)  # the watcher is told of it by brute_force itself
        with Store(None if output is None else Path(output) / STORE) as store, timed.stage("brute force"):
            return brute_force(
                self.calibration, made, parts=parts, samples=self.options["analysis_samples"],
                outputs=self.options["outputs"], groups=groups, store=store, workers=self.options["workers"],
                progress=self.stages.watcher,
            )  # fmt: skip


def _check(precisions: Sequence[str]) -> list[str]:
    if not precisions:
        raise SpecError(f"No precision was named: write --precisions {','.join(PRECISIONS)}.")
    found = list(dict.fromkeys(str(Precision.parse(text)) for text in precisions))
    if "fp32" in found:
        raise SpecError("fp32 is the float model itself: leave it out of --precisions.")
    return found


def _check_counts(least: int, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count < least:
            raise SpecError(f"{name} {count} is impossible: write at least {least}.")


def _record(  # noqa: PLR0917 - all that the stages made, in their order
    calibration: Calibration,
    made: Sequence[Quantized],
    sensitivity: Sensitivity,
    facts: TensorFacts,
    findings: Iterable[Finding],
    stages: Stages,
    options: Options,
) -> AnalysisRecord:
    return AnalysisRecord(
        verb="analyze",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options={name: described(value) for name, value in options.items() if value is not None},
        model=model_facts(calibration.source),
        data=data_facts(calibration, None, options),
        target=calibration.target.name,
        precisions=sensitivity.precisions,
        output_names=sensitivity.outputs,
        samples=sensitivity.samples,
        probes=sensitivity.probes,
        method="one-pass" if sensitivity.method == "one-pass" else "brute-force",
        metric=sensitivity.metric or ERROR,
        groups=tuple(_group_rows(calibration, made[0], sensitivity)),
        tensors=tuple(_tensor_row(fact) for fact in facts.tensors.values()),
        diagnoses=tuple(Diagnosis(**asdict(finding)) for finding in findings),
        notes=made[0].notes,
        timings={name: round(value, 4) for name, value in stages.seconds.items()},
    )


def _group_rows(calibration: Calibration, made: Quantized, sensitivity: Sensitivity) -> Iterator[GroupRow]:
    sizes = sizes_of(calibration.model, calibration.subject.first_feeds)
    macs = {row.name: row.macs for row in inspect_graph(calibration.model, sizes).macs}
    nodes = {str(node.name): node for node in calibration.model.graph}
    for group in find_groups(calibration.model.graph, calibration.target):
        known = [macs.get(name, 0) for name in group.nodes]
        stored = [constant(value) for name in group.nodes for value in nodes[name].inputs]
        figures: dict[str, dict[str, Figure]] = {
            precision: {
                part: Figure(figure.error, figure.sqnr_db, *figure.interval_db)
                for part in PARTS
                if (figure := sensitivity.figures.get((group.name, precision, part))) is not None
            }
            for precision in sensitivity.precisions
        }
        yield GroupRow(
            group.name, group.op, group.nodes,
            macs=None if None in known else sum(value for value in known if value is not None),
            weights=sum(tensor.size for tensor in stored if tensor is not None),
            precision=str(made.plan.nodes[group.name].precision),
            figures=figures,
            measured={
                precision: Measured(sensitivity.measured[key]).sqnr_db
                for precision in sensitivity.precisions
                if (key := (group.name, precision)) in sensitivity.measured
            },
        )  # fmt: skip


def _tensor_row(fact: TensorFact) -> TensorRow:
    return TensorRow(
        fact.name, fact.role, fact.group, fact.low, fact.high, fact.clip_low, fact.clip_high, fact.scale,
        fact.zero_point, fact.bits, fact.error_db, channel_low=fact.channel_low, channel_high=fact.channel_high,
        histogram=fact.histogram, outlier_channels=fact.outlier_channels, dead_channels=fact.dead_channels,
    )  # fmt: skip
