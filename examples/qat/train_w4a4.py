"""A trained PyTorch network to 4 bits with labels, in a plain PyTorch loop; then exported, scored and verified.

Run it from anywhere; it needs fewbits with torch, and scikit-learn for the training images.
"""

import argparse
import time
from pathlib import Path

import torch
from digits_data import CALIB, EVAL, PROFILE, Loader, trained_net, training_images
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fewbits
from fewbits.errors import MissingExtraError, RefusedError

EPOCHS = 200
RATE = 0.01
AVERAGE = 0.99  # of the average so far, in every step
EMULATED = 40  # images; the emulator computes some tens a second


def fit(module: torch.nn.Module, net: torch.nn.Module, loader: Loader, epochs: int) -> torch.nn.Module:
    """Train on labels, and on what the float network says of the same images; return the average of the last steps."""
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    optimizer = torch.optim.Adam(module.parameter_groups(RATE, scale_lr=RATE))
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    module.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for images, labels in loader:
            logits = module(images)["output"]
            with torch.no_grad():
                wanted = log_softmax(net(images), 1)
            loss = cross_entropy(logits, labels)
            loss = loss + kl_div(log_softmax(logits, 1), wanted, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(module)
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}  training loss {total / len(loader):.3f}", flush=True)
    return average.module


def emulate(output: Path) -> None:
    """Verify on Qualcomm's emulator, or say how to get it, or what its compiler does not take."""
    try:
        found = fewbits.verify(output, on="qnn-htp", soc="sm8650", data=EVAL, metric="top1", eval_samples=EMULATED)
    except (MissingExtraError, RefusedError) as error:
        print(f"not verified on Qualcomm's emulator: {error}")
        return
    score = found.certificate.score
    print(f"verify on Qualcomm's emulator (sm8650): {'passed' if found.passed else 'FAILED'}")
    print(f"  top-1 of {score.samples} images: simulation {score.sim:.2f} %, emulator {score.place:.2f} %")
    for name, one in found.certificate.outputs.items():
        print(
            f"  {name}: {one.place_db:.1f} dB from the simulation, which is {one.float_db:.1f} dB from the float model"
        )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("digits-w4a4"), help="folder for the files")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training")
    parser.add_argument("--images", type=Path, help=".npz with image and labels to train on instead")
    parser.add_argument("--everywhere", action="store_true", help="w4a4 in the first and last layer, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    torch.manual_seed(0)

    net = trained_net()
    loader = Loader(*training_images(arguments.images))
    profile = None if arguments.everywhere else PROFILE
    module = fewbits.qat.from_torch(net, torch.zeros(2, 1, 8, 8), data=CALIB, precision="w4a4", profile=profile)
    start = module.eval().export(arguments.output / "start", metric="top1", eval_data=EVAL)
    print(f"float {start.float_score.value:.2f} %, quantized without training {start.score.value:.2f} %")

    began = time.monotonic()
    module = fit(module, net, loader, arguments.epochs)
    print(f"trained in {time.monotonic() - began:.0f} s")

    trained = arguments.output / "trained"
    result = module.eval().export(trained, metric="top1", eval_data=EVAL)
    print(f"quantized and trained {result.score.value:.2f} %, float {result.float_score.value:.2f} %")
    print(f"verify in a fresh process: {'passed' if fewbits.verify(trained).passed else 'FAILED'}")
    net.load_state_dict(module.torch_state_dict(net))
    torch.save(net.state_dict(), arguments.output / "float.pt")
    emulate(trained)


if __name__ == "__main__":
    main()
