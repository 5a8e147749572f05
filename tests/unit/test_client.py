"""The parts of the client that need no connection: images, answers, errors and pauses."""

from __future__ import annotations

import ast
import io
import json
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from resnet_serve_client import answers, errors, images, requests, retries

DISTRIBUTION = Path(__file__).parents[2] / "clients" / "python"
PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
RESULT: dict[str, Any] = {"predictions": [{"label": "cat", "index": 3, "probability": 0.75}]}


def opened(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


def rotated() -> Image.Image:
    """A Pillow image whose orientation (6) says: turn by 270 degrees."""
    image = Image.fromarray(PIXELS)
    image.getexif()[274] = 6
    return image


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(b"\xff\xd8 content")
    content = path.read_bytes()
    for image in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)):
        assert images.load(image) == b"\xff\xd8 content"


@pytest.mark.parametrize(
    ("image", "mode", "pixels"),
    [
        (PIXELS, "RGB", PIXELS),
        (PIXELS[::-1, ::2], "RGB", PIXELS[::-1, ::2]),
        (PIXELS[:, :, 0], "L", PIXELS[:, :, 0]),
        (PIXELS[:, :, :1], "L", PIXELS[:, :, 0]),
        (np.dstack([PIXELS, PIXELS[:, :, :1]]), "RGBA", np.dstack([PIXELS, PIXELS[:, :, :1]])),
        (Image.fromarray(PIXELS), "RGB", PIXELS),
        (rotated(), "RGB", np.rot90(PIXELS, -1)),
        (Image.new("CMYK", (3, 2)), "RGB", np.full((2, 3, 3), 255)),
    ],
)
def test_arrays_and_pillow_images_become_png_files_without_loss(image: Any, mode: str, pixels: Any) -> None:
    image = opened(images.load(image))
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no/such/file.png", "no/such/file.png cannot be read: No such file"),
        ("nul\0.png", "cannot be read"),
        ("https://example.org/cat.jpg", "URLs are never fetched"),
        ("data:image/png;base64,AAAA", "URLs are never fetched"),
        (io.StringIO("text"), 'mode "rb"'),
        (PIXELS.astype(np.float32), r"uint8 \[height, width, 3\].* not float32 \[5, 4, 3\]"),
        (np.zeros((3, 32, 32), np.uint8), r"not uint8 \[3, 32, 32\]"),
        (PIXELS[:0], "has no pixels"),
        (7, "an image cannot be a int"),
    ],
)
def test_refused_images_have_a_reason(image: Any, message: str) -> None:
    with pytest.raises(errors.UnreadableImage, match=message):
        images.load(image)


def test_arrays_without_pillow_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(errors.UnreadableImage, match=r"resnet-serve-client\[images\]"):
        images.load(PIXELS)


def test_answers_are_typed_and_unknown_fields_are_ignored() -> None:
    cam = {"cam": [[0.5, 1.0]], "cam_png": "UE5H"}
    fields = {
        "model": "m",
        "version": "2",
        "news": {},
        "results": [
            {
                "predictions": [{"label": "cat", "index": 3, "probability": 0.75, "news": 1, **cam}],
                "image": {"width": 2, "height": 3, "format": "PNG", "region": [0, 1, 2, 3]},
                "embedding": [1, 2.5],
            },
            {"error": {"status": 422, "title": "Not a usable image", "detail": "broken", "news": 1}},
        ],
    }
    good, bad = answers.read_classification(json.dumps(fields).encode(), 2, "id")
    assert good == answers.Classification(
        predictions=(answers.Prediction("cat", 3, 0.75, ((0.5, 1.0),), b"PNG"),),
        model="m",
        version="2",
        image=answers.ImageInfo(2, 3, "PNG", (0, 1, 2, 3)),
        embedding=(1, 2.5),
        request_id="id",
    )
    assert good.best.label == "cat"
    with pytest.raises(errors.UnprocessableImage, match="422 Not a usable image: broken \\(request id\\)"):
        _ = bad.best


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"\xff",
        json.dumps({"results": [RESULT]}).encode(),
        json.dumps({"model": "m", "version": "1", "results": [RESULT, RESULT]}).encode(),
        json.dumps({"model": "m", "version": "1", "results": [{"predictions": []}]}).encode(),
        json.dumps({"model": "m", "version": "1", "results": [{"predictions": [{"label": "cat"}]}]}).encode(),
        json.dumps({"model": "m", "version": "1", "results": [None]}).encode(),
    ],
)
def test_an_answer_of_another_form_is_an_error(content: bytes) -> None:
    with pytest.raises(errors.InvalidAnswer):
        answers.read_classification(content, 1, None)


@pytest.mark.parametrize(
    ("status", "content", "kind", "detail"),
    [
        (404, b'{"title": "Not found", "detail": "no model x", "request_id": "id"}', errors.NotFound, "no model x"),
        (
            503,
            b"<html>\n<h1>503 Service Unavailable</h1>",
            errors.Unavailable,
            "<html> <h1>503 Service Unavailable</h1>",
        ),
        (429, b"", errors.TooManyRequests, "the response has no reason"),
        (418, b'{"detail": "tea"}', errors.ApiError, "tea"),
        (502, b'["x"]', errors.ApiError, '["x"]'),
    ],
)
def test_errors_of_the_service_and_of_proxies(
    status: int, content: bytes, kind: type[errors.ApiError], detail: str
) -> None:
    error = errors.from_response(status, "Reason", content, "id")
    assert type(error) is kind
    assert (error.status, error.detail, error.request_id) == (status, detail, "id")


NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3),
        ({"retry-after": " 0 "}, 0),
        ({"Retry-After": date(90), "Date": date(0)}, 90),
        ({"Retry-After": date(-90), "Date": date(0)}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "٣"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert (
        retries.retry_after(httpx.Headers([(name.encode(), value.encode()) for name, value in headers.items()]))
        == seconds
    )


def test_a_date_without_the_clock_of_the_server_is_one_of_this_machine() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert retries.retry_after({"Retry-After": soon}) == pytest.approx(3600, abs=60)


def test_pauses_double_up_to_a_limit_and_differ_between_clients() -> None:
    broken = errors.NoAnswer("broken")
    for attempt, longest in ((0, 0.25), (1, 0.5), (3, 2.0), (6, 10.0), (1000, 10.0)):
        found = [retries.pause(broken, attempt, Random(seed)) for seed in range(50)]
        assert longest / 2 <= min(found) < max(found) <= longest
    asked = errors.Unavailable(503, "Overloaded", "wait", retry_after=7.0)
    found = [retries.pause(asked, 0, Random(seed)) for seed in range(50)]
    assert 7 <= min(found) < max(found) <= 7.7


def test_files_are_split_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BYTES", 10)
    files = [b"1234", b"12345", b"12", b"123456789012", b"1"]
    assert list(requests.split(files)) == [files[:2], files[2:3], files[3:4], files[4:]]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"version": 3}, "needs the name of its model"), ({"topk": 3}, "there is no option 'topk'")],
)
def test_invalid_options(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        requests.classify([b""], options, inline=False)


def test_the_client_imports_its_dependencies_only() -> None:
    """It is installed without the service; Pillow and tqdm are imported where they are used."""
    described = tomllib.loads((DISTRIBUTION / "pyproject.toml").read_text())["project"]
    assert [each.partition(">")[0] for each in described["dependencies"]] == ["httpx"]
    imported, at_import = set(), set()
    for path in (DISTRIBUTION / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
            imported |= packages
            at_import |= packages if node in tree.body else set()
    assert at_import == {"httpx", "resnet_serve_client"}
    assert imported == at_import | {"PIL", "numpy", "tqdm"}
