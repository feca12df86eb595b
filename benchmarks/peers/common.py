"""What both peers' scripts share: command line, data, the float session and the JSON they answer with.

It runs in a peer's own environment, where fewbits is not installed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import timing
from networks import NETWORKS, Network

PRECISIONS = ("w8a8", "w8a16", "w4a8")

Feeds = dict[str, np.ndarray]
Task = Callable[[argparse.Namespace], dict[str, Any]]


def main(description: str, tasks: dict[str, Task], packages: tuple[str, ...]) -> None:
    """Run the task that the command line names and write its answer."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("task", choices=sorted(tasks))
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenetv2")
    parser.add_argument("--precision", choices=PRECISIONS, default="w8a8")
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


def open_ort(model: str | Path, threads: int) -> ort.InferenceSession:
    """Return a session with ORT's own defaults."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def float_forward(args: argparse.Namespace) -> timing.Action:
    """Return the action that runs the float model."""
    session = open_ort(network(args).path, args.threads)
    return timing.forward(lambda feed: session.run(None, feed))


def measure(args: argparse.Namespace, actions: dict[str, timing.Action], feeds: list[Feeds]) -> dict[str, Any]:
    """Time `actions` and the float model in turn; every ratio is to this process's own float passes."""
    seconds = timing.interleave({"float": float_forward(args), **actions}, feeds, repeats=args.repeats)
    return timing.summarize(seconds, len(feeds), baseline="float")
