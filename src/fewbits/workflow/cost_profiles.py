"""Profiles of ONNX Runtime sessions, each measured once per content, machine and versions."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.reporting.record import machine, versions
from fewbits.runtime.data.types import Array
from fewbits.runtime.profile_session import NodeTime, SessionProfile, profile_session, time_session
from fewbits.runtime.store import key_of
from fewbits.workflow.cost_context import CostContext


def remembered_profile(context: CostContext, model: Path, feeds: Mapping[str, Array]) -> SessionProfile:
    """Return the profile of a model file, measured where the store does not have it.

    Args:
        context: its store, and how models run.
        model: path of an ONNX file.
        feeds: one batch.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    options = context.calibration.subject.options
    key = _key("profile", context, model, feeds)
    found = context.store.remember(key, lambda: asdict(profile_session(model, feeds, options=options)))
    nodes = (NodeTime(n["name"], n["op"], tuple(n["inputs"]), tuple(n["outputs"]), n["us"]) for n in found["nodes"])
    return SessionProfile(tuple(nodes), found["total_us"])


def remembered_time(context: CostContext, model: Path, feeds: Mapping[str, Array]) -> float:
    """Return the microseconds of a run of a model file, likewise."""
    options = context.calibration.subject.options
    key = _key("time", context, model, feeds)
    return float(context.store.remember(key, lambda: time_session(model, feeds, options=options)))


def _key(what: str, context: CostContext, model: Path, feeds: Mapping[str, Array]) -> str:
    options = context.calibration.subject.options
    files = (model, model.with_name(model.name + names.DATA_SUFFIX))
    content = [sha256(file) for file in files if file.is_file()]
    shapes = {name: [str(array.dtype), *array.shape] for name, array in feeds.items()}
    provider, *libraries = options.identity()
    return key_of(what, content, shapes, machine(), versions(), provider, options.threads, *libraries)
