"""Data and metrics of the development networks as a user would hand them to `fewbits auto`: file.py:function."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from networks import assets

Feeds = dict[str, Any]
Predict = Callable[[Feeds], Feeds]


def calib_mobilenetv1() -> Iterator[Feeds]:
    """Yield calibration photos."""
    yield from assets().calibration("mobilenetv1_0.75")


def calib_mobilenetv2() -> Iterator[Feeds]:
    """Yield calibration photos."""
    yield from assets().calibration("mobilenetv2_1.0")


def calib_cifar() -> Iterator[Feeds]:
    """Yield calibration images."""
    yield from assets().calibration("cifar10_resnet")


def calib_speech() -> Iterator[Feeds]:
    """Yield calibration clips."""
    yield from assets().calibration("kwt1")


def calib_imdn() -> Iterator[Feeds]:
    """Yield the images of Set5."""
    yield from assets().calibration("imdn_rtc")


def calib_coco() -> Iterator[Feeds]:
    """Yield calibration photos."""
    yield from assets().calibration("fastestdet")


def calib_stories() -> Iterator[Feeds]:
    """Yield tokens."""
    yield from assets().calibration("stories260k")


def eval_imagenet() -> Iterator[tuple[Feeds, np.ndarray]]:
    """Yield labelled photos."""
    yield from assets().imagenet("imagenet-val800")


def eval_cifar() -> Iterator[tuple[Feeds, np.ndarray]]:
    """Yield labelled images."""
    yield from assets().cifar()


def eval_speech() -> Iterator[tuple[Feeds, np.ndarray]]:
    """Yield labelled clips."""
    yield from assets().speech()


def psnr_luma(predict: Predict) -> float:
    """Return the mean PSNR on luma of Set5, in dB."""
    return float(assets().set5_psnr(predict))


def map50(predict: Predict) -> float:
    """Return the mean average precision at IoU 0.5."""
    return float(assets().coco_map50(predict))


def perplexity(predict: Predict) -> float:
    """Return the perplexity per token."""
    return float(assets().perplexity(predict))
