"""Train the network of the digits example, export it, and write its calibration and evaluation data.

Run it from anywhere; without ``--output`` the files go beside this script.
``--check`` trains nothing: it scores the files that are there, and needs only numpy and onnxruntime.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir
    from network import DigitNet

HERE = Path(__file__).resolve().parent
SEED = 20
HELD_OUT = 600  # digits kept from training
VIEWS = 4  # distortions of each held-out digit
CALIBRATION = 300  # training digits, each in one distortion
GAIN = (1 / 64, 4.0)  # eight stops of exposure
EPOCHS = 130
BATCH = 100
LEARNING_RATE = 0.02
OPSET = 21

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def load_split() -> tuple[Floats, Labels, Floats, Labels]:
    """Load scikit-learn's digits as [n, 1, 8, 8] in 0..1 and split them by class.

    Returns:
        Training images, training labels, held-out images, held-out labels.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train_x, held_x, train_y, held_y = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    return train_x, train_y, held_x, held_y


def shift(images: Floats, rng: np.random.Generator) -> Floats:
    """Move each image by up to one pixel in each direction, with black coming in."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, size=(2, len(images)))
    rows = down[:, None] + np.arange(8)
    columns = right[:, None] + np.arange(8)
    picked = padded[np.arange(len(images))[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    return picked[:, None]


def occlude(images: Floats, rng: np.random.Generator) -> Floats:
    """Black out one 2x2 square of each image."""
    top, left = rng.integers(0, 7, size=(2, len(images), 1, 1))
    rows, columns = np.arange(8)[:, None], np.arange(8)[None, :]
    hidden = (rows >= top) & (rows < top + 2) & (columns >= left) & (columns < left + 2)
    return np.where(hidden[:, None], np.float32(0), images)


def distort(images: Floats, rng: np.random.Generator) -> Floats:
    """Distort each image as a poor camera would: shift, occlusion, noise, and a gain over a wide range.

    The gain is drawn log-uniformly from ``GAIN``, one for each image. The noise is drawn
    before the gain, so that a dim image is as readable as a bright one to a network that
    computes with enough steps.
    """
    moved = occlude(shift(images, rng), rng)
    noisy = moved + rng.normal(0.0, 0.1, size=images.shape)
    gain = np.exp(rng.uniform(np.log(GAIN[0]), np.log(GAIN[1]), size=(len(images), 1, 1, 1)))
    return np.asarray(np.clip(noisy, 0.0, 1.0) * gain, dtype=np.float32)


def fit(images: Floats, labels: Labels) -> "DigitNet":
    """Train the network on freshly distorted copies of the training digits in every epoch.

    There is no weight decay and the learning rate is high: nothing keeps the ranges of the
    activations small.
    """
    import torch
    from network import DigitNet

    torch.set_num_threads(1)  # the same sums in the same order on every run
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    rng = np.random.default_rng(SEED)
    net = DigitNet()
    per_epoch = len(images) // BATCH
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * per_epoch)
    for epoch in range(1, EPOCHS + 1):
        order = rng.permutation(len(images))
        inputs = torch.from_numpy(distort(images[order], rng))
        targets = torch.from_numpy(labels[order])
        total = 0.0
        for start in range(0, per_epoch * BATCH, BATCH):
            logits = net(inputs[start : start + BATCH])
            loss = torch.nn.functional.cross_entropy(logits, targets[start : start + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}  training loss {total / per_epoch:.3f}", flush=True)
    return net.eval()


def export(net: "DigitNet", path: Path) -> None:
    """Write the network as one ONNX file, with BatchNormalization left as it was trained.

    The exporter's own optimizer would fold it into the convolutions, so it is switched off and ``tidy`` does the rest.
    """
    import onnx_ir as ir
    import torch

    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        opset_version=OPSET,
        optimize=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    if program is None:
        raise SystemExit("torch.onnx.export returned nothing")
    tidy(program.model)
    ir.save(program.model, path)


def tidy(model: "ir.Model") -> None:
    """Fold constants, drop the zero biases that the exporter adds, and remove its notes."""
    import onnxscript.optimizer
    import onnxscript.rewriter
    from onnx_ir.passes import common
    from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule

    common.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    onnxscript.rewriter.rewrite(model, pattern_rewrite_rules=[remove_optional_bias_from_conv_rule])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.name = "digits"


def score_torch(net: "DigitNet", images: Floats, labels: Labels) -> float:
    """Top-1 in percent of the network as trained."""
    import torch

    with torch.no_grad():
        logits = net(torch.from_numpy(images)).numpy()
    return 100.0 * float(np.mean(logits.argmax(axis=1) == labels))


def score_file(model: Path, evaluation: Path) -> float:
    """Top-1 in percent of an ONNX file on an evaluation file, computed with onnxruntime."""
    import onnxruntime

    with np.load(evaluation, allow_pickle=False) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return 100.0 * float(np.mean(logits.argmax(axis=1) == labels))


def build(folder: Path) -> None:
    """Train, export, write the data files, and compare the exported network with the trained one."""
    folder.mkdir(parents=True, exist_ok=True)
    train_x, train_y, held_x, held_y = load_split()
    began = time.monotonic()
    net = fit(train_x, train_y)
    print(f"trained in {time.monotonic() - began:.0f} s")

    rng = np.random.default_rng(SEED + 1)
    images = np.concatenate([distort(held_x, rng) for _ in range(VIEWS)])
    labels = np.tile(held_y, VIEWS)
    np.savez_compressed(folder / "eval.npz", image=images, labels=labels)
    np.savez_compressed(folder / "calib.npz", image=distort(train_x[:CALIBRATION], rng))
    export(net, folder / "digits.onnx")
    print(f"top-1 in torch      {score_torch(net, images, labels):.2f} %")
    print(f"top-1 from the file {score_file(folder / 'digits.onnx', folder / 'eval.npz'):.2f} %")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the files (default: beside this script)")
    parser.add_argument("--check", action="store_true", help="train nothing; score the files that are there")
    arguments = parser.parse_args()
    if arguments.check:
        top1 = score_file(arguments.output / "digits.onnx", arguments.output / "eval.npz")
        print(f"top-1 {top1:.2f} %")
    else:
        build(arguments.output)


if __name__ == "__main__":
    main()
