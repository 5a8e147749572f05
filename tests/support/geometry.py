"""Image geometries of test networks."""

from __future__ import annotations

from models.imaging.preprocess import Preprocess

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": (0.45,), "std": (0.25,)}


def preprocess_for(size: int, channels: int) -> Preprocess:
    """A square geometry with a shorter side an eighth larger."""
    mode, statistics = ("RGB", IMAGENET) if channels == 3 else ("L", GREY)
    return Preprocess(size=(size, size), resize=size + size // 8, mode=mode, **statistics)  # type: ignore[arg-type]
