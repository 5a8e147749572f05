"""Random changes of brightness, contrast and colour, as in torchvision's `ColorJitter` without a change of hue."""

from __future__ import annotations

from PIL import Image

from models.training.augmentation import operations
from models.training.augmentation.draws import FloatArray

_OPERATIONS = (operations.brightness, operations.contrast, operations.colour)
DRAWS = 2 * len(_OPERATIONS)


def colour_jitter(image: Image.Image, strength: float, draws: FloatArray) -> Image.Image:
    """Multiply brightness, contrast and saturation by 1 - `strength` to 1 + `strength`, in a random order.

    Draws: the three changes, then their places in the order, float64 [6].
    """
    changes, places = draws[: len(_OPERATIONS)], draws[len(_OPERATIONS) :]
    for index in places.argsort(kind="stable"):
        change = strength * (2 * float(changes[index]) - 1)
        image = _OPERATIONS[index](image, max(-1.0, change))
    return image
