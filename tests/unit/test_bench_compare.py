"""The parts of `python -m benchmarks compare` that need no service."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import ComparedLoad, ComparedRound


def test_load_is_parsed() -> None:
    assert ComparedLoad.parse("resnet50:32") == ComparedLoad("resnet50", 32)


@pytest.mark.parametrize("text", ["resnet50", "resnet50:", "resnet50:0", "resnet50:many", "vgg16:1", ""])
def test_malformed_load_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MODEL:CONNECTIONS"):
        ComparedLoad.parse(text)


def test_result_is_the_median_of_the_ratios() -> None:
    rounds = [ComparedRound(100.0, 90.0, 0.0), ComparedRound(50.0, 55.0, 0.0), ComparedRound(200.0, 190.0, 0.0)]
    assert compare.median_ratio(rounds) == pytest.approx(0.95)


@pytest.mark.parametrize(("model", "start"), [("resnet20", b"\x89PNG"), ("resnet50", b"\xff\xd8")])
def test_requests_carry_an_image_and_the_headers(model: str, start: bytes) -> None:
    requests = compare.make_requests(model, ["Authorization: Bearer KEY"])
    assert len(requests) >= 3
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.splitlines()[0] == b"POST /v1/classify HTTP/1.1"
        assert b"Authorization: Bearer KEY" in head.splitlines()
        assert f"Content-Length: {len(body)}".encode() in head.splitlines()
        assert body.startswith(start)


def test_given_repository_is_served() -> None:
    assert compare.repository_options("resnet20", Path("/other")) == []
    assert compare.repository_options("resnet50", Path("/other")) == ["--repository", "/other"]
