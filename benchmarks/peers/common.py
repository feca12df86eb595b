"""What the peers' scripts share: command line, data, sessions, scoring and the JSON they answer with.

It runs in a peer's own environment, where fewbits is not installed. Every quantized ONNX model is scored in a session
with the entries of `SCORING`, as fewbits' own simulations are. Without the first, 8-bit kernels saturate on x86
processors that lack VNNI, and the score drops for a reason that is not the tool's. Without the second, int4 and int8
weights of a MatMul under wider activations run with 8-bit activations. AIMET is scored in its own simulation.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import peer_tools
import timing
from networks import NETWORKS, Network, Predict

SCORING = {"session.x64quantprecision": "1", "session.qdq_matmulnbits_accuracy_level": "1"}

Feeds = dict[str, np.ndarray]
Task = Callable[[argparse.Namespace], dict[str, Any]]


@dataclass
class Stopwatch:
    """Seconds of each stage of one quantization, and the stage that it is in."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = ""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `stage`."""
        self.stage, begin = stage, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin


@dataclass
class Quantized:
    """A quantized network, ready to be scored; `activations` is how many activation tensors it quantizes."""

    predict: Predict
    activations: int


@dataclass(frozen=True)
class Job:
    """One network to quantize in one setting."""

    args: argparse.Namespace
    precision: str
    scheme: str
    feeds: list[Feeds]
    watch: Stopwatch


Make = Callable[[Job], Quantized]


def main(tool: str, description: str, tasks: dict[str, Task], packages: tuple[str, ...]) -> None:
    """Run the task that the command line names and write its answer."""
    precisions, schemes = peer_tools.precisions(tool), peer_tools.schemes(tool)
    tasks = {**tasks, "versions": lambda _: {}}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("task", choices=sorted(tasks))
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenetv2")
    parser.add_argument("--precision", choices=precisions, default="w8a8")
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=["w8a8"], help="for the task 'score'")
    parser.add_argument("--schemes", nargs="+", choices=schemes, default=schemes[:1], help="for the task 'score'")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="where the task 'quantize' writes the model")
    parser.add_argument("--output", type=Path, required=True, help="where the answer goes, as JSON")
    args = parser.parse_args()
    answer = tasks[args.task](args)
    answer["versions"] = {p: metadata.version(p) for p in packages}
    args.output.write_text(json.dumps(answer, indent=1) + "\n")


def network(args: argparse.Namespace) -> Network:
    """Return the network that was asked for."""
    return NETWORKS[args.network]


def single_samples(args: argparse.Namespace) -> list[Feeds]:
    """Return the calibration samples, each alone, in memory."""
    feeds = network(args).calibration(args.samples)
    return [{k: v[i : i + 1] for k, v in f.items()} for f in feeds for i in range(len(next(iter(f.values()))))]


def open_ort(
    model: str | Path | bytes, threads: int, entries: Mapping[str, str] = MappingProxyType({})
) -> ort.InferenceSession:
    """Return a session with ORT's own defaults, apart from config `entries`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def float_forward(args: argparse.Namespace) -> timing.Action:
    """Return the action that runs the float model."""
    session = open_ort(network(args).path, args.threads)
    return timing.forward(lambda feed: session.run(None, feed))


def measure(args: argparse.Namespace, actions: dict[str, timing.Action], feeds: list[Feeds]) -> dict[str, Any]:
    """Time `actions` and the float model in turn; every ratio is to this process's own float passes."""
    seconds = timing.interleave({"float": float_forward(args), **actions}, feeds, repeats=args.repeats)
    return timing.summarize(seconds, len(feeds), baseline="float")


def score(args: argparse.Namespace, make: Make) -> dict[str, Any]:
    """Quantize and score the network in every precision and scheme asked for, each from the start.

    Returns:
        Seconds of reading the calibration data, and per precision and scheme the score or the tool's own error, with
        the seconds of each stage.
    """
    begin = time.perf_counter()
    feeds = single_samples(args)
    answer: dict[str, Any] = {"data_s": time.perf_counter() - begin, "samples": len(feeds)}
    answer["rows"] = {p: {s: _row(args, p, s, feeds, make) for s in args.schemes} for p in args.precisions}
    return answer


def _row(args: argparse.Namespace, precision: str, scheme: str, feeds: list[Feeds], make: Make) -> dict[str, Any]:
    watch = Stopwatch()
    try:
        quantized = make(Job(args, precision, scheme, feeds, watch))
        with watch("score"):
            value = network(args).score(quantized.predict)
    except Exception as error:  # whatever the tool raises is what its user sees
        return {**_failure(error), "stage": watch.stage, "seconds": watch.seconds}
    return {"score": value, "activations": quantized.activations, "seconds": watch.seconds}


def _failure(error: Exception) -> dict[str, str]:
    lines = str(error).strip().splitlines() or [""]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return {"error": f"{type(error).__name__}: {lines[0]}", "raised_at": f"{Path(frame.filename).name}:{frame.lineno}"}


def scorable(job: Job, model: onnx.ModelProto) -> Quantized:
    """Return a quantized ONNX model as it is scored."""
    constants = {i.name for i in model.graph.initializer}
    constants |= {o for n in model.graph.node if n.op_type == "Constant" for o in n.output}
    quantizers = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    with job.watch("build"):
        session = open_ort(model.SerializeToString(), job.args.threads, SCORING)
    names = [o.name for o in session.get_outputs()]
    return Quantized(
        lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)), len(set(quantizers) - constants)
    )
