"""Line 4: plain and residual networks of 20 and 56 layers on all images, with one schedule, and a page that says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[3] / "docs" / "studies"
RESULT = DOCS / "full-strength" / "degradation.json"
TITLES = {"plain20": "plain-20", "plain56": "plain-56", "resnet20": "ResNet-20", "resnet56": "ResNet-56"}
CONTRARY = "against the lecture"


def check() -> tuple[bool, str]:
    """Compare the committed numbers with what the issue asks, and the page with the numbers."""
    if not RESULT.is_file():
        return False, f"{RESULT.relative_to(DOCS.parents[1])} is missing: the training has not finished"
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    networks = result["numbers"]["networks"]
    page = " ".join((DOCS / "degradation.md").read_text(encoding="utf-8").split())
    wrong = [*_wrong_training(result), *_wrong_page(networks, page)]
    for line in wrong:
        print(f"  {line}", flush=True)
    figures = ", ".join(f"{TITLES[name]} {band(networks[name]['train_error'])}" for name in TITLES)
    contrary = contradictions(networks)
    return not wrong, f"final training errors: {figures}; {CONTRARY}: {contrary or 'nothing'}; wrong: {len(wrong)}"


def _wrong_training(result: dict[str, Any]) -> list[str]:
    settings, networks = result["settings"], result["numbers"]["networks"]
    gpu = "CPU" not in result["environment"]["device"]
    epochs, shallow, deep = (100, 3, 3) if gpu else (20, 3, 1)
    wrong = []
    if settings["train_images"] is not None or settings["size"] is not None or not settings["augment"]:
        wrong.append("the networks did not see all images at their own size, with augmentation")
    if settings["epochs"] < epochs:
        wrong.append(f"{settings['epochs']} epochs, fewer than {epochs}")
    if len({tuple(network["learning_rate"]) for network in networks.values()}) != 1:
        wrong.append("the networks had different learning rates")
    for name, network in networks.items():
        runs = len(network["train_error"])
        if runs < (deep if name.endswith("56") else shallow):
            wrong.append(f"{name} has {runs} seeds")
        if {len(curve) for curve in network["train_curve"]} != {settings["epochs"]}:
            wrong.append(f"{name} has curves of another length than the training")
    return wrong


def _wrong_page(networks: dict[str, Any], page: str) -> list[str]:
    wrong = [] if "](full-strength/degradation.png)" in page else ["the page does not show the figure"]
    for name, title in TITLES.items():
        row = f"| {title} | {band(networks[name]['train_error'])} |"
        if row not in page:
            wrong.append(f"the page has no row {row!r}")
    contrary = contradictions(networks)
    if bool(contrary) != (CONTRARY in page):
        wrong.append(f"results {CONTRARY}: {contrary or 'none'}, and the page says something else")
    return wrong


def contradictions(networks: dict[str, Any]) -> list[str]:
    """Where the final training errors do not go as in He et al. 2016a."""
    mean = {name: float(np.mean(network["train_error"])) for name, network in networks.items()}
    found = [] if mean["resnet56"] <= mean["resnet20"] else ["ResNet-56 is above ResNet-20"]
    return found + ([] if mean["plain56"] > mean["plain20"] else ["plain-56 is not above plain-20"])


def band(errors: list[float]) -> str:
    """The mean in per cent, and the range over the seeds if there are several."""
    percent = 100 * np.asarray(errors)
    text = f"{percent.mean():.2f} %"
    return text if len(errors) == 1 else f"{text} ({percent.min():.2f} to {percent.max():.2f})"
