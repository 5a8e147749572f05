"""Values of the pixels that an ONNX classifier takes, and its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from export.errors import ForeignWeights
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, MODES, make_preprocess
from export.wrapping.inputs import GraphInput
from models.imaging.preprocess import Preprocess

Pixels = Literal["torch", "tf", "caffe", "unit", "raw"]
"""The first three are the modes of Keras' `preprocess_input`."""
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class _Values:
    """Normalisation of values between 0 and 1; one number is for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


_BYTE = (1 / 255,)
_KINDS: Mapping[str, _Values] = {
    "torch": _Values(IMAGENET_MEAN, IMAGENET_STD),
    "tf": _Values((0.5,), (0.5,)),  # -1 to 1: x / 127.5 - 1
    # https://github.com/keras-team/keras/blob/master/keras/src/applications/imagenet_utils.py
    "caffe": _Values((123.68 / 255, 116.779 / 255, 103.939 / 255), _BYTE * 3, bgr=True),
    "unit": _Values((0.0,), (1.0,)),  # 0 to 1
    "raw": _Values((0.0,), _BYTE),  # 0 to 255
}


def is_bgr(pixels: Pixels | None) -> bool:
    """Whether a kind of values has the channels in the order blue, green, red."""
    return pixels is not None and _KINDS[pixels].bgr


def input_preprocess(path: Path, given: GraphInput, pixels: Pixels | None, overrides: Mapping[str, Any]) -> Preprocess:
    """The preprocessing of a classifier; ImageNet's, where neither the file nor the user tells another.

    Args:
        path: file of the classifier, for messages.
        given: its input.
        pixels: values that it takes, if the user names them.
        overrides: fields of `Preprocess`. Mean and standard deviation are in the order red, green, blue.

    Raises:
        ForeignWeights: the file does not fit the choices, or needs further ones.
    """
    size = overrides.get("size") or given.size or (_DEFAULT_SIZE, _DEFAULT_SIZE)
    if given.size not in (None, size):
        raise ForeignWeights(f"{path}: takes images of {given.size}, not {size}")
    named = {"mean", "std"} & overrides.keys()
    if pixels and named:
        raise ForeignWeights("--pixels stands for a mean and a standard deviation: leave out --mean and --std")
    if given.is_integer:
        if named or pixels not in (None, "raw"):
            raise ForeignWeights(f"{path}: takes whole numbers from 0 to 255: leave out --pixels, --mean and --std")
        pixels = "raw"
    elif not pixels and len(named) < 2:
        _check_default(path, given)
    values = _KINDS[pixels or "torch"]
    if given.channels == 1 and len(values.mean) > 1 and len(named) < 2:
        raise ForeignWeights(f"{path}: takes grey images, for which --pixels {pixels} has no values: give another")
    defaults = {
        "resize": round(max(size) * 256 / 224),
        "interpolation": "bilinear",
        "mean": values.mean * (given.channels // len(values.mean)),
        "std": values.std * (given.channels // len(values.std)),
        "mode": MODES[given.channels],
    }
    return make_preprocess({**defaults, **overrides, "size": size})


def _check_default(path: Path, given: GraphInput) -> None:
    """Refuse files that may take other values than the mean and standard deviation of ImageNet give."""
    if given.channels == 1:
        raise ForeignWeights(
            f"{path}: takes grey images, which have no default normalisation: give --mean and --std, or --pixels"
        )
    if given.normalises:
        raise ForeignWeights(
            f"{path}: its graph begins with arithmetic on the pixels, so it seems to normalise them: give --pixels raw "
            "if it takes 0 to 255, --pixels unit for 0 to 1, or --pixels torch for normalised images"
        )
