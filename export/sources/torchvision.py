"""`torchvision:NAME[.WEIGHTS]`: the weights that torchvision publishes, in the cache that it has itself."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from export.errors import FetchError
from export.importing import published
from export.importing.published import LICENCE, PublishedWeights
from export.sources.download import download
from export.sources.fetched import FetchedWeights

ENVIRONMENT = "RESNET_EXPORT_TORCHVISION_URL"
"""Environment variable with the address of another folder that has torchvision's files."""
_FOLDER = "https://download.pytorch.org/models"


def fetch(name: str) -> FetchedWeights:
    """Bring a file of torchvision onto this machine, unless torchvision itself did so before."""
    weights = _find(name)
    base = os.environ.get(ENVIRONMENT, _FOLDER).rstrip("/")
    # torchvision's own place: each finds what the other fetched.
    target = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    download(f"{base}/{weights.file}", target, weights.digits)
    provenance = {"weights": weights.weights, "licence": LICENCE}
    return FetchedWeights(target, weights.architecture, provenance, weights.architecture)


def _find(name: str) -> PublishedWeights:
    architecture, _, wanted = name.partition(".")
    found = [weights for weights in published.PUBLISHED if weights.architecture == architecture]
    if not found:
        names = dict.fromkeys(weights.architecture for weights in published.PUBLISHED)
        raise FetchError(f"torchvision:{name}: there are: {', '.join(names)}")
    if wanted in ("", "DEFAULT"):
        return found[-1]
    for weights in found:
        if weights.weights == wanted:
            return weights
    raise FetchError(
        f"torchvision:{name}: {architecture} has the weights {', '.join(weights.weights for weights in found)}"
    )
