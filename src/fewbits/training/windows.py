"""Windows: parts of one size of samples that differ in shape, so that batches can be made of them.

A window is cut along the axes that the model leaves open; inputs that share an axis by its name are cut at the same
place. What the float model says of a window is what the quantized one learns there, so that nothing is approximated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.training.schedule import LABELS

Sample = Mapping[str, npt.NDArray[np.generic]]
Axes = Mapping[str, tuple[str | None, ...]]
_LARGEST = 64 * 64
"""Positions of a window that is chosen automatically, at most."""
_STEP = 2**14
"""Positions that the windows of one step have together, about."""
_ROUND = (32, 8, 1)  # networks halve their inputs some times
_SHORT = 0.25  # share of the samples that may be shorter than a window that is chosen automatically


@dataclass(frozen=True, slots=True)
class Windows:
    """How samples are cut.

    Attributes:
        axes: input -> name of each axis that is cut, None for the others.
        sizes: name of an axis -> size of a window.
    """

    axes: Axes
    sizes: Mapping[str, int]

    def per_step(self, batch_size: int) -> int:
        """Return how many windows make a step: as many as samples, fewer where they are large."""
        return max(1, min(batch_size, _STEP // self.positions))

    @property
    def positions(self) -> int:
        """Positions in a window."""
        return math.prod(self.sizes.values())

    def room(self, sample: Sample) -> dict[str, int] | None:
        """Return the last place where a window may begin, by axis; None where the sample is too small."""
        found = {name: size - self.sizes[name] for name, size in (_sizes(sample, self.axes) or {}).items()}
        return found if found and min(found.values()) >= 0 else None

    def repeats(self, sample: Sample) -> int:
        """Return how many windows a sample is worth."""
        sizes = _sizes(sample, self.axes) or {}
        return max(1, round(math.prod(sizes.values()) / self.positions))

    def cut(self, sample: Sample, begin: Mapping[str, int]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the window of a sample that begins at `begin`; labels are those of the whole sample."""
        found = {}
        for name, value in sample.items():
            part = tuple(
                slice(None) if axis is None else slice(begin[axis], begin[axis] + self.sizes[axis])
                for axis in self.axes.get(name, (None,) * value.ndim)
            )
            found[name] = value[part]
        return found

    def tiles(self, sample: Sample, most: int) -> list[dict[str, int]]:
        """Return places that cover a sample evenly, at most `most` of them."""
        room = self.room(sample)
        if room is None:
            return []
        starts = [np.linspace(0, last, -(-last // self.sizes[axis]) + 1).astype(int) for axis, last in room.items()]
        grid = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(starts))
        chosen = grid[np.unique(np.linspace(0, len(grid) - 1, min(most, len(grid))).astype(int))]
        return [dict(zip(room, map(int, place), strict=True)) for place in chosen]

    def __str__(self) -> str:
        """Return e.g. `64 x 64 (h, w)`."""
        return f"{' x '.join(map(str, self.sizes.values()))} ({', '.join(self.sizes)})"


def most_positions(window: int | None, axes: int) -> int:
    """Return how many positions the windows of one step have together, at most.

    Args:
        window: size of a window along every open axis; None is one that is chosen automatically.
        axes: how many of these there are.
    """
    return max(_STEP, math.prod([window or 0] * axes))


def open_axes(model: ir.Model) -> dict[str, tuple[str | None, ...]]:
    """Return the names of the open axes of every input, but the first, which counts samples; None for the others."""
    found = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        dims = [] if value.shape is None else list(value.shape)
        names = [None if isinstance(dim, int) else _axis_name(value, i, dim) for i, dim in enumerate(dims)]
        found[str(value.name)] = tuple(name if i else None for i, name in enumerate(names))
    return found


def choose_windows(samples: Sequence[Sample], axes: Axes, wanted: int | None) -> Windows | str:
    """Return how samples of several shapes are cut into windows of one; or why they are not, "" where none are needed.

    Args:
        samples: each with one row along the first axis.
        axes: those of the model.
        wanted: size along every open axis; 0 cuts nothing; None chooses sizes where samples differ in shape.

    Raises:
        SpecError: no sample has the wanted size, or no axis is open.
    """
    if wanted == 0:
        return ""
    sizes = [_sizes(sample, axes) for sample in samples]
    names = {name for found in axes.values() for name in found if name is not None}
    if not names and wanted:
        raise SpecError(f"--window {wanted} needs inputs with open axes, and this model fixes them all: leave it out.")
    if not wanted and all(size == sizes[0] for size in sizes):
        return ""
    reason = _reason(samples, sizes, axes)
    if reason:
        return reason
    made = Windows(axes, _chosen([size for size in sizes if size is not None], wanted))
    if any(made.room(sample) is not None for sample in samples):
        return made
    if wanted:
        raise SpecError(f"No sample is as large as --window {wanted}: name a smaller size, or 0 for whole samples.")
    return "no sample is large along all open axes"


def _reason(samples: Sequence[Sample], sizes: Sequence[dict[str, int] | None], axes: Axes) -> str:
    if any(size is None for size in sizes):
        return "axes of the same name have different sizes"
    if len(axes) > 1 and any(name is not None and "[" in name for found in axes.values() for name in found):
        return "it does not say which axes of its inputs belong together"
    if any(sample[LABELS].ndim > 1 for sample in samples if LABELS in sample):
        return "labels would have to be cut, too"
    return ""


def _axis_name(value: ir.Value, axis: int, dim: object) -> str:
    name = getattr(dim, "value", None)
    return f"{value.name}[{axis}]" if name is None else str(name)


def _sizes(sample: Sample, axes: Axes) -> dict[str, int] | None:
    """Return name of an axis -> its size in a sample; None where inputs disagree, or have another rank."""
    found: dict[str, int] = {}
    for name, symbols in axes.items():
        value = sample[name]
        if value.ndim != len(symbols):
            return None
        for symbol, size in zip(symbols, value.shape, strict=True):
            if symbol is not None and found.setdefault(symbol, size) != size:
                return None
    return found


def _chosen(sizes: Sequence[Mapping[str, int]], wanted: int | None) -> dict[str, int]:
    names = list(sizes[0])
    if wanted:
        return dict.fromkeys(names, wanted)
    most = int(_LARGEST ** (1 / len(names)) + 1e-9)
    found = {}
    for name in names:
        size = min(most, int(np.quantile([one[name] for one in sizes], _SHORT, method="lower")))
        step = next(step for step in _ROUND if size >= step)
        found[name] = size - size % step
    return found
