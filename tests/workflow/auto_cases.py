"""Runs of the whole workflow on the tiny network: their options, and what of their folders is compared."""

import importlib
import importlib.util
import json
from contextlib import contextmanager

import pytest
from amp_cases import THREADS, files_of

from fewbits.artifact import names
from fewbits.workflow import auto_run, quantized
from fewbits.workflow import report as pages
from fewbits.workflow.auto import auto

# SQNR in dB: w8a8 47.7, w8a16 61.2, w16a16 96.0, fp16 75.1; 5, 20, 40 % of the groups in w8a16 50.6, 51.3, 52.0
MET_BY_LITEMP, MET_BY_W8A8, MET_BY_W16A16, MET_BY_NONE = 51.5, 30.0, 80.0, 120.0
_TIMES = ("created", "timings", "wall_s", "peak_mb", "preflight")


def options_of(tiny, output, **changes):
    return {"data": tiny.calib, "metric": "sqnr", "min_sqnr": MET_BY_LITEMP, "output": output} | THREADS | changes


def auto_of(tiny, output, **changes):
    return auto(tiny.model, **options_of(tiny, output, **changes))


def hide_torch(patch):
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))


@contextmanager
def quickly(*, is_checked=False, has_torch=False):
    """Leave out what takes long and is tested elsewhere: gradients, trials of ranges, preflight, pages, checks."""
    with pytest.MonkeyPatch.context() as patch:
        if not has_torch:
            hide_torch(patch)
        resolve = quantized.resolve_ranges
        patch.setattr(quantized, "resolve_ranges", lambda _, *weights, **of: resolve("minmax", *weights, **of))
        if not is_checked:
            patch.setattr(importlib.import_module("fewbits.workflow.auto"), "preflight", lambda *of, **how: None)
            patch.setattr(pages, "render", lambda *sources: "<html>")
            patch.setattr(auto_run, "check_made", lambda *folder, **how: {})
        yield patch


def steps_of(record):
    return [fork.step for fork in record.forks]


def evaluations_of(record):
    return sum(fork.evaluations for fork in record.forks)


def plain(folder):
    """Return the record of a run without what differs between any two runs."""
    document = json.loads((folder / names.RECORD).read_text().replace(str(folder), "OUT"))
    for fork in document["forks"]:
        del fork["seconds"], fork["evaluations"]
    return {key: value for key, value in document.items() if key not in _TIMES}


def assert_whole(folder):
    """Check that a run's folder holds one model of its own, whole, and nothing half-written."""
    record = json.loads((folder / names.RECORD).read_text())
    chosen = next(made["folder"] for made in record["contenders"] if made["name"] == record["chosen"])
    assert files_of(folder) == files_of(folder / chosen)
    assert not list(folder.rglob(".fewbits.*"))
