"""A few samples of real data for each development network, as the network wants them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks import ASSETS

DATA = ASSETS / "data"
_MEAN, _DEVIATION = (np.float32(v) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
_TOKENS, _TILE = 64, 48


def network_data(name: str, samples: int) -> dict[str, np.ndarray]:
    """Return calibration data of a development network by input; skips where they are missing."""
    if name.startswith("mobilenet"):
        return {"input": _first_channels(_photos("imagenet-calib400", samples, 224) / 127.5 - 1)}
    if name.startswith("cifar10"):
        return {"input": _first_channels((_stored("cifar10", "calib", samples) / np.float32(255) - _MEAN) / _DEVIATION)}
    if name == "fastestdet_coco":
        return {"image": _first_channels(_photos("coco128_352/train2017", samples, 352)[..., ::-1] / 255)}
    if name == "imdn_rtc_x2":
        return {"lr": _first_channels(_tiles(_photos("set5/LRx2", -(-samples // 4), 2 * _TILE)) / 255)[:samples]}
    if name == "kwt1_speechcommands":
        return {"mfcc": _stored("speechcommands", "calib_mfcc", samples).astype(np.float32)}
    assert name == "stories260k"
    return {"tokens": _stored("tinystories_tok512", "tokens", samples)[:, :_TOKENS].astype(np.int64)}


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is missing: set FEWBITS_ASSETS to the folder of development networks")
    return path


def _stored(file: str, name: str, samples: int) -> np.ndarray:
    with np.load(_there(DATA / f"{file}.npz")) as stored:
        return stored[name][:samples]


def _photos(folder: str, count: int, crop: int) -> np.ndarray:
    """Return the middle of the first images of a folder, [N, crop, crop, 3]."""
    found = []
    for path in sorted(_there(DATA / folder).glob("*.[jp][pn]g"))[:count]:
        with Image.open(path) as image:
            left, top = (image.width - crop) // 2, (image.height - crop) // 2
            found.append(np.asarray(image.convert("RGB").crop((left, top, left + crop, top + crop)), np.float32))
    return np.stack(found)


def _tiles(images: np.ndarray) -> np.ndarray:
    """Return the four quarters of every image."""
    return np.concatenate([images[:, i:, j:][:, :_TILE, :_TILE] for i in (0, _TILE) for j in (0, _TILE)])


def _first_channels(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
