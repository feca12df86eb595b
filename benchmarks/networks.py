"""The development networks as fewbits sees them: models, calibration data and scores from the assets folder.

The folder is found beside the checkout (../shared/assets) or named by FEWBITS_ASSETS; it is not part of the project.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ASSETS = Path(os.environ.get("FEWBITS_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "assets"))

Predict = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """One network: file, the name its score goes by, samples per calibration, and what counts as noise."""

    name: str
    file: str
    score_name: str
    higher_is_better: bool
    noise: float
    float_score: float

    @property
    def path(self) -> Path:
        """Where the ONNX file is."""
        return ASSETS / "models" / self.file

    def score(self, predict: Predict) -> float:
        """Return the score of a predictor on the network's own data."""
        return float(assets().score(self.score_name, predict))

    def calibration(self, samples: int = 400) -> Iterator[dict[str, np.ndarray]]:
        """Yield feeds, at most `samples` samples in all."""
        left = samples
        for feeds in assets().calibration(self.score_name):
            size = min(left, len(next(iter(feeds.values()))))
            if size <= 0:
                return
            yield {k: v[:size] for k, v in feeds.items()}
            left -= size


NETWORKS = {
    n.name: n
    for n in (
        Network("mobilenetv1", "mobilenetv1_0.75_imagenet.onnx", "mobilenetv1_0.75", True, 0.375, 76.88),
        Network("mobilenetv2", "mobilenetv2_1.0_imagenet.onnx", "mobilenetv2_1.0", True, 0.375, 79.63),
        Network("resnet56", "cifar10_resnet56.onnx", "cifar10_resnet", True, 0.3, 83.32),
        Network("kwt1", "kwt1_speechcommands.onnx", "kwt1", True, 0.3, 97.60),
        Network("imdn", "imdn_rtc_x2.onnx", "imdn_rtc", True, 0.05, 37.241),
        Network("fastestdet", "fastestdet_coco.onnx", "fastestdet", True, 0.3, 35.58),
        Network("stories", "stories260k.onnx", "stories260k", False, 0.02, 4.375),
    )
}

RESNET20 = Network("resnet20", "cifar10_resnet20.onnx", "cifar10_resnet", True, 0.3, 81.22)
"""A proving ground of step 4: small enough for AIMET's AdaRound. It is in no other table."""


@cache
def assets() -> ModuleType:
    """Return the assets' own score.py as a module."""
    spec = importlib.util.spec_from_file_location("assets_score", ASSETS / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
