"""A network as a list of layers, each of which one kernel computes. Arrays are NumPy's; no torch.

A layer computes values in float32 and stores them once or twice, in the forms that later layers read: rounded to int8,
or in half precision; as they are, or after a normalisation and a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Height, width and channels of one image's activations."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Affine:
    """A normalisation: scale * x + shift, float32 [channels] each."""

    scale: Float32Array
    shift: Float32Array


@dataclass(frozen=True)
class Form:
    """How a layer stores its values: relu(affine(x)), rounded to int8 if it has a scale, else in half precision."""

    name: str
    """Unique in the network; layers name their inputs by it."""
    shape: Shape
    scale: float | None = None
    """Value of one step of int8."""
    relu: bool = False
    affine: Affine | None = None
    of_first: bool = False
    """Whether x is the value that the layer's first form has after rounding, not the exact one."""


@dataclass(frozen=True)
class Pixels:
    """The prepared pixels: what the arithmetic before the first convolution makes of each byte."""

    values: Float32Array
    """Value of each byte, [256, channels]."""
    form: Form
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Convolution:
    """A convolution with all that is computed in its kernel."""

    name: str
    source: str
    """Name of the form that it reads."""
    weight: Array
    """float32, or int8 with `weight_scale`; [out, in / groups, height, width]."""
    weight_scale: Float32Array | None
    """[out]; None for a convolution in half precision."""
    bias: Float32Array
    """[out]."""
    stride: int
    padding: int
    groups: int
    residual: str | None
    """Name of the form that is added."""
    forms: tuple[Form, ...]
    nodes: tuple[str, ...]
    additions: tuple[str, ...] = ()

    @property
    def kernel(self) -> int:
        """Height and width of the filter."""
        return int(self.weight.shape[2])

    @property
    def is_int8(self) -> bool:
        """Whether it multiplies integers."""
        return self.weight_scale is not None


@dataclass(frozen=True)
class Window:
    """The maximum or the mean of the pixels in a window. The mean is over the pixels that exist."""

    name: str
    source: str
    is_max: bool
    kernel: int
    stride: int
    padding: int
    counts_padding: bool
    """Whether the mean divides by the pixels of the whole window."""
    forms: tuple[Form, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """The mean over all pixels of an image, an output."""

    name: str
    source: str
    output: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class FeatureMap:
    """A form as an output, float32 [N, channels, height, width]."""

    name: str
    source: str
    output: str


@dataclass(frozen=True)
class Classifier:
    """Logits and probabilities from pooled features."""

    name: str
    source: str
    """Name of the output with the features."""
    weight: Float32Array
    """[classes, features]."""
    bias: Float32Array
    """[classes]."""
    temperature: float
    """Probabilities are softmax(logits / temperature)."""
    logits: str
    probabilities: str
    nodes: tuple[str, ...]


Step = Convolution | Window | Mean | FeatureMap | Classifier


@dataclass(frozen=True)
class Network:
    """The layers in an order in which they can run."""

    image: Shape
    pixels: Pixels
    steps: tuple[Step, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of a row, in the graph's order."""

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions, in order."""
        return tuple(step for step in self.steps if isinstance(step, Convolution))

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms of all layers, those of the pixels first."""
        forms = [self.pixels.form]
        for step in self.steps:
            forms += step.forms if isinstance(step, Convolution | Window) else ()
        return tuple(forms)
