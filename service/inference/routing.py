"""The version for a request: the one that it names, or the one that the traffic policy of the model chooses."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from hashlib import blake2b

from models.artifact.manifest import VERSION
from models.artifact.traffic import TrafficPolicy
from service.core.errors import BadRequest
from service.messages.catalog import Catalog
from service.messages.model import ServedModel
from service.telemetry import request_context

VERSION_HEADER = "X-Model-Version"
"""In a request, the version that is wanted; in a response, the version that has answered."""

_VERSION_HEADER = VERSION_HEADER.lower().encode()
_NUMBER = re.compile(VERSION)
_BITS = 52
"""Bits of a hash that become a number: with half a step added, a float is exact and below 1."""


def find(catalog: Catalog, name: str | None, version: str | None) -> ServedModel:
    """The version for the current request; arguments and errors are those of `resolve_version` and `Catalog.find`."""
    return catalog.find(name, resolve_version(catalog, name, version))


def resolve_version(catalog: Catalog, name: str | None, version: str | None) -> str | None:
    """Resolve the version for the current request. A request gets the same one again, as long as the policy stays.

    Args:
        catalog: the versions that are served.
        name: name of the model; None for the default model.
        version: version in the path of the request; None without one.

    Returns:
        The version in the path, in the header `X-Model-Version`, or of the traffic policy; None if there is none.

    Raises:
        BadRequest: the header is no version, or not the one in the path.
    """
    context = request_context.current()
    wanted = context.header(_VERSION_HEADER)
    if wanted:
        context.routed = "header"
        return _check(wanted, version)
    if version is not None:
        return version
    model = catalog.models.get(name or catalog.default or "")
    if model is None or model.traffic is None:
        return None
    context.routed = "policy"
    header = model.traffic.sticky_header
    key = (header and context.header(header.lower().encode())) or context.request_id
    number = select_version(model.traffic, model.versions, f"{model.name}\n{key}")
    return None if number is None else str(number)


def find_stable(catalog: Catalog, model: ServedModel, outputs: frozenset[str]) -> ServedModel | None:
    """The version that can compute in the place of another one, which the traffic policy chose and which failed.

    Args:
        catalog: the versions that are served.
        model: the version that failed.
        outputs: names of the outputs.

    Returns:
        The other version with the largest weight; None if there is none, if it cannot compute the same pixels or
        outputs, or if the request named its version.
    """
    entry = catalog.models.get(model.name)
    if request_context.current().routed != "policy" or entry is None or entry.traffic is None:
        return None
    weights = entry.traffic.weights | {int(model.version): 0.0}
    others = [number for number in entry.versions if weights.get(number)]
    if not others:
        return None
    stable = entry.versions[max(others, key=lambda number: (weights[number], -number))]
    if stable.preprocess != model.preprocess or not outputs.issubset(stable.outputs):
        return None
    if "feature_map" in outputs and model.classifier is not None and stable.classifier is None:  # it has no maps
        return None
    return stable


def _check(wanted: str, version: str | None) -> str:
    if not _NUMBER.fullmatch(wanted):
        raise BadRequest(f"{VERSION_HEADER}: {wanted[:40]!r} is not a version number, such as 2")
    if version is not None and version != wanted:
        raise BadRequest(f"the path names version {version}, and {VERSION_HEADER} version {wanted}: leave one out")
    return wanted


def select_version(policy: TrafficPolicy, versions: Container[int], key: str) -> int | None:
    """Select a version for a key: each with a probability in proportion to its weight.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): if the weight
    of one version grows, keys only move to it, and the keys of a version that is away are shared among the others.

    Args:
        policy: the weights.
        versions: the versions that are served; others are not chosen.
        key: any text.

    Returns:
        The number of the version; None if no version with a weight is served.
    """
    weights = {number: weight for number, weight in policy.weights.items() if weight and number in versions}
    return max(weights, key=lambda number: -weights[number] / math.log(_uniform(f"{number}\n{key}")), default=None)


def _uniform(text: str) -> float:
    """A number between 0 and 1, exclusive, that is always the same for a text."""
    digest = blake2b(text.encode(), digest_size=8).digest()
    return ((int.from_bytes(digest) >> 64 - _BITS) + 0.5) / 2.0**_BITS
