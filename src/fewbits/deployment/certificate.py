"""The parity certificate: what a fresh process makes of the artifact, against what was scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.artifact.samples import Arrays
from fewbits.numerics.metrics import SqnrAccumulator

LIMITS = (
    "Bit equality is promised on one machine with one version of onnxruntime: other processors may round otherwise.",
    "Only the samples counted here were run.",
)
NOT_PROVEN = (
    "How the model behaves on the target device: nothing ran there.",
    "That the device's own tools accept the file.",
    "The score: it is in record.json, and depends on its data.",
)


@dataclass(frozen=True, slots=True)
class OutputParity:
    """One output of the artifact, compared over all samples; SQNR in dB, None where every value is equal.

    Attributes:
        values: elements compared.
        differing: elements whose bytes differ from the stored output of the scored sim.
        exact_db: against the same graph executed exactly as written.
        plain_db: against a session with onnxruntime's own defaults, as a user opens it.
        float_db: against the float model.
    """

    values: int
    differing: int
    exact_db: float | None
    plain_db: float | None
    float_db: float | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was shown, under which conditions, and what was not shown.

    Attributes:
        passed: every file is the recorded one, and no byte of the outputs differs.
        samples: runs compared.
        outputs: output -> parity.
        conditions: versions, machine, provider, files and their hashes.
        limits: how far the statement reaches.
        not_proven: what it does not say.
    """

    passed: bool
    samples: int
    outputs: Mapping[str, OutputParity]
    conditions: Mapping[str, Any]
    limits: tuple[str, ...] = LIMITS
    not_proven: tuple[str, ...] = NOT_PROVEN

    @property
    def differing(self) -> int:
        """Values that differ over all outputs."""
        return sum(parity.differing for parity in self.outputs.values())


def certify(
    stored: Sequence[Arrays],
    fresh: Sequence[Arrays],
    *,
    exact: Sequence[Arrays],
    plain: Sequence[Arrays],
    floats: Sequence[Arrays],
    conditions: Mapping[str, Any],
    is_whole: bool = True,
) -> Certificate:
    """Compare the outputs of the scored sim with those of a fresh process.

    Args:
        stored: of the scored sim, one per sample.
        fresh: of the artifact in a fresh process under the same policy.
        exact: of the artifact executed as written.
        plain: of the artifact in a session with onnxruntime's defaults.
        floats: of the float model.
        conditions: to be noted.
        is_whole: every file is the recorded one; without that nothing passes.
    """
    outputs: dict[str, OutputParity] = {}
    for name in stored[0]:
        columns = [[one[name] for one in side] for side in (stored, fresh, exact, plain, floats)]
        pairs = list(zip(columns[0], columns[1], strict=True))
        outputs[name] = OutputParity(
            values=sum(array.size for array in columns[0]),
            differing=sum(count_differing(left, right) for left, right in pairs),
            exact_db=sqnr(columns[2], columns[1]),
            plain_db=sqnr(columns[3], columns[1]),
            float_db=sqnr(columns[4], columns[1]),
        )
    passed = is_whole and not any(parity.differing for parity in outputs.values())
    return Certificate(passed, len(stored), outputs, conditions)


def count_differing(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> int:
    """Return how many elements differ in any bit; all of them where shapes or types differ."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return max(left.size, right.size, 1)
    if left.dtype.hasobject:
        return int(np.sum(left != right))
    width = left.dtype.itemsize
    raw = [np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(-1, width) for x in (left, right)]
    return int(np.sum((raw[0] != raw[1]).any(axis=1)))


def sqnr(reference: Sequence[npt.NDArray[Any]], test: Sequence[npt.NDArray[Any]]) -> float | None:
    """Return the SQNR in dB over all arrays; None where they are equal, or are no numbers."""
    accumulator = SqnrAccumulator()
    for left, right in zip(reference, test, strict=True):
        if left.shape != right.shape or not left.size or left.dtype.kind not in "fiub":
            return None
        accumulator.update(left, right)
    return None if accumulator.noise == 0 else accumulator.db
