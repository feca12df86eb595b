"""Runs of `amp` on the tiny network: their options, and what of their folders is compared."""

import json

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.runtime.session import RunOptions

THREADS = {"run_options": RunOptions(threads=1)}
BRUTE = {"metric": "sqnr", "ranking": "brute-force", "ranges": "minmax", **THREADS}
TWO = ("w8a8", "w8a16")
METRIC = """
import numpy as np
from pathlib import Path

HERE = Path(__file__).parent

def quality(predict):
    before = np.load(HERE / "before.npz")
    logits = predict({"image": before["image"]})["logits"]
    stop = HERE / "stop"
    with (HERE / "log").open("a") as log:
        log.write(f"{float(logits.sum())!r}\\n")
    if stop.exists() and len((HERE / "log").read_text().splitlines()) >= int(stop.read_text()):
        raise KeyboardInterrupt
    return 100 - 100 * float(np.abs(logits - before["logits"]).mean())
"""
# quality: float 100, all in w8a8 97.9, all in w8a16 98.8


def options_of(tiny, metric, **changes):
    named = {"data": tiny.calib, "metric": metric, "candidates": TWO, "max_drop": 1.6, "samples": 16, **THREADS}
    return named | {"ranking": "brute-force", "ranges": "minmax"} | changes


def logged(folder):
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def plain(folder):
    """Return the record of a run without what differs between any two runs."""
    text = (folder / names.RECORD).read_text().replace(str(folder), "OUT")
    document = json.loads(text)
    return {key: value for key, value in document.items() if key not in ("created", "timings")}


def files_of(folder):
    return {name: sha256(folder / name) for name in (names.ARTIFACT, names.FLOAT, names.ENCODINGS, names.SAMPLES)}


def scored(record):
    return [point for point in record.points if point.score is not None]
