"""Digits of scikit-learn, split and made into inputs, and the training of the networks that nothing was tuned on.

1,197 images train, 300 of them calibrate, 600 others are scored. Seeds are fixed; with one thread and the same versions
a training gives the same weights again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

import fewbits
from unseen_networks import (
    LENGTH,
    LEVELS,
    Pixels,
    Recurrent,
    UNet,
    VisionTransformer,
    convnext,
    densenet,
    inverted,
    shuffle,
)  # fmt: skip

TRAINED, CALIBRATED, BATCH, NOISE = 1197, 300, 64, 0.3
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Images in 0..1, [n, 1, 8, 8], and their classes: to train with, and held out."""

    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor


def digits() -> Split:
    """Return the split; needs scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = torch.from_numpy((found.images[order] / 16).astype(np.float32))[:, None]
    labels = torch.from_numpy(found.target[order].astype(np.int64))
    return Split(images[:TRAINED], labels[:TRAINED], images[TRAINED:], labels[TRAINED:])


@dataclass(frozen=True)
class Task:
    """What a network is to learn.

    Attributes:
        inputs: of images [n, 1, 8, 8] with a generator: what the network reads, and what it should give, or None where
            that are the classes.
        loss: of outputs and what they should be.
        metric: as `--metric` takes it.
    """

    inputs: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor | None]]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str


def _large(images: Tensor) -> Tensor:
    return functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def _noisy(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    clean = _large(images)
    return clean + NOISE * torch.randn(clean.shape, generator=generator), clean


def _tokens(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    del generator
    wanted = (images.flatten(1) * (LEVELS - 1)).round().long()
    return functional.pad(wanted, (1, 0), value=LEVELS)[:, :LENGTH], wanted


CLASSIFY = Task(
    lambda images, _: (_large(images), None), lambda y, t: functional.cross_entropy(y, t, label_smoothing=0.05), "top1"
)
DENOISE = Task(_noisy, functional.mse_loss, "psnr")
PREDICT = Task(_tokens, lambda y, t: functional.cross_entropy(y.flatten(0, 1), t.flatten()), "perplexity")


@dataclass(frozen=True)
class Unseen:
    """A network, what it learns, and for how long."""

    build: Callable[[], nn.Module]
    task: Task = field(default=CLASSIFY)
    epochs: int = 30
    rate: float = 3e-3


NETWORKS = {
    "mobilenetv3": Unseen(lambda: inverted(nn.Hardswish, nn.Hardsigmoid)),
    "efficientnet": Unseen(lambda: inverted(nn.SiLU, nn.Sigmoid)),
    "vit": Unseen(VisionTransformer, epochs=60, rate=1e-3),
    "convnext": Unseen(convnext, epochs=40),
    "unet": Unseen(UNet, DENOISE, epochs=40),
    "densenet": Unseen(densenet),
    "shuffle": Unseen(shuffle),
    "gru": Unseen(lambda: Recurrent(nn.GRU), epochs=60),
    "lstm": Unseen(lambda: Recurrent(nn.LSTM), epochs=60),
    "pixels": Unseen(Pixels, PREDICT, epochs=60, rate=2e-3),
}


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images, each moved by up to one pixel in both directions."""
    padded = functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([one[:, y : y + 8, x : x + 8] for one, (y, x) in zip(padded, moves, strict=True)])


def train(unseen: Unseen, split: Split) -> nn.Module:
    """Return the trained module in evaluation mode."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = unseen.build()
    steps = unseen.epochs * (TRAINED // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), unseen.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, unseen.rate, total_steps=steps)
    module.train()
    for _ in range(unseen.epochs):
        order = torch.randperm(TRAINED, generator=generator)[: TRAINED // BATCH * BATCH]
        for chosen in order.split(BATCH):
            images = split.images[chosen]
            moved = images if unseen.task is PREDICT else shifted(images, generator)
            x, wanted = unseen.task.inputs(moved, generator)
            loss = unseen.task.loss(module(x), split.labels[chosen] if wanted is None else wanted)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return module.eval()


def write(name: str, folder: Path) -> dict[str, Any]:
    """Train a network, and write model.onnx, calib.npz and eval.npz, as a user of `convert` would have them."""
    unseen, split = NETWORKS[name], digits()
    torch.set_num_threads(1)
    module = train(unseen, split)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    calib, _ = unseen.task.inputs(split.images[:CALIBRATED], generator)
    held, wanted = unseen.task.inputs(split.held_images, generator)
    found = fewbits.convert(module, calib[:2], output=folder / "model.onnx", dynamic_batch=True)
    (one,) = (info.name for info in found.inputs)
    labels = split.held_labels if wanted is None else wanted
    np.savez(folder / "calib.npz", **{one: calib.numpy()})
    np.savez(folder / "eval.npz", **{one: held.numpy()}, labels=labels.numpy())
    return {"nodes": found.nodes, "parameters": sum(p.numel() for p in module.parameters())}


if __name__ == "__main__":
    import sys
    import time

    for each in sys.argv[2:] or NETWORKS:
        begin = time.perf_counter()
        print(each, write(each, Path(sys.argv[1]) / each), f"{time.perf_counter() - begin:.0f} s", flush=True)
