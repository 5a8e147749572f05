"""Errors of image files.

ImageError
├── NotAnImage
├── UnsupportedMode
├── TooManyPixels
└── TooMuchMemory
DeadlinePassed
"""

from __future__ import annotations


class ImageError(ValueError):
    """The bytes cannot be used as an image; the message is meant for the client."""


class NotAnImage(ImageError):
    """The bytes are no image, have an unknown format, are damaged, or take too long to decode."""


class UnsupportedMode(ImageError):
    """The image is sound, but its colours cannot be converted."""


class TooManyPixels(ImageError):
    """The image has more pixels than the limit, according to its header."""


class TooMuchMemory(ImageError):
    """Decoding the image would take more memory than all images may take together."""


class DeadlinePassed(Exception):
    """Decoding was given up, because its deadline passed or its request ended. No error of the image."""
