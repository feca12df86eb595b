"""How an image becomes an input: resize, crop, scale, normalize, channel order, layout."""

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fewbits.errors import SpecError

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
_RESAMPLES = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "box")}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Steps in this order: resize, centre crop, channel order, (pixel * scale - mean) / std, layout.

    Attributes:
        resize: length of the shorter side in pixels, or (height, width); None keeps the size.
        crop: side of the centre square in pixels, or (height, width); None keeps all.
        mean: per channel, in units of pixel * scale, in the model's channel order; one value serves all channels.
        std: as `mean`.
        scale: factor of the pixels 0..255; the default makes them 0..1.
        channel_order: order in which the model takes the colours.
        layout: order of the axes; None reads it off the model's input.
        resample: filter of the resize; antialiased, as in torchvision.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    channel_order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] | None = None
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            sides = size if isinstance(size, tuple) else (size,) * 2
            if size is not None and (len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides)):
                raise SpecError(f"{name} = {size!r} is impossible: give one length or height,width in pixels.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3):
                raise SpecError(f"{name} = {values!r} has {len(values)} values: give one, or one per channel (3).")
        if min(self.std) <= 0 or self.scale <= 0:
            raise SpecError(f"std = {self.std!r} and scale = {self.scale!r} must be positive.")
        if max(self.mean) > 255 * self.scale * 1.001:
            raise SpecError(
                f"mean = {self.mean!r} lies above every pixel (0..{255 * self.scale:g} at scale {self.scale:g}): "
                "give the mean in these units, or set scale = 1 for a mean in 0..255."
            )
        for name, value, allowed in (
            ("channel_order", self.channel_order, ("rgb", "bgr")),
            ("layout", self.layout, ("nchw", "nhwc", None)),
            ("resample", self.resample, tuple(_RESAMPLES)),
        ):
            if value not in allowed:
                raise SpecError(f"{name} = {value!r} is unknown: choose one of {', '.join(map(repr, allowed))}.")

    @property
    def is_normalizing(self) -> bool:
        """Whether pixel values change, which an integer input cannot hold."""
        return self.scale != 1 or any(self.mean) or any(value != 1 for value in self.std)


PRESETS: MappingProxyType[str, Preprocess] = MappingProxyType(
    {
        "imagenet": Preprocess(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "imagenet-tf": Preprocess(256, 224, (1.0,), (1.0,), scale=1 / 127.5),
        "unit": Preprocess(),
        "raw": Preprocess(scale=1.0),
    }
)
"""Named preprocessing.

imagenet: torchvision's (shorter side 256, crop 224, ImageNet mean and std). imagenet-tf: the same size, -1..1.
unit: 0..1. raw: 0..255.
"""


def parse_preset(text: str) -> Preprocess:
    """Return the named preprocessing.

    Raises:
        SpecError: no preset has that name.
    """
    if text in PRESETS:
        return PRESETS[text]
    close = difflib.get_close_matches(text, PRESETS, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise SpecError(f"There is no preprocessing preset {text!r}{hint}: choose one of {', '.join(PRESETS)}.")


def resize_and_crop(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop as torchvision does.

    Raises:
        ValueError: the image is smaller than the crop.
    """
    if preprocess.resize is not None:
        width, height = image.size
        if isinstance(preprocess.resize, int):
            short, long = min(width, height), max(width, height)
            other = preprocess.resize * long // short
            size = (preprocess.resize, other) if width <= height else (other, preprocess.resize)
        else:
            size = preprocess.resize[::-1]
        image = image.resize(size, _RESAMPLES[preprocess.resample])
    if preprocess.crop is None:
        return image
    tall, wide = (preprocess.crop,) * 2 if isinstance(preprocess.crop, int) else preprocess.crop
    if image.width < wide or image.height < tall:
        raise ValueError(f"it is {image.height}x{image.width}, smaller than the crop {tall}x{wide}")
    left, top = round((image.width - wide) / 2), round((image.height - tall) / 2)
    return image.crop((left, top, left + wide, top + tall))


def normalize(pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Return (pixel * scale - mean) / std as float32; pixels [H, W, C] in the model's channel order."""
    scaled = pixels.astype(np.float64) * preprocess.scale
    centred = scaled - np.asarray(preprocess.mean, np.float64)
    return (centred / np.asarray(preprocess.std, np.float64)).astype(np.float32)
