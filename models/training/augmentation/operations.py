"""The operations of TrivialAugment and RandAugment on Pillow images, as torchvision applies them to Pillow images."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Take each pixel (x, y) from (ax + by + c, dx + ey + f), or black outside of the image."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def shear_x(image: Image.Image, amount: float) -> Image.Image:
    return _affine(image, 1, amount, 0, 0, 1, 0)


def shear_y(image: Image.Image, amount: float) -> Image.Image:
    return _affine(image, 1, 0, 0, amount, 1, 0)


def translate_x(image: Image.Image, pixels: float) -> Image.Image:
    return _affine(image, 1, 0, -int(pixels), 0, 1, 0)


def translate_y(image: Image.Image, pixels: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, -int(pixels))


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.NEAREST)


def brightness(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + change)


def colour(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + change)


def contrast(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + change)


def sharpness(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + change)


def posterize(image: Image.Image, bits: float) -> Image.Image:
    return ImageOps.posterize(image, int(bits))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    # Values that are equal to the threshold are inverted, too: ImageOps.solarize keeps values below it.
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]  # any number is compared


def autocontrast(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(image)


def identity(image: Image.Image, _: float) -> Image.Image:
    return image


Operation = Callable[[Image.Image, float], Image.Image]
