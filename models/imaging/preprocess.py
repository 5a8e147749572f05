"""Preprocessing: size, crop, colour mode and normalisation of a network's input. No torch.

Training and serving share this module, so both cut images in the same way.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from models.imaging.images import Reduced

UInt8Array = NDArray[np.uint8]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_REDUCING_GAP = 2.0
"""An image is first reduced by an integer factor, to no less than this multiple of the final size. Pillow uses the same
for thumbnails: https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.resize"""

MAX_SIDE = 16_384
"""Largest size in pixels of an input and of an image before the crop. Networks take a few hundred; a larger number in a
file is an error or an attack, and an image of it would take all memory."""
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Geometry(BaseModel):
    """Size, crop and colour mode of a network's input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Side, Side]
    """Height and width of the input in pixels."""
    resize: Side | None = None
    """Shorter side in pixels after resizing, before the centre crop to `size`; None resizes to `size`."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mode: Literal["L", "RGB"] = "RGB"
    """Grey or colour."""
    odd_margins: Literal["even", "down"] = "even"
    """Rounding of a half in the crop's margin: to the even number as in torchvision, or down as in transformers."""

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Readers that do not know the field refuse it.
        values: dict[str, Any] = dump(self)
        if self.odd_margins == "even":
            values.pop("odd_margins", None)
        return values

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError(
                f"resize {self.resize} is smaller than the crop {self.size}: there is nothing to crop from"
            )
        return self

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the input."""
        return (*self.size, self.channels)

    def apply(self, image: Image.Image) -> UInt8Array:
        """Resize and crop an image in `mode` to uint8 [H, W, C], not normalised.

        Sizes are rounded as in torchvision's `Resize` and `CenterCrop`, which most published weights were trained with.
        """
        height, width = self.size
        scaled, (left, top) = self.cut(*image.size)
        if image.size != scaled:
            image = image.resize(scaled, _FILTERS[self.interpolation])
        if scaled != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return self._pixels(image)

    def apply_fast(self, reduced: Reduced) -> UInt8Array:
        """Nearly the result of `apply` for the whole image, in less time.

        Only the crop is resized, and a large image is reduced first.
        """
        begin_x, begin_y, end_x, end_y = reduced.box
        across, down = (end_x - begin_x) / reduced.width, (end_y - begin_y) / reduced.height
        left, top, right, bottom = self.region(reduced.width, reduced.height)
        box = (begin_x + left * across, begin_y + top * down, begin_x + right * across, begin_y + bottom * down)
        height, width = self.size
        resized = reduced.image.resize((width, height), _FILTERS[self.interpolation], box, _REDUCING_GAP)
        return self._pixels(resized)

    def _pixels(self, image: Image.Image) -> UInt8Array:
        # `asarray` tries four protocols of the image before it does the same.
        return np.frombuffer(image.tobytes(), np.uint8).reshape(self.shape)

    def resizing_bytes(self, width: int, height: int) -> int:
        """Bytes that `apply` takes for an image of a width and height, besides the image."""
        (scaled_width, scaled_height), _ = self.cut(width, height)
        # Pillow first resizes the rows, then the columns.
        return scaled_width * (height + scaled_height) * (1 if self.mode == "L" else 4)

    @property
    def min_shorter_side(self) -> int:
        """Smallest shorter side in pixels that `apply_fast` takes without a loss."""
        return int(_REDUCING_GAP * (self.resize or max(self.size)))

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that `apply` keeps: left, top, right, bottom in pixels of the image."""
        if self.resize is None:  # exact, unlike the quotients
            return 0.0, 0.0, float(width), float(height)
        (scaled_width, scaled_height), (left, top) = self.cut(width, height)
        across, down = width / scaled_width, height / scaled_height
        return left * across, top * down, (left + self.size[1]) * across, (top + self.size[0]) * down

    def cut(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height that an image is resized to, and the left and top of the crop in the resized image."""
        if self.resize is None:
            return (self.size[1], self.size[0]), (0, 0)
        shorter = min(width, height)
        wide, high = (self.resize if side == shorter else self.resize * side // shorter for side in (width, height))
        margins = wide - self.size[1], high - self.size[0]
        left, top = (each // 2 if self.odd_margins == "down" else round(each / 2) for each in margins)
        return (wide, high), (left, top)


class Preprocess(Geometry):
    """Geometry and normalisation, stored with the weights."""

    mean: tuple[float, ...]
    """Mean of each channel, of values between 0 and 1."""
    std: tuple[PositiveFloat, ...]
    """Standard deviation of each channel, of values between 0 and 1."""

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mode {self.mode} has {self.channels} channels; mean and std need as many values each")
        return self

    def in_words(self) -> str:
        """A description in one line."""
        cut = "squeezed to" if self.resize is None else f"shorter side to {self.resize}, cut to"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{cut} {self.size[0]} x {self.size[1]}, {self.interpolation}, mean {mean}, std {std}"
