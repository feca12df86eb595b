"""A training step of the quantized ResNet-56 against one of the float model in the same executor, taken in turn.

Then the same of aimet-torch: its simulation against the float torch module, in its own process.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import fewbits
import record
from fewbits.runtime.session import RunOptions
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
from networks import NETWORKS
from run_peer import run_peer

LIMIT = 1.6
WARM_UP = 2
PRECISION = "w4a8"


def main() -> None:
    parser = record.parser(__doc__ or "", repeats=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--skip-peer", action="store_true")
    args = parser.parse_args()
    found = record.start(f"qat_speed: resnet56 {PRECISION}, batch {args.batch}, {args.threads} threads")
    ours = measure(args.threads, args.batch, args.repeats)
    rows = [row("fewbits", ours, "qat")]
    is_met = ours["ratio"] <= LIMIT
    results: dict[str, Any] = ours
    if not args.skip_peer:
        peer = run_peer("aimettorch_qat", "step", batch=args.batch, repeats=args.repeats, threads=args.threads)
        results = {**ours, "aimet-torch": peer}
        if "missing" in peer:
            print(f"aimet-torch: {peer['missing']}")
        else:
            peer.update(ratios(peer["times"], "quantsim"))
            rows.append(row("aimet-torch", peer, "quantsim"))
            is_met = is_met and ours["ratio"] <= peer["ratio"]
    record.table(("tool", "float s", "quantized s", "ratio", "paired", "of the fastest"), rows)
    print(f"limit {LIMIT}, and the peer's ratio: {record.verdict(is_met)}")
    record.save("qat_speed" if args.threads == 1 else f"qat_speed_{args.threads}", args, found, results)


def measure(threads: int, batch: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of every step of fewbits, their medians and ratios, and how many quantizers there are."""
    torch.set_num_threads(threads)
    network = NETWORKS["resnet56"]
    module = fewbits.qat.trainable(
        network.path, data=lambda: network.calibration(64), precision=PRECISION,
        run_options=RunOptions(threads=threads),
    )  # fmt: skip
    floating = TorchGraph(fewbits.prepare(network.path).model)
    images = np.concatenate([next(iter(feeds.values())) for feeds in network.calibration(batch)])
    feeds = feeds_to_torch({module.graph.input_names[0]: images})
    steps = {"float": stepper(floating, feeds), "qat": stepper(module.train(), feeds)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i, name in itertools.product(range(repeats + WARM_UP), steps):
        begin = time.perf_counter()
        steps[name]()
        if i >= WARM_UP:
            times[name].append(time.perf_counter() - begin)
    roles = [grid.role.value for grid in module.plan.grids.values()]
    return {"times": times, **ratios(times, "qat"), "quantizers": {role: roles.count(role) for role in set(roles)}}


def ratios(times: Mapping[str, Sequence[float]], quantized: str) -> dict[str, Any]:
    """Return medians, and three ratios to the float step: of medians, the rounds' own, and of the fastest steps."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    own = [q / f for q, f in zip(times[quantized], times["float"], strict=True)]
    return {
        "medians": medians,
        "ratio": medians[quantized] / medians["float"],
        "paired": statistics.median(own),
        "fastest_ratio": min(times[quantized]) / min(times["float"]),
    }


def row(tool: str, found: Mapping[str, Any], quantized: str) -> tuple[object, ...]:
    """Return a row of the table."""
    medians = found["medians"]
    return tool, medians["float"], medians[quantized], found["ratio"], found["paired"], found["fastest_ratio"]


def stepper(module: torch.nn.Module, feeds: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Return a function that makes one training step: forward, backward, update."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs: dict[str, Any] = module(feeds)
        torch.stack([value.pow(2).mean() for value in outputs.values()]).sum().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
