"""A few samples with what the scored sim answered to them, stored beside the artifact so that anyone can check it."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewbits.artifact.folder import write_file
from fewbits.errors import OutputError
from fewbits.runtime.data.archive import read_archive

Arrays = Mapping[str, npt.NDArray[np.generic]]

MOST_SAMPLES = 4
MOST_BYTES = 16 << 20
_MOST_EMPTY = 4096  # runs of a model that has no inputs


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Feeds and outputs, one pair per run of the model.

    Attributes:
        feeds: input name -> array, as they were fed.
        outputs: output name -> array, as they came out.
    """

    feeds: tuple[Arrays, ...]
    outputs: tuple[Arrays, ...]


def collect_samples(
    predict: Callable[[Arrays], Arrays],
    feeds: Iterable[Arrays],
    *,
    most: int = MOST_SAMPLES,
    most_bytes: int = MOST_BYTES,
) -> Samples:
    """Run `predict` on the first few feeds and keep both sides.

    Args:
        predict: the scored sim.
        feeds: one per run.
        most: runs at most.
        most_bytes: stop before the arrays take more than this; the first run is kept whatever its size.
    """
    kept: list[tuple[Arrays, Arrays]] = []
    size = 0
    for one in feeds:
        outputs = predict(one)
        size += sum(array.nbytes for array in (*one.values(), *outputs.values()))
        if kept and size > most_bytes:
            break
        kept.append(({k: np.array(v) for k, v in one.items()}, outputs))
        if len(kept) >= most:
            break
    return Samples(tuple(pair[0] for pair in kept), tuple(pair[1] for pair in kept))


def write_samples(path: Path, samples: Samples) -> None:
    """Write `samples` as a .npz file without Python objects.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, pack_runs({"feeds": samples.feeds, "outputs": samples.outputs}))


def read_samples(path: Path) -> Samples:
    """Read what `write_samples` wrote.

    Raises:
        OutputError: the file is missing or damaged.
    """
    try:
        runs = unpack_runs(path.read_bytes())
        return Samples(runs["feeds"], runs["outputs"])
    except KeyError as error:
        raise OutputError(f"The stored samples {str(path)!r} lack {error}: quantize again.") from error
    except (OSError, ValueError) as error:
        raise OutputError(f"The stored samples {str(path)!r} cannot be read ({error}): quantize again.") from error


def pack_runs(runs: Mapping[str, Sequence[Arrays]]) -> bytes:
    """Return named lists of feeds (or outputs) as the bytes of a .npz file; text tensors become fixed-width text."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for kind, items in runs.items():
        names = list(items[0]) if items else []
        arrays[f"{kind}.names"] = np.array(names, dtype=np.str_)
        arrays[f"{kind}.count"] = np.array(len(items))
        for i, item in enumerate(items):
            for j, name in enumerate(names):
                value = np.asarray(item[name])
                arrays[f"{kind}.{i}.{j}"] = value.astype(np.str_) if value.dtype.hasobject else value
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_runs(data: bytes) -> dict[str, tuple[Arrays, ...]]:
    """Return what `pack_runs` packed.

    Raises:
        ValueError: these are other bytes; the text says what is wrong.
    """
    stored = read_archive(data)
    kinds = [key.removesuffix(".names") for key in stored if key.endswith(".names")]
    return {kind: _unpacked(stored, kind) for kind in kinds}


def _unpacked(stored: Arrays, kind: str) -> tuple[Arrays, ...]:
    names, count = stored[f"{kind}.names"], stored.get(f"{kind}.count", np.array(""))
    if names.dtype.kind != "U" or names.ndim != 1 or count.dtype.kind not in "iu" or count.shape != ():
        raise ValueError(f"names and number of {kind!r} are not there")
    runs = int(count)
    if not 0 <= runs <= (len(stored) if len(names) else _MOST_EMPTY):
        raise ValueError(f"it claims {runs} runs of {kind!r}")
    keys = [[(str(name), f"{kind}.{i}.{j}") for j, name in enumerate(names)] for i in range(runs)]
    if missing := [key for run in keys for _, key in run if key not in stored]:
        raise ValueError(f"{missing[0]!r} is missing")
    return tuple({name: _restored(stored[key]) for name, key in run} for run in keys)


def _restored(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array.astype(object) if array.dtype.kind == "U" else array
