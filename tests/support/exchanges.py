"""Recorded exchanges with the routes of other platforms: `tests/data/compat`, written from the platforms' documents.

Braces stand for values of the test: in a request `{model}`, `{base64}` and `{file}` (an image file) and `{pixels}`; in
a response the classes of the image in one of the forms of `Expected.forms`, `{text}` (not empty) and `{any}`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).parents[1] / "data" / "compat"
PLATFORMS = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Expected:
    """An image, and its classes by another program."""

    model: str
    file: bytes
    pixels: Sequence[Any]
    """The image as the model sees it, [H][W][C]."""
    classes: Sequence[tuple[str, int, float]]
    """Label, index and probability of the ten most likely classes, best first; the platforms give five of them."""

    @property
    def forms(self) -> dict[str, Any]:
        """The classes in the forms of the platforms."""
        labels, indices, probabilities = (list(values) for values in zip(*self.classes[:5], strict=True))
        predictions = [{"label": a, "index": b, "probability": c} for a, b, c in self.classes[:5]]
        return {
            "{vertex: 10}": _vertex(self.classes),
            "{named}": {"labels": labels, "indices": indices, "probabilities": probabilities},
            "{map}": dict(zip(labels, probabilities, strict=True)),
            "{vertex: 5}": _vertex(self.classes[:5]),
            "{result}": {"predictions": predictions, "image": "{any}"},
        }


def _vertex(classes: Sequence[tuple[str, int, float]]) -> dict[str, Any]:
    labels, indices, probabilities = (list(values) for values in zip(*classes, strict=True))
    return {"ids": list(map(str, indices)), "displayNames": labels, "confidences": probabilities}


def read(platform: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The environment variables of a platform, and its exchanges."""
    recorded = json.loads((FOLDER / f"{platform}.json").read_text())
    return recorded.get("environment", {}), recorded["exchanges"]


def request_of(exchange: dict[str, Any], expected: Expected) -> tuple[str, str, dict[str, Any]]:
    """Method, path and further arguments for httpx."""
    recorded = exchange["request"]
    options: dict[str, Any] = {"headers": recorded["headers"]}
    if "json" in recorded:
        text = json.dumps(recorded["json"])
        text = text.replace("{base64}", base64.b64encode(expected.file).decode())
        options["content"] = text.replace('"{pixels}"', json.dumps(expected.pixels)).encode()
    elif "form" in recorded:
        options["files"] = {name: ("kitten_small.jpg", expected.file) for name in recorded["form"]}
    elif "body" in recorded:
        options["content"] = expected.file
    return recorded["method"], recorded["path"].replace("{model}", expected.model), options


def difference(exchange: dict[str, Any], response: httpx.Response, expected: Expected) -> str:
    """How a response differs from the recorded one; empty if it does not."""
    recorded = exchange["response"]
    if response.status_code != recorded["status"]:
        return f"status {response.status_code} instead of {recorded['status']}: {response.text[:300]}"
    if "type" in recorded and response.headers["Content-Type"] != recorded["type"]:
        return f"type {response.headers['Content-Type']} instead of {recorded['type']}"
    return _compare(response.json(), recorded["json"], expected) if "json" in recorded else ""


def _compare(found: Any, wanted: Any, expected: Expected, place: str = "") -> str:
    if isinstance(wanted, str):
        if wanted in expected.forms:
            return _compare(found, expected.forms[wanted], expected, place)
        if wanted in ("{any}", "{text}"):
            return "" if wanted == "{any}" or (isinstance(found, str) and len(found) > 3) else f"{place}: {found!r}"
        wanted = wanted.replace("{model}", expected.model)
    if isinstance(wanted, dict) and isinstance(found, dict):
        if list(found) != list(wanted):
            return f"{place}: {list(found)} instead of {list(wanted)}"
        return "".join(_compare(found[name], wanted[name], expected, f"{place}.{name}") for name in wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        if len(found) != len(wanted):
            return f"{place}: {len(found)} items instead of {len(wanted)}"
        pairs = enumerate(zip(found, wanted, strict=True))
        return "".join(_compare(a, b, expected, f"{place}[{index}]") for index, (a, b) in pairs)
    if isinstance(wanted, float) and isinstance(found, float):
        return "" if math.isclose(found, wanted, rel_tol=0, abs_tol=TOLERANCE) else f"{place}: {found}, not {wanted}"
    return "" if found == wanted and type(found) is type(wanted) else f"{place}: {found!r} instead of {wanted!r}"
