"""What both examples train: the network of examples/digits with its trained weights, and batches of labelled images."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

DIGITS = Path(__file__).resolve().parents[1] / "digits"
CALIB, EVAL = DIGITS / "calib.npz", DIGITS / "eval.npz"
BATCH = 100
Batch = tuple[torch.Tensor, torch.Tensor]

sys.path.insert(0, str(DIGITS))
from network import DigitNet  # noqa: E402 - the two scripts of examples/digits
from train import distort, load_split  # noqa: E402

PROFILE = dict.fromkeys(("stem/1/Conv", "stem/2/Sigmoid", "stem/2/Mul"), "w8a16") | {"classify/Gemm": "w8a8"}
"""Node -> precision: the first layer and the last keep more bits, as is usual at 4. Here an image may be 256 times as
bright as another, and 4 bits have 15 steps. The names are the exporter's; `fewbits inspect` lists them."""


def trained_net() -> DigitNet:
    """Return the network with the weights of digits.onnx, which have the names of the torch module."""
    net = DigitNet()
    stored = onnx.load(DIGITS / "digits.onnx").graph.initializer
    weights = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in stored}
    kept = {name: value for name, value in weights.items() if name in net.state_dict()}
    missing = net.load_state_dict(kept, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return net.eval()


def training_images(file: Path | None) -> Batch:
    """Return images [n, 1, 8, 8] in 0..1 and labels: scikit-learn's digits without the held-out ones, or a file's."""
    if file is not None:
        with np.load(file, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["labels"])
    try:
        images, labels, _, _ = load_split()
    except ImportError:
        raise SystemExit("The training images come with scikit-learn: pip install scikit-learn.") from None
    return torch.from_numpy(images), torch.from_numpy(labels)


class Loader:
    """Batches of freshly distorted images and their labels: another epoch each time it is walked through."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> None:
        self._images, self._labels, self._rng = images.numpy(), labels.numpy(), np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._images) // BATCH

    def __iter__(self) -> Iterator[Batch]:
        order = self._rng.permutation(len(self._images))
        images = torch.from_numpy(distort(self._images[order], self._rng))
        labels = torch.from_numpy(self._labels[order])
        for at in range(0, len(self) * BATCH, BATCH):
            yield images[at : at + BATCH], labels[at : at + BATCH]
