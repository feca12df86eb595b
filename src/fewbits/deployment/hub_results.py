"""What comes back from Qualcomm AI Hub, as figures: a profile, and the device's outputs beside the sim's."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.artifact.samples import Arrays
from fewbits.deployment.certificate import sqnr
from fewbits.deployment.hub import Array

NPU = "NPU"


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the device measured; None where the service gave no figure.

    Attributes:
        latency_us: of one inference, as the service estimates it from its runs.
        min_us: of the fastest run.
        median_us: over the runs.
        runs: how many were timed.
        peak_memory_bytes: while it ran.
        units: compute unit -> layers on it.
        elsewhere: (layer, its type, compute unit) of the layers that are not on the NPU.
    """

    latency_us: float | None
    min_us: float | None
    median_us: float | None
    runs: int
    peak_memory_bytes: int | None
    units: Mapping[str, int]
    elsewhere: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class OutputMatch:
    """One output of the device beside the sim's, over all samples.

    Attributes:
        device_name: what the device calls it.
        values: elements compared.
        is_equal: every value is.
        sqnr_db: of the device's values against the sim's; None where they are equal or cannot be compared.
        problem: why they cannot be compared; empty where they can.
    """

    device_name: str
    values: int
    is_equal: bool
    sqnr_db: float | None
    problem: str = ""


def profile_figures(document: Mapping[str, Any]) -> DeviceProfile:
    """Return the figures of a profile as the client gives it: execution_summary in us and bytes, execution_detail."""
    summary = document.get("execution_summary") or {}
    layers = document.get("execution_detail") or ()
    times = [float(one) for one in summary.get("all_inference_times") or ()]
    rows = [tuple(str(layer.get(key, "?")) for key in ("name", "type", "compute_unit")) for layer in layers]
    return DeviceProfile(
        latency_us=summary.get("estimated_inference_time"),
        min_us=min(times, default=None),
        median_us=statistics.median(times) if times else None,
        runs=len(times),
        peak_memory_bytes=summary.get("estimated_inference_peak_memory"),
        units=dict(Counter(unit for _, _, unit in rows).most_common()),
        elsewhere=tuple((name, kind, unit) for name, kind, unit in rows if unit != NPU),
    )


def match_outputs(stored: Sequence[Arrays], answered: Mapping[str, Sequence[Array]]) -> dict[str, OutputMatch]:
    """Compare the device's outputs with those of the scored sim.

    They are paired by name; where the device uses names of its own (output_0, output_1), by their order.

    Args:
        stored: of the sim, one per sample.
        answered: output name -> one array per sample, in the order of the model's outputs.
    """
    wanted = list(stored[0])
    theirs = wanted if set(wanted) <= set(answered) else list(answered)
    if len(theirs) != len(wanted):
        problem = f"the device gave {len(theirs)} outputs, the sim {len(wanted)}"
        return {name: OutputMatch("", 0, False, None, problem) for name in wanted}
    return {
        name: _match([one[name] for one in stored], answered[other], other)
        for name, other in zip(wanted, theirs, strict=True)
    }


def _match(ours: Sequence[Array], theirs: Sequence[Array], device_name: str) -> OutputMatch:
    if problem := _incomparable(ours, theirs):
        return OutputMatch(device_name, 0, False, None, problem)
    is_equal = all(np.array_equal(left, right) for left, right in zip(ours, theirs, strict=True))
    figure = sqnr(ours, theirs)
    if figure is not None and not math.isfinite(figure):
        return OutputMatch(device_name, 0, is_equal, None, "the sim's values are all zero")
    return OutputMatch(device_name, sum(array.size for array in ours), is_equal, figure)


def _incomparable(ours: Sequence[Array], theirs: Sequence[Array]) -> str:
    """Return why two outputs cannot be compared, or nothing."""
    if len(ours) != len(theirs):
        return f"the device gave {len(theirs)} runs, the sim {len(ours)}"
    for left, right in zip(ours, theirs, strict=True):
        if left.shape != right.shape:
            return f"the device gave the shape {list(right.shape)}, the sim {list(left.shape)}"
        if not left.size or left.dtype.kind not in "fiub" or right.dtype.kind not in "fiub":
            return "they are no numbers"
        if not np.isfinite(left).all() or not np.isfinite(right).all():
            return "they hold NaN or infinities"
    return ""
