"""A headless Chromium, and what it must not do: log an error, or ask another host for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
"""Debian's package `chromium`; empty where there is none."""

CONTRAST = """element => {
    const luminance = (colour) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
"""A function for the page: the contrast of the text of an element and its background, as WCAG defines it."""


@dataclass
class Watched:
    """A page, with its messages and its requests."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Errors and warnings on the console, and exceptions that were not caught."""
    hosts: set[str] = field(default_factory=set)
    """Of all requests, as the DevTools protocol reports them, answered or not."""

    def drop(self, *files: Path | tuple[str, bytes]) -> None:
        """Drop files on the page, as a hand would."""
        contents = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
        transfer = self.page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
                return transfer;
            }""",
            [[name, list(content)] for name, content in contents],
        )
        for event in ("dragover", "drop"):
            self.page.dispatch_event("main", event, {"dataTransfer": transfer})


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """Debian's Chromium, with a camera that shows a test picture."""
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*camera, *options])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, ready: str = "#model option", **context: Any) -> Iterator[Watched]:
    """Open a page of the service in a fresh profile, and wait for an element: by default, until it offers a model."""
    with browser.new_context(**context) as profile:
        watched = Watched(profile.new_page())
        protocol = profile.new_cdp_session(watched.page)
        protocol.on("Network.requestWillBeSent", lambda event: _note(watched, event["request"]["url"]))
        protocol.send("Network.enable")
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.on(
            "console",
            lambda message: watched.errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        watched.page.goto(url)
        watched.page.wait_for_selector(ready, state="attached")
        yield watched


def _note(watched: Watched, url: str) -> None:
    target = urlsplit(url)
    if target.scheme not in ("blob", "data"):  # these never leave the page
        watched.hosts.add(target.netloc)
