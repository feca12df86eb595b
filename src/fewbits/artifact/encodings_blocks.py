"""Block-wise grids in AIMET's layouts: scales as one list, channel by channel, and LPBQ, whose scales are products.

A weight [C, K, kernel ...] has a scale per output channel and block of inputs. AIMET's files know no scale per kernel
position; fewbits' own grids (one scale for `size` elements of an axis, as ONNX has them) repeat it there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.numerics.affine import blocked_shape
from fewbits.spec.dtypes import PerBlock

Entry = dict[str, Any]
Array = npt.NDArray[Any]


def channel_of(block_axis: int, shape: tuple[int, ...]) -> int:
    """Return the axis of channels of a weight whose blocks lie along `block_axis`."""
    others = [axis for axis in range(len(shape)) if axis != block_axis]
    return next((axis for axis in others if shape[axis] != 1), others[0] if others else 0)


def spread(
    listed: Array, granularity: PerBlock, shape: tuple[int, ...], channel_axis: int, *, is_row_major: bool = False
) -> Array:
    """Return scales (or offsets) of a file, one list channel by channel, in the shape of ONNX's blocked scales.

    Args:
        listed: [channels x blocks].
        granularity: block axis and size.
        shape: of the weight.
        channel_axis: where its channels lie.
        is_row_major: the list has the order of the weight's own axes, as layout 0.6.1 writes it.

    Raises:
        ValueError: there are not channels x blocks of them.
    """
    blocked = blocked_shape(shape, granularity)
    channels, blocks = shape[channel_axis], blocked[granularity.axis]
    if listed.size != channels * blocks:
        raise ValueError(f"{listed.size} scales are not {channels} channels of {blocks} blocks")
    thin = [1] * len(shape)
    thin[channel_axis], thin[granularity.axis] = channels, blocks
    is_turned = channel_axis > granularity.axis and not is_row_major
    ordered = listed.reshape(channels, blocks).T if is_turned else listed
    return np.ascontiguousarray(np.broadcast_to(ordered.reshape(thin), blocked))


def gather(scales: Array, block_axis: int, channel_axis: int) -> Array:
    """Return ONNX's blocked scales as the list of a file: the inverse of `spread`.

    Raises:
        ValueError: scales differ between positions of a kernel, for which the layout has no place.
    """
    moved = np.moveaxis(scales, (channel_axis, block_axis), (0, 1)).reshape(
        scales.shape[channel_axis], scales.shape[block_axis], -1
    )
    if np.any(moved != moved[..., :1]):
        raise ValueError("its scales differ between positions of the kernel")
    return np.ascontiguousarray(moved[..., 0]).ravel()


def expand_lpbq(entry: Entry) -> Entry:
    """Return an LPBQ entry of layout 1.0.0 as the block-wise grid that it stands for.

    Its scale is that of the channel times the integer of the block, in float32.
    """
    if not isinstance(entry, dict) or str(entry.get("enc_type", "")).upper() != "LPBQ":
        return entry
    channels = np.asarray(entry["scale"], np.float32).reshape(-1, 1)
    factors = np.asarray(entry["per_block_int_scale"], np.float32).reshape(channels.shape[0], -1)
    scales, bits = (channels * factors).ravel(), int(entry["compressed_bw"])
    return {
        "name": entry["name"],
        "bw": bits,
        "dtype": "INT",
        "enc_type": "PER_BLOCK",
        "is_sym": True,
        "offset": [-float(2 ** (bits - 1))] * scales.size,
        "scale": [float(s) for s in scales],
        "block_size": int(entry["block_size"]),
    }


def from_nested(grid: Entry) -> tuple[Entry, int]:
    """Return what layout 1.0.0 says of a block-wise or LPBQ grid of layout 2.0.0, and its block axis.

    Returns:
        scale and zero point as lists channel by channel, and the block size.
    """
    if "per_block_int_scale" in grid:
        factors = np.asarray(grid["per_block_int_scale"], np.float32)
        scales = np.asarray(grid["per_channel_float_scale"], np.float32) * factors
    else:
        scales = np.asarray(grid["y_scale"], np.float64)
    axis = int(grid["axis"]) % scales.ndim
    channel = channel_of(axis, scales.shape)
    zeros = np.broadcast_to(np.asarray(grid.get("y_zero_point", 0)), scales.shape)
    lists = {"scale": gather(scales, axis, channel), "zero_point": gather(zeros, axis, channel)}
    return {name: values.tolist() for name, values in lists.items()} | {"block_size": int(grid["block_size"])}, axis


def nested(listed: list[float], axis: int, shape: list[int]) -> Any:
    """Return a list channel by channel as layout 2.0.0 nests it: in the shape of the scales, kernels collapsed.

    Args:
        listed: [channels x blocks].
        axis: of the blocks.
        shape: of the nested list, as fewbits notes it.
    """
    channel = channel_of(axis, tuple(shape))
    table = np.asarray(listed).reshape(shape[channel], shape[axis])
    return (table if channel < axis else table.T).reshape(shape).tolist()
