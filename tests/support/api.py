"""Requests to the HTTP interface, and checks of its answers."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Client
from tests.support.tiny import Eager, Photographs


def as_form(*files: bytes) -> dict[str, Any]:
    return {"files": [("image", (f"{number}.jpg", data, "image/jpeg")) for number, data in enumerate(files)]}


def as_json(*files: bytes) -> dict[str, Any]:
    return {"json": {"images": [{"base64": base64.b64encode(data).decode()} for data in files]}}


def check(result: dict[str, Any], data: bytes, eager: Eager, classes: int = 5) -> None:
    """Compare one image's answer with the eager model and with Pillow."""
    expected = eager(data)
    predictions = result["predictions"]
    assert len(predictions) == classes
    probabilities = [prediction["probability"] for prediction in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    indices = [prediction["index"] for prediction in predictions]
    assert len(set(indices)) == classes
    np.testing.assert_allclose(probabilities, expected[indices], atol=1e-5)
    np.testing.assert_allclose(probabilities, np.sort(expected)[::-1][:classes], atol=1e-5)
    assert [prediction["label"] for prediction in predictions] == [f"class {index}" for index in indices]
    with Image.open(io.BytesIO(data)) as image:
        assert result["image"] == {"width": image.width, "height": image.height, "format": image.format}
    assert "error" not in result


def check_problem(response: httpx.Response, status: int, detail: str = "") -> None:
    """RFC 9457 with a reason."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert len(problem["detail"]) > 10
    assert re.search(detail, problem["detail"]), problem["detail"]


def check_still_answers(client: Client, photographs: Photographs, eager: Eager) -> None:
    _, data = photographs[0]
    response = client.post("/v1/classify", content=data)
    assert response.status_code == 200, response.text
    check(response.json()["results"][0], data, eager)


class Chunks:
    """A body that is sent in pieces of 1000 bytes, and counts those that were requested."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.sent < self.count:
            self.sent += 1
            yield bytes(1000)


def metrics(client: Client) -> dict[tuple[str, ...], float]:
    """Values by name and labels, in the order of their names."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
