"""Where the time of a run goes: the graph that ONNX Runtime really runs, and the microseconds of each of its nodes."""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from fewbits.errors import FewbitsError, ModelError
from fewbits.runtime.data.types import Array
from fewbits.runtime.session import RunOptions, SessionPolicy

_WARM_UP = 3
_FEWEST_RUNS, _MOST_RUNS = 5, 50
_SECONDS = 1.5  # aimed at, for each of the two sessions
_KERNEL = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node of the optimized graph.

    Attributes:
        name: that ONNX Runtime gave it, or kept; it may be empty.
        op: its operator, often a fused one.
        inputs: names of the tensors that it reads.
        outputs: names of the tensors that it writes.
        us: microseconds per run.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    us: float


@dataclass(frozen=True, slots=True)
class SessionProfile:
    """Where the time of a run goes.

    Attributes:
        nodes: of the optimized graph, in the order in which they run; their times add up to `total_us`.
        total_us: of a run that nothing looks at.
    """

    nodes: tuple[NodeTime, ...]
    total_us: float


def profile_session(model: str | Path, feeds: Mapping[str, Array], *, options: RunOptions) -> SessionProfile:
    """Return how long each node of a model takes under the default policy, whatever widths it mixes.

    Each figure is the mean over the quickest quarter of the runs: what disturbs a machine only adds. The profiler adds
    about the same to each node; that is taken off again, so that all nodes add up to a run without it.

    Args:
        model: path of an ONNX file.
        feeds: one batch.
        options: provider and threads.

    Raises:
        ModelError: onnxruntime cannot load or run it.
    """
    with tempfile.TemporaryDirectory(prefix="fewbits.") as scratch, _said():
        plain, session = _open(model, options, None), _open(model, options, Path(scratch))
        before_us, runs = _time(plain, feeds)
        for _ in range(_WARM_UP + runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        total_us = min(before_us, _time(plain, feeds)[0])
        graph = onnx.load(Path(scratch) / "optimized.onnx", load_external_data=False).graph
    found = _matched(graph.node, _durations(events))
    spent = _without_overhead([us for _, us in found], total_us)
    nodes = (
        NodeTime(node.name, node.op_type, tuple(node.input), tuple(node.output), us)
        for (node, _), us in zip(found, spent, strict=True)
    )
    return SessionProfile(tuple(nodes), total_us)


def time_session(model: str | Path, feeds: Mapping[str, Array], *, options: RunOptions) -> float:
    """Return the microseconds of one run under the same policy: the mean over the quickest quarter of some runs.

    Args:
        model: path of an ONNX file.
        feeds: one batch.
        options: provider and threads.

    Raises:
        ModelError: onnxruntime cannot load or run it.
    """
    with _said():
        return _time(_open(model, options, None), feeds)[0]


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except FewbitsError:
        raise
    except Exception as error:  # ORT raises many bare types; each is the same news for the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"onnxruntime could not time the model: {reason}. Choose another cost.") from error


def _open(model: str | Path, options: RunOptions, folder: Path | None) -> ort.InferenceSession:
    """Open a session as `open_session` does; with a folder, one that leaves its graph and its profile there."""
    refused: Exception | None = None
    for policy in (SessionPolicy.DEFAULT, SessionPolicy.EXACT):  # some weights cannot be converted under the first
        settings = options.settings(policy.options)
        if folder is not None:
            settings.enable_profiling, settings.profile_file_prefix = True, str(folder / "profile")
            settings.optimized_model_filepath = str(folder / "optimized.onnx")
            settings.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "optimized.data"
            )
        try:
            return ort.InferenceSession(str(model), sess_options=settings, providers=[options.provider_name()])
        except Exception as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _time(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> tuple[float, int]:
    """Return microseconds per run, and how many runs are enough."""
    seconds: list[float] = []
    runs = _FEWEST_RUNS
    while len(seconds) < _WARM_UP + runs:
        begin = time.perf_counter()
        session.run(None, dict(feeds))
        seconds.append(time.perf_counter() - begin)
        if len(seconds) == _WARM_UP:
            runs = min(max(round(_SECONDS / seconds[-1]), _FEWEST_RUNS), _MOST_RUNS)
    return 1e6 * _quick(seconds[_WARM_UP:]), runs


def _quick(values: Sequence[float]) -> float:
    """Return the mean of the lowest quarter."""
    return statistics.fmean(sorted(values)[: (len(values) + 3) // 4])


def _durations(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """Return (name, operator, microseconds) of every node, in the order in which they ran."""
    found = defaultdict(list)
    for event in events:
        name, facts = str(event.get("name", "")), event.get("args", {})
        if name.endswith(_KERNEL) and event.get("cat") == "Node":
            key = name.removesuffix(_KERNEL), str(facts.get("op_name", "")), str(facts.get("node_index", ""))
            found[key].append(float(event["dur"]))
    return [(name, op, _quick(spent[_WARM_UP:] or spent)) for (name, op, _), spent in found.items()]


def _matched(
    nodes: Sequence[onnx.NodeProto], durations: Sequence[tuple[str, str, float]]
) -> list[tuple[onnx.NodeProto, float]]:
    """Return the nodes with their times; those inside of control flow are part of the node that holds them.

    Nodes without a name of their own are found by their place among those of the same operator.
    """
    named = {(name, op): us for name, op, us in durations}
    known = {(node.name, node.op_type) for node in nodes if node.name}
    unnamed = defaultdict(list)
    for name, op, us in durations:
        if (name, op) not in known:
            unnamed[op].append(us)
    found = []
    for node in nodes:
        if (node.name, node.op_type) in named:
            found.append((node, named[node.name, node.op_type]))
        elif unnamed[node.op_type]:
            found.append((node, unnamed[node.op_type].pop(0)))
    return found


def _without_overhead(durations: Sequence[float], total: float) -> list[float]:
    """Return the durations less the same amount each, but not below 0, so that they add up to `total`."""
    low, high = -total, max(durations, default=0.0)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(max(us - middle, 0.0) for us in durations) > total:
            low = middle
        else:
            high = middle
    return [max(us - high, 0.0) for us in durations]
