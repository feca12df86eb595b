"""Rules of the diagnosis for groups whose tensors look as they should: they are simply sensitive, and to what."""

from fewbits.analysis.diagnose_case import Case, Evidence, decibels
from fewbits.analysis.sensitivity import Part
from fewbits.spec.precision import Precision

DOMINANCE = 4.0
"""A part dominates when its error is this many times the other's (6 dB)."""


def weight_bits(case: Case) -> Evidence | None:
    """The weights alone make the error."""
    return _dominant(case, "weights") if _leads(case.weights, case.activations) else None


def activation_bits(case: Case) -> Evidence | None:
    """The activations alone make the error."""
    return _dominant(case, "activations") if _leads(case.activations, case.weights) else None


def sensitive(case: Case) -> Evidence | None:
    """Nothing in particular: what every group gets that no rule before explains."""
    precision = case.network.precision
    split = ""
    if case.weights is not None and case.activations is not None:
        split = f" (its weights alone {decibels(case.weights)}, its activations alone {decibels(case.activations)})"
    return Evidence(
        "",
        f"{case.group.op} {case.group.name!r} alone in {precision} leaves {decibels(case.error)} at the output{split}: "
        f"nothing is unusual in its ranges, it is simply sensitive{case.outlook('activations')}.",
        case.lift("activations"),
        _figures(case),
    )


def _leads(part: float | None, other: float | None) -> bool:
    return part is not None and other is not None and part > DOMINANCE * other


def _dominant(case: Case, part: Part) -> Evidence:
    precision = Precision.parse(case.network.precision)
    bits = precision.weight_bits if part == "weights" else precision.activation_bits
    mine, other = (case.weights, case.activations) if part == "weights" else (case.activations, case.weights)
    rest = "activations" if part == "weights" else "weights"
    kind = f"{bits}-bit {part}" if bits else f"{part} in {precision}"
    return Evidence(
        "",
        f"{case.group.op} {case.group.name!r} alone in {precision} leaves {decibels(case.error)} at the output (its "
        f"{part} alone {decibels(mine)}, its {rest} alone {decibels(other)}): nothing is unusual in its ranges, it is "
        f"simply sensitive to {kind}{case.outlook(part)}.",
        case.lift(part),
        _figures(case),
    )


def _figures(case: Case) -> dict[str, float]:
    named = {"error": case.error, "weights": case.weights, "activations": case.activations}
    return {name: value for name, value in named.items() if value is not None}
