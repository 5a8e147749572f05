"""Line 3: the study of notebook 11.1 shows its curve, that of Balduzzi et al. 2017, and the one change between them.

The reference is written here a second time, with PyTorch's gradient in place of the study's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

DOCS = Path(__file__).parents[3] / "docs" / "studies"
LAG = 2
"""Of 1 / 64 each: the distance at which the curves are compared."""
CELL = "_2w-Tr7G3sYq"
CHANGE = "all_f[layer] -= all_f[layer].mean(axis=1, keepdims=True)"


def check() -> tuple[bool, str]:
    """Compute both curves again, compare them with the committed ones, and read the page."""
    numbers = json.loads((DOCS / "why-11-1-failed.json").read_text(encoding="utf-8"))["numbers"]
    curves = {"the notebook": False, "mean-centred": True}
    largest = 0.0
    values: dict[str, list[float]] = {}
    for name, centred in curves.items():
        for layers in (24, 50):
            committed = numbers[f"{name}, {layers} layers"]
            again = autocorrelation(gradient(layers, centred))[: len(committed["first_seed"])]
            largest = max(largest, float(np.abs(again - committed["first_seed"]).max()))
            values.setdefault(name, []).extend([committed["mean"][LAG], float(again[LAG])])
    shallow = numbers["the notebook, 1 layer"]["mean"][LAG]
    single = {name: numbers[name]["mean"][LAG] for name in numbers if name not in ("white noise", "brown noise")}
    for name, value in single.items():
        print(f"  {name}: {value:.3f}", flush=True)
    page = (DOCS / "why-11-1-failed.md").read_text(encoding="utf-8")
    figure = (DOCS / "why-11-1-failed.svg").read_bytes()
    missing = [text for text in (CELL, CHANGE, "](why-11-1-failed.png)") if text not in page]
    holds = (
        largest < 2e-5
        and min(values["the notebook"]) > 0.5
        and max(abs(value) for value in values["mean-centred"]) < 0.15
        and shallow > 0.5
        and not missing
        and len(figure) > 10_000
    )
    return holds, (
        f"autocorrelation at {LAG / 64:.3f}, 24 and 50 layers, each as a mean over seeds and of seed 1: "
        + ", ".join(f"{name} {' '.join(f'{value:.3f}' for value in found)}" for name, found in values.items())
        + f"; 1 layer {shallow:.3f}; computed again, the largest difference is {largest:.1e}; "
        f"the page lacks: {missing or 'nothing'}"
    )


def gradient(layers: int, centred: bool, seed: int = 1) -> NDArray[np.float64]:
    """The slope of the notebook's network at its 256 inputs, with or without the one change."""
    random = np.random.RandomState(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.normal(size=shape) * np.sqrt(1 / 200))

    first, last, first_bias, last_bias = drawn(200, 1), drawn(1, 200), drawn(200, 1), drawn(1, 1)
    x = torch.arange(-2, 2, 4 / 256, dtype=torch.float64)[None].requires_grad_()
    hidden = (first @ x + first_bias).relu()
    for _ in range(1, layers):
        inputs = drawn(200, 200) @ hidden
        inputs = inputs + drawn(200, 1)
        if centred:
            inputs = inputs - inputs.mean(1, keepdim=True).detach()
        hidden = inputs.relu()
    output = last @ hidden + last_bias
    return torch.autograd.grad(output.sum(), x)[0][0].numpy()


def autocorrelation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """As the notebook's exercise asks: NumPy's `correlate` in its mode "same", 1 in the middle."""
    middle = len(values) // 2
    full = np.correlate(values, values, "same")
    return np.asarray(full[middle:] / full[middle])
