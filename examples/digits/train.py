"""Train the network of the digits example, export it, and write its calibration and evaluation data.

Run it from anywhere; without ``--output`` the files go beside this script.
``--check`` trains nothing: it scores the files that are there.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
SEED = 20
HELD_OUT = 600
VIEWS = 4
CALIBRATION = 300
GAIN = (0.05, 4.0)

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
