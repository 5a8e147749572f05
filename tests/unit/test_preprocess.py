"""Geometry against Pillow's own operations and torchvision's published arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from models.imaging.preprocess import Geometry, Preprocess


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def test_image_of_the_right_size_is_unchanged() -> None:
    image = noise(28, 28, "L")
    pixels = Geometry(size=(28, 28), mode="L").apply(image)
    assert pixels.shape == (28, 28, 1)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(image))


def test_without_resize_the_image_is_resized_to_the_size() -> None:
    image = noise(50, 40)
    expected = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Geometry(size=(32, 48)).apply(image), expected)


@pytest.mark.parametrize(
    ("width", "height", "scaled", "corner"),
    [
        # torchvision: longer = int(resize * longer / shorter); top = int(round((height - crop) / 2.0))
        (500, 375, (341, 256), (58, 16)),
        (375, 500, (256, 341), (16, 58)),
        (256, 256, (256, 256), (16, 16)),
        (1, 1, (256, 256), (16, 16)),
        (100, 1000, (256, 2560), (16, 1168)),
    ],
)
def test_shorter_side_then_centre_crop(
    width: int, height: int, scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = noise(width, height)
    left, top = corner
    expected = image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    pixels = Geometry(size=(224, 224), resize=256, interpolation="bicubic").apply(image)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean": (0.5,)}, "3 channels"),
        ({"std": (0.5, 0.0, 0.5)}, "greater than 0"),
        ({"size": (8, 16_385)}, "less than or equal to 16384"),
        ({"resize": 16}, "nothing to crop from"),
        ({"mode": "CMYK"}, "'L' or 'RGB'"),
        ({"size": (0, 32)}, "greater than or equal to 1"),
        ({"crop": 5}, "Extra inputs"),
    ],
)
def test_inconsistent_preprocessing_is_refused(changes: dict[str, object], reason: str) -> None:
    valid: dict[str, object] = {"size": (32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    Preprocess.model_validate(valid)
    with pytest.raises(ValidationError, match=reason):
        Preprocess.model_validate({**valid, **changes})


def test_older_readers_can_read_the_usual_geometry() -> None:
    """They refuse fields that they do not know."""
    usual = Geometry(size=(8, 8), resize=10)
    assert "odd_margins" not in usual.model_dump()
    assert Geometry.model_validate(usual.model_dump()) == usual
