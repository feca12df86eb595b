"""Derive a quantized model from a calibration; the float model does not run again."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from fewbits.graph.save import to_bytes
from fewbits.quantization.encode import Encoded, Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.overflow import half_overflows
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.quantization.select import Selection
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.pins import fit_pins, pin_notes
from fewbits.workflow.ranges import resolve_ranges


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantized model and how it was decided.

    Attributes:
        model: the QDQ graph.
        profile: what was asked for.
        plan: the grids and the reasons.
        encoded: the encodings, and what had to give way.
        notes: sentences for the user.
        pinned: tensor -> encoding that was given and not derived.
        trials: (ranges that were tried, relative output error), where they were chosen by trial.
        ranges: how ranges were chosen; serves other profiles of the same network.
    """

    model: ir.Model
    profile: Profile
    plan: Plan
    encoded: Encoded
    notes: tuple[str, ...]
    pinned: Mapping[str, Encoding]
    trials: tuple[tuple[str, float], ...] = ()
    ranges: Ranges = field(default_factory=Ranges)

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """Grid key -> encoding."""
        return self.encoded.encodings

    def to_bytes(self) -> bytes:
        """Return the model as one ONNX message.

        Raises:
            ModelError: it is larger than protobuf's 2 GB.
        """
        return to_bytes(self.model)

    @property
    def counts(self) -> dict[str, int]:
        """Nodes by precision, the most frequent first."""
        return dict(Counter(str(node.precision) for node in self.plan.nodes.values()).most_common())

    @property
    def declined(self) -> dict[str, list[str]]:
        """Reason -> names of the nodes that stay in float32 for it."""
        reasons: dict[str, list[str]] = {}
        for name, node in self.plan.nodes.items():
            if node.reason:
                reasons.setdefault(node.reason, []).append(name)
        return reasons


def quantize_calibrated(
    calibration: Calibration,
    profile: Profile | str,
    *,
    ranges: str | Ranges = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    pinned: Mapping[str, Encoding] | None = None,
) -> Quantized:
    """Return the model in the precision that `profile` asks for.

    Args:
        calibration: from `calibrate`; serves any number of calls.
        profile: a precision such as "w8a8", or a mixed-precision profile.
        ranges: auto, minmax, mse, entropy or percentile:99.99; or what another profile came to, which then decides on
            weights and biases, too.
        weight_ranges: auto, absmax or mse.
        bias_correction: let biases take up the mean error of rounded weights.
        pinned: tensor -> encoding to be used as it is; by default those of the model's earlier run.

    Raises:
        SpecError: the profile or a range name cannot be used on this model and target.
    """
    wanted = Profile.parse(profile) if isinstance(profile, str) else profile
    given = calibration.source.pinned if pinned is None else pinned
    graph, statistics = calibration.model.graph, calibration.statistics
    refused = half_overflows(graph, statistics)
    plan = resolve(calibration.model, wanted, calibration.target, half_refused=refused)
    fixed = fit_pins(plan, given)
    chosen = (
        Selection(ranges, ())
        if isinstance(ranges, Ranges)
        else resolve_ranges(
            ranges, weight_ranges, bias_correction=bias_correction, calibration=calibration, plan=plan, pinned=fixed
        )
    )
    encoded = encode(graph, plan, statistics, chosen.ranges, pinned=fixed, memo=calibration.memo)
    model = insert_qdq(calibration.model, plan, encoded)
    made = (*encoded.notes, *pin_notes(plan, given, fixed), *_domain_note(model, calibration.model))
    notes = (*calibration.target.notes, *made)
    return Quantized(model, wanted, plan, encoded, notes, fixed, chosen.trials, chosen.ranges)


def _domain_note(made: ir.Model, source: ir.Model) -> tuple[str, ...]:
    if "com.microsoft" not in made.opset_imports or "com.microsoft" in source.opset_imports:
        return ()
    opset = made.opset_imports.get("", 0)
    why = f"onnxruntime has none of these widths at ONNX opset {opset}"
    return (f"QuantizeLinear and DequantizeLinear are those of the domain com.microsoft, because {why}.",)
