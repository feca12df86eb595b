"""Verb brute_force: the sensitivity of every group, each measured by runs of its own. Slow, and the truth."""

from collections.abc import Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from fewbits.analysis.sensitivity import PARTS, Figure, Part, Sensitivity
from fewbits.errors import SpecError
from fewbits.numerics.output_error import Normalize
from fewbits.quantization.encode import Encoded
from fewbits.quantization.groups import Group, find_groups, profile_of
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.overflow import half_overflows
from fewbits.quantization.partial import encoded_alike, restricted
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.record import versions
from fewbits.runtime.store import Store, key_of
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16, FP32, Precision
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.judge import Judge, OutputJudge, ScoreJudge
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.stages import Stages, Watcher

SAMPLES = 64
Mode = Literal["alone-quantized", "alone-float"]

_ROLES: Mapping[Part, frozenset[Role]] = {
    "all": frozenset(Role),
    "weights": frozenset({Role.WEIGHT, Role.BIAS}),
    "activations": frozenset({Role.ACTIVATION, Role.CONSTANT}),
}
"""Constants have the width of activations, with which they are added or multiplied."""


def brute_force(
    calibration: Calibration,
    precisions: Sequence[str | Quantized],
    *,
    mode: Mode = "alone-quantized",
    parts: Sequence[Part] = ("all",),
    samples: int = SAMPLES,
    outputs: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    score: Scoring | None = None,
    normalize: Normalize = "channel",
    store: Store | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    progress: Watcher | None = None,
) -> Sensitivity:
    """Measure every group in every precision by running the network with that group quantized, and nothing else.

    Encodings are those of the whole network in that precision: a group carries the noise that it carries there.

    Args:
        calibration: of the float model; its samples are used again.
        precisions: names; or the whole network in one precision, as `quantize_calibrated` made it.
        mode: "alone-quantized"; or "alone-float", where only the group stays in float and its error is what quantizing
            it adds to the error of the others.
        parts: what of a group is quantized: "all", and on request "weights" (with biases) and "activations" (with the
            constants that they meet). fp16 has no such parts.
        samples: calibration samples to run, at most.
        outputs: the outputs whose error counts; None takes all float outputs that vary.
        groups: names of the groups to measure; None measures all.
        score: judge by the drop of this score instead of the error of outputs; `samples` and `outputs` do not matter.
        normalize: divide squared errors by each channel's variance, or by the power of the output.
        store: what was measured before is taken from there, and what is measured is put there at once.
        ranges: auto, minmax, mse, entropy or percentile:99.99; for precisions given by name.
        weight_ranges: auto, absmax or mse; likewise.
        bias_correction: let biases take up the mean error of rounded weights; likewise.
        progress: told of each precision, with one step per run.

    Raises:
        SpecError: a precision, mode or part cannot be, or no output is left to judge by.
    """
    _check(mode, parts)
    if not precisions:
        raise SpecError("No precision was named: write the precisions whose errors are wanted, such as w8a8.")
    names = [_name(precision) for precision in precisions]
    judge: Judge = ScoreJudge(score) if score else OutputJudge(calibration, samples, outputs, normalize)
    runs = _Runs(calibration, judge, store or Store())
    stages = Stages(progress)
    found, figures = _named(find_groups(calibration.model.graph, calibration.target), groups), {}
    for name, given in zip(names, precisions, strict=True):
        whole = given if isinstance(given, Quantized) else quantize_calibrated(
            calibration, name, ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction
        )  # fmt: skip
        wanted = [part for part in PARTS if part in parts and (part == "all" or name != str(FP16))]
        with stages.stage(f"brute force {name}", len(found) * len(wanted)) as told:
            for group in found:
                for part in wanted:
                    figures[group.name, name, part] = Figure(runs.error(whole, group, part, mode))
                    told.advance(1)
    return Sensitivity(
        method="brute-force", groups=found, precisions=tuple(dict.fromkeys(names)), samples=judge.samples, probes=0,
        outputs=runs.outputs(), figures=figures, metric=judge.metric,
    )  # fmt: skip


def _named(groups: tuple[Group, ...], names: Sequence[str] | None) -> tuple[Group, ...]:
    if names is None:
        return groups
    unknown = sorted(set(names) - {group.name for group in groups})
    if unknown:
        raise SpecError(f"The network has no group {unknown[0]!r}: groups are named by their first node.")
    return tuple(group for group in groups if group.name in names)


class _Runs:
    """Builds, runs and remembers the models."""

    def __init__(self, calibration: Calibration, judge: Judge, store: Store) -> None:
        self._calibration, self._judge = calibration, judge
        identity = judge.identity
        self._store = store if identity is not None else Store()
        provider = calibration.subject.options.provider_name()
        self._context = key_of("brute force", versions(), _model_key(calibration.model), identity, provider)
        self._refused = half_overflows(calibration.model.graph, calibration.statistics)

    def outputs(self) -> tuple[str, ...]:
        """Return the outputs that the judge looks at."""
        return tuple(self._store.remember(key_of(self._context, "outputs"), lambda: self._judge.outputs))

    def error(self, whole: Quantized, group: Group, part: Part, mode: Mode) -> float:
        """Return what quantizing a group costs."""
        precision = whole.profile.default
        if mode == "alone-float":
            without = profile_of({group: FP32}, precision)
            return self._measured(whole.plan, whole.encoded) - self._measured(*self._model(whole, without))
        plan, encoded = self._model(whole, profile_of({group: precision}))
        return self._measured(plan if part == "all" else restricted(plan, _ROLES[part]), encoded)

    def _model(self, whole: Quantized, profile: Profile) -> tuple[Plan, Encoded]:
        plan = resolve(self._calibration.model, profile, self._calibration.target, half_refused=self._refused)
        return plan, encoded_alike(whole.plan, whole.encoded, plan)

    def _measured(self, plan: Plan, encoded: Encoded) -> float:
        if not plan.grids and not any(node.precision == FP16 for node in plan.nodes.values()):
            return 0.0  # the float model itself
        key = key_of(self._context, _plan_key(plan, encoded))
        return float(self._store.remember(key, lambda: self._run(plan, encoded)))

    def _run(self, plan: Plan, encoded: Encoded) -> float:
        model = insert_qdq(self._calibration.model, plan, encoded)
        return self._judge.error(open_graph(model, self._calibration.subject.options))


def _model_key(model: ir.Model) -> str:
    """Return the content hash of a graph: its operators and its constants."""
    nodes = [ir.to_proto(node).SerializeToString(deterministic=True) for node in model.graph]
    constants = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    ends = [str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)]
    return key_of(nodes, constants, ends, dict(model.opset_imports))


def _plan_key(plan: Plan, encoded: Encoded) -> str:
    """Return the content hash of what is inserted into a graph."""
    grids = {
        key: (repr(grid), encoded.encodings[key].scale, encoded.encodings[key].zero_point, encoded.biases.get(key))
        for key, grid in plan.grids.items()
    }
    inputs = {f"{position} {node}": key for (node, position), key in plan.inputs.items()}
    halves = sorted(name for name, node in plan.nodes.items() if node.precision == FP16)
    return key_of(grids, inputs, dict(plan.outputs), halves)


def _check(mode: str, parts: Sequence[str]) -> None:
    if mode not in ("alone-quantized", "alone-float"):
        raise SpecError(f"Unknown mode {mode!r}: write alone-quantized or alone-float.")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise SpecError(f"Unknown part {unknown[0] if unknown else ''!r} of a group: write {', '.join(PARTS)}.")
    if mode == "alone-float" and tuple(parts) != ("all",):
        raise SpecError("Weights and activations apart can be measured alone-quantized only: leave the parts out.")


def _name(precision: str | Quantized) -> str:
    if isinstance(precision, Quantized):
        if precision.profile.nodes:
            raise SpecError(f"Sensitivity is measured in one precision at a time, not in {precision.profile}.")
        return str(precision.profile)
    parsed = Precision.parse(precision)
    if parsed == FP32:
        raise SpecError("fp32 is the float model itself: name the precisions whose errors are wanted.")
    return str(parsed)
