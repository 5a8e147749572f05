"""The views of an image that a network sees in a test: one, ten crops, or whole images at several scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from models.imaging.preprocess import Geometry, UInt8Array

_MARGIN = 256 / 224
"""Size of the image that is cropped, relative to the crop, where the geometry has no margin."""
_MAX_RATIO = 4
"""Largest ratio of the sides of a whole image; of a longer one the middle is used, so that memory is bounded."""


class ViewsError(ValueError):
    """The views cannot be made; the message says what to give instead."""


@dataclass(frozen=True)
class Views:
    """How an image is seen. Scores are averaged over positions, probabilities over everything else."""

    crops: Literal[1, 10] = 1
    scales: tuple[int, ...] = ()
    """Shorter sides in pixels of whole images, each also mirrored; empty for crops."""

    def check(self, geometry: Geometry) -> None:
        """Raise ViewsError if a scale is smaller than the crop that the network was trained on."""
        if self.scales and self.crops != 1:
            raise ViewsError("--crops and --scales exclude each other: give one of them")
        smallest = max(geometry.size)
        for scale in self.scales:
            if scale < smallest:
                raise ViewsError(f"scale {scale} is smaller than the network's crop: give {smallest} or more")

    def in_words(self) -> str:
        """A description in one line."""
        if self.scales:
            sides = ", ".join(map(str, self.scales))
            return f"whole images with a shorter side of {sides} pixels, and their mirrors, averaged"
        return "ten crops, averaged" if self.crops == 10 else "one centre crop"

    def of(self, image: Image.Image, geometry: Geometry) -> list[UInt8Array]:
        """The views of an image, uint8 [H, W, C] each."""
        if self.scales:
            return [view for scale in self.scales for view in _mirrored(whole(image, geometry, scale))]
        if self.crops == 10:
            return ten_crops(image, geometry)
        return [geometry.apply(image)]


def ten_crops(image: Image.Image, geometry: Geometry) -> list[UInt8Array]:
    """Four corners and the centre, and the same mirrored (Krizhevsky et al. 2012, section 4.1).

    They are cut from the image with its shorter side at `resize`. A geometry without it (data sets of arrays) has no
    margin to cut from: the image gets a black one, so that the crop has 224/256 of its size, as ImageNet's. Training
    shifts such images in the same way.
    """
    height, width = geometry.size
    if geometry.resize is None:
        padded = [2 * round(side * (_MARGIN - 1) / 2) for side in (height, width)]
        inner = _pixels(_resized(image, (width, height), geometry), geometry)
        pad = [(extra // 2, extra // 2) for extra in padded]
        pixels = np.pad(inner, (*pad, (0, 0)))
    else:
        pixels = _pixels(_resized(image, geometry.cut(*image.size)[0], geometry), geometry)
    rows, columns = pixels.shape[0] - height, pixels.shape[1] - width
    places = [(0, 0), (0, columns), (rows, 0), (rows, columns), (round(rows / 2), round(columns / 2))]
    return [view for top, left in places for view in _mirrored(pixels[top : top + height, left : left + width])]


def whole(image: Image.Image, geometry: Geometry, shorter_side: int) -> UInt8Array:
    """The whole image with its shorter side at a number of pixels, uint8 [H, W, C]."""
    width, height = image.size
    shorter = min(width, height)
    longest = _MAX_RATIO * shorter
    if max(width, height) > longest:
        left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
        image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
        width, height = image.size
    scaled = (shorter_side * width // shorter, shorter_side * height // shorter)
    return _pixels(_resized(image, scaled, geometry), geometry)


def _mirrored(view: UInt8Array) -> list[UInt8Array]:
    return [view, view[:, ::-1]]


def _resized(image: Image.Image, size: tuple[int, int], geometry: Geometry) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling[geometry.interpolation.upper()])


def _pixels(image: Image.Image, geometry: Geometry) -> UInt8Array:
    return np.array(image, np.uint8).reshape(image.height, image.width, geometry.channels)
