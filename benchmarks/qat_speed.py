"""A training step of the quantized ResNet-56 against one of the float model in the same executor, taken in turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import fewbits
import record
from fewbits.runtime.session import RunOptions
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
from networks import NETWORKS

LIMIT = 1.6


def main() -> None:
    parser = record.parser(__doc__ or "", repeats=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="w4a8")
    args = parser.parse_args()
    found = record.start(f"qat_speed: resnet56 {args.precision}, batch {args.batch}, {args.threads} threads")
    torch.set_num_threads(args.threads)
    network = NETWORKS["resnet56"]
    module = fewbits.qat.trainable(
        network.path, data=lambda: network.calibration(64), precision=args.precision,
        run_options=RunOptions(threads=args.threads),
    )  # fmt: skip
    floating = TorchGraph(fewbits.prepare(network.path).model)
    images = np.concatenate([next(iter(feeds.values())) for feeds in network.calibration(args.batch)])
    feeds = feeds_to_torch({module.graph.input_names[0]: images})
    steps = {"float": stepper(floating, feeds), "qat": stepper(module.train(), feeds)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.repeats + 2):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if i >= 2:
                times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["qat"] / medians["float"]
    record.table(("step", "median s", "fastest s"), [(n, medians[n], min(times[n])) for n in times])
    print(f"ratio {ratio:.3f}, limit {LIMIT}: {record.verdict(ratio <= LIMIT)}")
    record.save("qat_speed", args, found, {"times": times, "medians": medians, "ratio": ratio})


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
