"""What the options --ranges and --weight-ranges mean."""

from collections.abc import Mapping

from fewbits.errors import SpecError
from fewbits.numerics.channel_error import ChannelError
from fewbits.numerics.ranges import parse_estimator
from fewbits.quantization.encode import Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.select import TRIAL_SAMPLES, Selection, choose_ranges
from fewbits.runtime.session import Arrays
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.sessions import open_graph

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


def resolve_ranges(
    ranges: str,
    weight_ranges: str,
    *,
    bias_correction: bool = True,
    calibration: Calibration,
    plan: Plan,
    pinned: Mapping[str, Encoding],
) -> Selection:
    """Return the ranges that the options ask for, and what was tried to choose them.

    Args:
        ranges: auto, or the name of an estimator.
        weight_ranges: auto, absmax or mse.
        bias_correction: let biases take up the mean error of rounded weights.
        calibration: what "auto" may look at, and the samples that it may run.
        plan: the grids that the ranges are for.
        pinned: encodings that are not up for choice.

    Raises:
        SpecError: a name is unknown.
    """
    check_ranges(ranges, weight_ranges)
    weights = "mse" if weight_ranges == AUTO else weight_ranges
    if ranges != AUTO:
        return Selection(Ranges(parse_estimator(ranges), weights, bias_correction), ())
    trial = _Trial(calibration, plan, pinned)
    return choose_ranges(plan, Ranges(weights=weights, correct_biases=bias_correction), trial.error, pinned)


class _Trial:
    """Runs candidate ranges on a few calibration samples; the float outputs are computed on first use.

    These are those of the reference: what the network should give, whatever its weights have become.
    """

    def __init__(self, calibration: Calibration, plan: Plan, pinned: Mapping[str, Encoding]) -> None:
        self._calibration = calibration
        self._plan = plan
        self._pinned = pinned
        self._runs: list[tuple[Arrays, Arrays]] = []

    def error(self, ranges: Ranges) -> float:
        """Return the error of the outputs, relative to the variance of each channel, averaged over the outputs."""
        subject = self._calibration.subject
        encoded = encode(
            subject.model.graph, self._plan, self._calibration.statistics, ranges,
            pinned=self._pinned, memo=self._calibration.memo,
        )  # fmt: skip
        runner = open_graph(insert_qdq(subject.model, self._plan, encoded), subject.options)
        errors = {name: ChannelError() for name in runner.output_names}
        for feeds, wanted in self._references():
            given = runner(feeds)
            for name, reference in wanted.items():
                if reference.dtype.kind == "f" and reference.shape == given[name].shape:
                    errors[name].update(reference, given[name])
        found = [error.value for error in errors.values() if error.value is not None]
        return sum(found) / len(found) if found else 0.0

    def _references(self) -> list[tuple[Arrays, Arrays]]:
        if not self._runs:
            subject, size = self._calibration.subject, self._calibration.batch_size
            for batch in subject.data.batches(size, TRIAL_SAMPLES):
                feeds = dict(batch.feeds)
                self._runs.append((feeds, subject.reference(feeds)))
        return self._runs
