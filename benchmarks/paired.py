"""Whether methods of step 4 differ by more than the noise of the scored samples: kwt1 w4a8, sample by sample.

Two models are compared on the same samples in pairs: 95 % bootstrap interval of the difference of their scores, and the
exact p of McNemar's test on the samples that only one of them gets right. Beside it stands the SQNR of the outputs on
these samples. Then the same with 200 of the calibration samples, drawn several times.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

import fewbits
import record
from fewbits.analysis.scores import paired_interval
from fewbits.improvement.methods import Effort
from fewbits.runtime.session import RunOptions
from improve import METHODS, TARGET
from networks import NETWORKS, assets

NETWORK = NETWORKS["kwt1"]
COMPARED = ("seq-mse", "gptq", "gptq, rounded activations", "adaround", "adaround by block")
DRAWN = "gptq"
"""The method that is also run on calibration samples drawn several times; float and nearest come with each method."""
DRAWS, OF_EACH = 5, 200
Outputs = dict[str, npt.NDArray[np.float64]]


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--keep", type=Path, help="folder of outputs: what is there is not made again")
    args = parser.parse_args()
    found = record.start(f"paired: {NETWORK.name} w4a8")
    calibration = np.concatenate([feeds["mfcc"] for feeds in NETWORK.calibration(10**6)])
    labels = np.concatenate([one for _, one in assets().speech()])
    made: Outputs = {}
    for method in COMPARED:
        made |= outputs(method, "all", calibration, args)
    methods = ("float", "nearest", *COMPARED)
    rows = {name: {**told(name, made, labels), "against": against(name, made, labels)} for name in methods}
    drawn: dict[str, list[dict[str, float]]] = {"nearest": [], DRAWN: []}
    for seed in range(DRAWS):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(calibration))[:OF_EACH])
        of_draw = outputs(DRAWN, f"draw {seed}", calibration[chosen], args)
        for name, list_of in drawn.items():
            list_of.append(told(name, of_draw, labels))
    show(rows, drawn)
    samples = {"scored": len(labels), "calibration": len(calibration), "drawn": OF_EACH}
    record.save("paired", args, found, {"samples": samples, "methods": rows, "draws": drawn})


def outputs(method: str, name: str, calibration: npt.NDArray[np.float32], args: argparse.Namespace) -> Outputs:
    """Return what the float model, nearest and a method give on the scored samples."""
    path = None if args.keep is None else args.keep / f"{method}, {name}.npz"
    if path is not None and path.exists():
        return {name: value.astype(np.float64) for name, value in np.load(path).items()}
    given: list[npt.NDArray[np.float32]] = []

    def metric(predict: Any) -> float:
        given.append(np.concatenate([next(iter(predict(feeds).values())) for feeds, _ in assets().speech()]))
        return 0.0

    def data() -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        yield from ({"mfcc": calibration[i : i + 125]} for i in range(0, len(calibration), 125))

    names, effort = METHODS[method]
    fewbits.improve(
        NETWORK.path, data=data, precision="w4a8", methods=names, auto=False, effort=Effort(**effort), metric=metric,
        higher_is_better=True, target=TARGET, samples=len(calibration), run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    first, before, after = given
    found = {"float": first, "nearest": before, method: after}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    return {name: value.astype(np.float64) for name, value in found.items()}


def right(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return 100 for every sample whose class is right, 0 for the others."""
    return 100.0 * (values.argmax(1) == labels)


def told(name: str, made: Outputs, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the score of a model, and the SQNR of its outputs in dB."""
    error = float(((made[name] - made["float"]) ** 2).sum())
    sqnr_db = float(10 * np.log10((made["float"] ** 2).sum() / error)) if error else float("inf")
    return {"score": float(right(made[name], labels).mean()), **({"sqnr_db": sqnr_db} if error else {})}


def against(name: str, made: Outputs, labels: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return how the score of a model differs from that of every other."""
    found = {}
    for other in made:
        if other != name:
            mine, theirs = right(made[name], labels), right(made[other], labels)
            low, high = paired_interval(mine, theirs, rng=np.random.default_rng(0))
            more, fewer = int((mine > theirs).sum()), int((mine < theirs).sum())
            p = float(binomtest(more, more + fewer).pvalue) if more + fewer else 1.0
            found[other] = {"low": low, "high": high, "only_it": more, "only_other": fewer, "p": p}
    return found


def show(rows: dict[str, Any], drawn: dict[str, list[dict[str, float]]]) -> None:
    """Print both tables."""
    record.table(
        ("method", "score", "SQNR dB", "- nearest", "p", "- float", "p"),
        [
            (name, row["score"], row.get("sqnr_db"), *_pair(row, "nearest"), *_pair(row, "float"))
            for name, row in rows.items()
        ],
    )
    for name, found in drawn.items():
        scores = np.array([one["score"] for one in found])
        spread = f"from {scores.min():.2f} to {scores.max():.2f}, deviation {scores.std(ddof=1):.2f}"
        print(f"{name}: {scores.mean():.2f}, {spread}")


def _pair(row: dict[str, Any], other: str) -> tuple[str, float | None]:
    pair = row["against"].get(other)
    return ("", None) if pair is None else (f"{pair['low']:+.2f} to {pair['high']:+.2f}", pair["p"])


if __name__ == "__main__":
    main()
