"""A training step of aimet-torch's QuantizationSimModel against one of its float module, taken in turn.

Run by benchmarks/peers/.venvs/aimettorch/bin/python. The module is the ResNet of the ONNX file written out in torch,
with the weights of the file, its batch norms folded; the simulation learns weights, biases and ranges. Tensors are in
torch's own order of memory: channels last makes the float step faster and leaves the simulation as it is.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime as ort
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # built for CUDA beside a torch for CPUs: aimet-torch only wants to import it
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from aimet_torch.common.defs import QuantScheme
from aimet_torch.nn.modules.custom import Add
from aimet_torch.quantsim import QuantizationSimModel
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import NETWORKS

WARM_UP = 2
PACKAGES = ("aimet-torch", "torch", "onnx", "numpy")


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: every second pixel, padded with channels of zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.is_wider = inputs != outputs
        self.first = nn.Conv2d(inputs, outputs, 3, 2 if self.is_wider else 1, 1)
        self.first_relu = nn.ReLU()
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.add = Add()
        self.relu = nn.ReLU()
        self.missing = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the block gives for [N, inputs, H, W]."""
        y = self.second(self.first_relu(self.first(x)))
        if self.is_wider:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing, self.missing))
        return self.relu(self.add(y, x))


class ResNet(nn.Module):
    """He et al. 2016, "Deep Residual Learning", section 4.2, with 3 x `depth` blocks: 6 depth + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1)
        self.relu = nn.ReLU()
        widths = [16] + [width for width in (16, 32, 64) for _ in range(depth)]
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(widths)))
        self.pool = nn.AvgPool2d(8)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [N, 10] of images [N, 3, 32, 32]."""
        return self.linear(self.pool(self.blocks(self.relu(self.conv(x)))).flatten(1))


def loaded(path: Path) -> ResNet:
    """Return the module with the weights of the file."""
    graph = onnx.load(str(path)).graph
    values = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    stored = [[values[name] for name in n.input[1:3]] for n in graph.node if n.op_type in ("Conv", "Gemm")]
    module = ResNet((len(stored) - 2) // 6)
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, stored, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["step"])
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--param-bits", type=int, default=4)
    parser.add_argument("--activation-bits", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    answer = {**measure(args), "versions": {p: metadata.version(p) for p in PACKAGES}}
    args.output.write_text(json.dumps(answer))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of every step, and how many quantizers the simulation has."""
    torch.set_num_threads(args.threads)
    network = NETWORKS[args.network]
    images = np.concatenate([next(iter(feeds.values())) for feeds in network.calibration(args.batch)])
    batch = torch.from_numpy(images)
    floating = loaded(network.path)
    with torch.no_grad():
        wanted = onnx_outputs(network.path, images)
        torch.testing.assert_close(floating(batch), torch.from_numpy(wanted), rtol=1e-3, atol=1e-3)
    sim = QuantizationSimModel(
        loaded(network.path).eval(),
        batch,
        quant_scheme=QuantScheme.training_range_learning_with_tf_init,
        default_param_bw=args.param_bits,
        default_output_bw=args.activation_bits,
        config_file="htp_v73",
    )
    sim.compute_encodings(lambda model: model(batch))
    steps = {"float": stepper(floating.train(), batch), "quantsim": stepper(sim.model.train(), batch)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.repeats + WARM_UP):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if i >= WARM_UP:
                times[name].append(time.perf_counter() - begin)
    return {"times": times, "quantizers": quantizers(sim.model)}


def onnx_outputs(path: Path, images: np.ndarray) -> np.ndarray:
    """Return what onnxruntime computes from the file."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def quantizers(model: nn.Module) -> dict[str, int]:
    """Return how many quantizers of weights and biases, and of activations, are in use."""
    counts = {"parameters": 0, "activations": 0}
    for module in model.modules():
        for kind in ("param_quantizers", "input_quantizers", "output_quantizers"):
            found = getattr(module, kind, None) or {}
            used = [q for q in (found.values() if hasattr(found, "values") else found) if q is not None]
            counts["parameters" if kind == "param_quantizers" else "activations"] += len(used)
    return counts


def stepper(module: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes one training step: forward, backward, update."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(batch).pow(2).mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
