"""The module as part of a class with training_step, configure_optimizers and fit, as Lightning lays them out.

Nothing of Lightning is imported: `Quantized` has the methods of a LightningModule, and `fit` does what its Trainer does
with them, checkpoints included. To use Lightning, derive `Quantized` from LightningModule and drop `fit`.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from digits_data import CALIB, EVAL, PROFILE, Batch, Loader, trained_net, training_images
from torch import nn

import fewbits


class Quantized(nn.Module):
    """A quantized classifier, its loss and its optimizer."""

    def __init__(self, net: nn.Module, *, rate: float = 0.01, total_steps: int = 1000) -> None:
        super().__init__()
        example = torch.zeros(2, 1, 8, 8)
        self.module = fewbits.qat.from_torch(net, example, data=CALIB, precision="w4a4", profile=PROFILE)
        self.rate, self.total_steps = rate, total_steps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits: outputs of the module come by name."""
        found: torch.Tensor = self.module(images)["output"]
        return found

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer, with groups for weights, biases and scales, and its schedule."""
        optimizer = torch.optim.Adam(self.module.parameter_groups(self.rate, scale_lr=self.rate))
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=self.total_steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def fit(model: Quantized, loader: Iterable[Batch], *, epochs: int, checkpoint: Path) -> list[float]:
    """Train, save after every epoch, and go on from the checkpoint where there is one; return the mean losses."""
    made = model.configure_optimizers()
    optimizer, schedule, losses = made["optimizer"], made["lr_scheduler"], []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["lr_scheduler"])
        losses = saved["losses"]
    for _ in range(len(losses), epochs):
        model.train()
        epoch = []
        for index, batch in enumerate(loader):
            loss = model.training_step(batch, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            epoch.append(loss.item())
        losses.append(sum(epoch) / len(epoch))
        print(f"epoch {len(losses):3d}  training loss {losses[-1]:.3f}", flush=True)
        state = {
            "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
            "lr_scheduler": schedule.state_dict(), "losses": losses,
        }  # fmt: skip
        torch.save(state, checkpoint)
    return losses


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("digits-lightning"), help="folder for the files")
    parser.add_argument("--epochs", type=int, default=20, help="of training")
    parser.add_argument("--images", type=Path, help=".npz with image and labels to train on instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = Loader(*training_images(arguments.images))
    model = Quantized(trained_net(), total_steps=arguments.epochs * len(loader))
    arguments.output.mkdir(parents=True, exist_ok=True)
    fit(model, loader, epochs=arguments.epochs, checkpoint=arguments.output / "last.pt")
    result = model.eval().module.export(arguments.output / "trained", metric="top1", eval_data=EVAL)
    print(f"quantized and trained {result.score.value:.2f} %, float {result.float_score.value:.2f} %")


if __name__ == "__main__":
    main()
