"""Weights by name. Each kind of name is one module, and one line in `PREFIXES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from export.sources import hub, local, torchvision, url
from export.sources.fetched import FetchedWeights, Source

__all__ = ["PREFIXES", "FetchedWeights", "Source", "fetch"]

PREFIXES: Mapping[str, Source] = {"hf-hub:": hub, "torchvision:": torchvision, "url:": url}


def fetch(source: str) -> FetchedWeights:
    """Bring weights onto this machine.

    Args:
        source: a name with one of the prefixes, or the path of a file or folder.

    Raises:
        FetchError: there are no such weights, or they cannot be fetched.
        OSError: they cannot be written.
    """
    for prefix, kind in PREFIXES.items():
        if source.startswith(prefix):
            fetched = kind.fetch(source.removeprefix(prefix))
            return replace(fetched, provenance={"source": source, **fetched.provenance})
    return local.fetch(source)
