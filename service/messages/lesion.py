"""A request to compute one image with some blocks of the network deleted.

The answer is an `InferenceResult` with the output `probabilities`, float32 [2, classes]: with all blocks, and without
the deleted ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.imaging.preprocess import UInt8Array


@dataclass(frozen=True, slots=True)
class LesionRequest:
    """One decoded image."""

    image: UInt8Array
    """uint8 [H, W, C]."""
    deleted: tuple[int, ...]
    """Positions of the deleted blocks in `ServedModel.lesion_blocks`."""
    deadline: float
    """`time.monotonic` seconds."""
