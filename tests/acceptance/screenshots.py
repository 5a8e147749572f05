"""Makes the screenshots in `docs/`: the page with photographs, a map over one, in light and dark, wide and narrow.

    python -m tests.acceptance.screenshots [REPOSITORY]

Needs Chromium (Debian: `apt install chromium fonts-inter`). REPOSITORY is what `tests.acceptance.demonstration` made;
without it that is made first, which takes some minutes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import copy
from threading import Event
from typing import Any

import httpx
from playwright.sync_api import Browser, expect

from tests.acceptance import demonstration
from tests.acceptance.demonstration import PHOTOGRAPHS, SUBJECTS
from tests.acceptance.server import serve
from tests.support.browser import chromium, visit

DOCS = Path(__file__).parents[2] / "docs"
SIZES = {"desktop": (1280, 900, 1), "phone": (390, 844, 2)}
"""Width and height in CSS pixels, and device pixels for one of them."""
_SAMPLES = 12
"""Points of the live view before the picture is taken."""


def shoot(browser: Browser, url: str, size: str, scheme: str) -> Path:
    """Drop the photographs, choose the cat, and show its heat map."""
    width, height, scale = SIZES[size]
    view: dict[str, Any] = {
        "viewport": {"width": width, "height": height},
        "color_scheme": scheme,
        "device_scale_factor": scale,
        "has_touch": size == "phone",
        "is_mobile": size == "phone",
    }
    with visit(browser, url, **view) as visitor:
        page = visitor.page
        visitor.drop(*(PHOTOGRAPHS / f"{name}.jpg" for name in SUBJECTS))
        expect(page.locator("#progress-text")).to_have_text("all done")
        page.wait_for_function(
            "count => document.querySelector('#throughput-line polyline')?.points.length >= count", arg=_SAMPLES
        )
        page.get_by_role("button", name="cat.jpg").click()
        page.locator(".bar").first.click()
        expect(page.locator("#map")).to_be_visible()
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        path = DOCS / f"page-{size}-{scheme}.png"
        page.screenshot(path=path, full_page=size == "desktop", animations="disabled")
        return path


@contextmanager
def some_load(url: str) -> Iterator[None]:
    """Other people's requests, so that the live view has something to show."""
    image = (PHOTOGRAPHS / "coffee.jpg").read_bytes()
    stop = Event()

    def send(pause: float) -> None:
        while not stop.wait(pause):
            httpx.post(f"{url}/v1/classify", content=image)

    with ThreadPoolExecutor() as pool:
        for pause in (0.05, 0.13, 0.4):
            pool.submit(send, pause)
        try:
            yield
        finally:
            stop.set()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(sys.argv[1]) if len(sys.argv) > 1 else demonstration.make(Path(folder) / "demonstration")
        examples = Path(folder) / "examples"
        examples.mkdir()
        for name in SUBJECTS:
            copy(PHOTOGRAPHS / f"{name}.jpg", examples)
        options = ("--repository", str(repository), "--examples", str(examples))
        with serve(*options) as server, some_load(server.url), chromium("--hide-scrollbars") as browser:
            for size in SIZES:
                for scheme in ("light", "dark"):
                    print(shoot(browser, server.url, size, scheme))


if __name__ == "__main__":
    main()
