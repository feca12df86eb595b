"""Smallest and largest value of each channel, in one pass over the data: what absorbing and smoothing need."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import DataError
from fewbits.improvement.absorb_bias import lows_to_observe
from fewbits.improvement.smooth import tops_to_observe
from fewbits.quantization.observe import Feeds, RunNamed

F32 = npt.NDArray[np.float32]
Ranges = Mapping[str, tuple[F32, F32]]


def tensors_to_observe(model: ir.Model) -> dict[str, int]:
    """Return tensor -> channel axis of all that `absorb_bias` and `smooth` want to know of `model`."""
    return {**lows_to_observe(model), **tops_to_observe(model)}


def channel_ranges(
    run_named: RunNamed, names: Iterable[str], batches: Iterable[tuple[Feeds, int]], axis_by_name: Mapping[str, int]
) -> dict[str, tuple[F32, F32]]:
    """Return tensor -> (smallest, largest) value of each channel over all batches, [C] each.

    Args:
        run_named: runs the float model and returns the named tensors.
        names: the tensors, inputs of the graph among them.
        batches: feeds, each with its number of samples; read once, one at a time.
        axis_by_name: tensor -> axis of its channels.

    Raises:
        DataError: there is no sample, or a tensor becomes NaN or Inf.
    """
    wanted = list(dict.fromkeys(names))
    found = dict[str, tuple[F32, F32]]()
    samples = 0
    for feeds, size in batches if wanted else ():
        values = {**feeds, **run_named([name for name in wanted if name not in feeds], feeds)}
        for name in wanted:
            low, high = _extremes(values[name], axis_by_name[name])
            if not (np.isfinite(low).all() and np.isfinite(high).all()) and values[name].size:
                raise DataError(
                    f"Tensor {name!r} of the float model becomes NaN or Inf within samples {samples} to "
                    f"{samples + size - 1} of the calibration data: check those samples, or the model."
                )
            old = found.get(name, (low, high))
            found[name] = (np.minimum(old[0], low), np.maximum(old[1], high))
        samples += size
    if wanted and not samples:
        raise DataError("The calibration data hold no sample: give at least one with --data.")
    return found


def lows_of(ranges: Ranges) -> dict[str, F32]:
    """Return tensor -> smallest value of each channel, as `absorb_bias` takes it."""
    return {name: low for name, (low, _) in ranges.items()}


def tops_of(ranges: Ranges) -> dict[str, F32]:
    """Return tensor -> largest magnitude of each channel, as `smooth` takes it."""
    return {name: np.maximum(np.abs(low), np.abs(high)) for name, (low, high) in ranges.items()}


def _extremes(x: npt.NDArray[Any], axis: int) -> tuple[F32, F32]:
    """Return the extremes along `axis`; infinities, turned around, where `x` is empty."""
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    low = x.min(axis=others, initial=np.inf).astype(np.float32)
    return low, x.max(axis=others, initial=-np.inf).astype(np.float32)
