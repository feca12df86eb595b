"""What the options --ranges and --weight-ranges mean."""

from fewbits.errors import SpecError
from fewbits.numerics.ranges import Mse, parse_estimator
from fewbits.quantization.encode import Ranges
from fewbits.quantization.profile import Profile
from fewbits.workflow.calibrate import Calibration

AUTO = "auto"
WEIGHT_RANGES = (AUTO, "absmax", "mse")


def check_ranges(ranges: str, weight_ranges: str) -> None:
    """Refuse names that mean nothing, before anything runs.

    Raises:
        SpecError: a name is unknown.
    """
    if ranges != AUTO:
        try:
            parse_estimator(ranges)
        except SpecError as error:
            raise SpecError(f"{str(error).rstrip('.')}, or auto.") from error
    if weight_ranges not in WEIGHT_RANGES:
        raise SpecError(f"Unknown weight ranges {weight_ranges!r}: write {', '.join(WEIGHT_RANGES)}.")


def resolve_ranges(ranges: str, weight_ranges: str, *, calibration: Calibration, profile: Profile) -> Ranges:
    """Return the ranges that the options ask for.

    Args:
        ranges: auto, or the name of an estimator.
        weight_ranges: auto, absmax or mse.
        calibration: what "auto" may look at.
        profile: the precision that the ranges are for.

    Raises:
        SpecError: a name is unknown.
    """
    del calibration, profile
    check_ranges(ranges, weight_ranges)
    activations = Mse() if ranges == AUTO else parse_estimator(ranges)
    return Ranges(activations, "mse" if weight_ranges == AUTO else weight_ranges)
