"""The tensors of a graph as values of layers with element-wise steps behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.errors import UnsupportedNetwork
from export.kernels.network import Affine, Array, Form, Shape


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class Normalise:
    """scale * x + shift per channel."""

    affine: Affine
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalise) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Round:
    """Rounding to int8, and back."""

    scale: float


Elementwise = Relu | Normalise | Round
Steps = tuple[Elementwise, ...]

MOST_FORMS = 2
"""Forms that one kernel stores."""


@dataclass(frozen=True)
class Value:
    """A tensor: the values of a layer, and the steps behind them."""

    layer: int
    """Number of the layer; -1 for the pixels."""
    steps: Steps = ()

    def then(self, step: Elementwise) -> Value:
        """The value after one more step; a step that changes nothing is left out."""
        repeated = bool(self.steps) and self.steps[-1] == step and isinstance(step, Relu | Round)
        return self if repeated else Value(self.layer, (*self.steps, step))


def forms(name: str, shape: Shape, wanted: list[Steps]) -> dict[Steps, Form]:
    """The forms in which a layer stores its values, by the steps behind them, in the order in which kernels store them.

    A form without a normalisation comes first.

    Args:
        name: name of the layer.
        shape: shape of the values.
        wanted: the steps behind each value that is read.

    Raises:
        UnsupportedNetwork: a kernel cannot store these forms.
    """
    if len(wanted) > MOST_FORMS:
        raise UnsupportedNetwork(
            f"the values of {name} are read in {len(wanted)} forms, and kernels store {MOST_FORMS}"
        )
    plain = [steps for steps in wanted if not any(isinstance(step, Normalise) for step in steps)]
    if not plain and len(wanted) > 1:
        raise UnsupportedNetwork(f"the values of {name} have two normalisations behind them")
    first = min(plain, key=len) if plain else wanted[0]
    rounds = any(isinstance(step, Round) for step in first)
    found = {first: _form(f"{name}.0", shape, first, of_first=False)}
    for steps in (steps for steps in wanted if steps != first):
        of_first = rounds and steps[: len(first)] == first
        found[steps] = _form(f"{name}.1", shape, steps[len(first) :] if of_first else steps, of_first)
    return found


def _form(name: str, shape: Shape, steps: Steps, of_first: bool) -> Form:
    affine, relu, scale, at = None, False, None, 0
    if at < len(steps) and isinstance(step := steps[at], Normalise):
        affine, at = step.affine, at + 1
    if at < len(steps) and isinstance(steps[at], Relu):
        relu, at = True, at + 1
    if at < len(steps) and isinstance(step := steps[at], Round):
        scale, at = step.scale, at + 1
    if at < len(steps):
        raise UnsupportedNetwork(f"the values of {name} go through {len(steps)} element-wise steps that no kernel has")
    return Form(name, shape, scale, relu, affine, of_first)


def normalisation(scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float, name: str) -> Normalise:
    """A batch normalisation with running statistics."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    offset = shift.astype(np.float64) - mean.astype(np.float64) * factor
    return Normalise(Affine(factor.astype(np.float32), offset.astype(np.float32)), name)
