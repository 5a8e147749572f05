"""Blocks of the served network that are deleted on the page, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from export.build import build
from tests.support import tiny
from tests.support.browser import CHROMIUM, CONTRAST, chromium, visit
from tests.support.networks import make_checkpoint
from tests.support.process import ServerProcess, running
from tests.support.tiny import Photographs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)"),
]

NAME = "resnet20"
TEXTS = (
    "#lesion p.muted",
    "#lesion-answer",
    ".blocks-stage > span",
    ".block[aria-pressed=true]",
    "#lesion-bars .value",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A network with nine blocks, and one without the file for them."""
    folder = tmp_path_factory.mktemp("lesions")
    make_checkpoint(NAME).save(folder / "checkpoint.safetensors")
    repository = tiny.copy_repository(folder / "repository", ["float32"])
    build(folder / "checkpoint.safetensors", repository, NAME, lesions=True)
    with running("--repository", repository) as server:
        yield server


def answer(server: ServerProcess, data: bytes, *blocks: int) -> Any:
    query = {"deleted": ",".join(map(str, blocks))}
    response = httpx.post(f"{server.url}/v1/models/{NAME}/lesion", content=data, params=query)
    return response.raise_for_status().json()


def expect_classes(page: Page, found: Any) -> None:
    labels = page.locator("#lesion-bars .label")
    expect(labels).to_have_text([each["label"] for each in found["predictions"]])
    same = found["predictions"][0]["label"] == found["whole"][0]["label"]
    text = f"still {found['whole'][0]['label']}" if same else f"{found['predictions'][0]['label']} instead of"
    expect(page.locator("#lesion-answer")).to_contain_text(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_deleted_blocks_change_the_classes(
    scheme: str, width: int, server: ServerProcess, photographs: Photographs
) -> None:
    (first, one), (second, two) = photographs[:2]
    with (
        chromium() as browser,
        visit(browser, server.url, viewport={"width": width, "height": 900}, color_scheme=scheme) as visitor,
    ):
        page = visitor.page
        expect(page.locator("#lesion")).to_be_hidden()
        page.locator("#model").select_option(NAME)
        visitor.drop((first, one))
        blocks = page.get_by_role("group", name="Delete blocks of the network").locator("#blocks").get_by_role("button")
        expect(blocks).to_have_count(9)
        expect(page.locator("#lesion-bars")).to_be_hidden()
        # By keyboard, one and then another one.
        blocks.nth(1).focus()
        page.keyboard.press("Space")
        expect(page.get_by_role("button", name="Delete stage 1, block 2", pressed=True)).to_have_count(1)
        expect_classes(page, answer(server, one, 2))
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(blocks.nth(3)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#lesion-answer")).to_contain_text("Without 2 blocks")
        expect_classes(page, answer(server, one, 2, 4))
        for selector in TEXTS:
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Another image without the same blocks.
        visitor.drop((second, two))
        expect(page.locator("#caption")).to_contain_text(second)
        expect_classes(page, answer(server, two, 2, 4))
        page.get_by_role("button", name="Restore all blocks").click()
        expect(page.locator("#lesion-bars")).to_be_hidden()
        expect(page.locator("#blocks [aria-pressed=true]")).to_have_count(0)
        page.locator("#model").select_option("tiny")
        expect(page.locator("#headline")).to_contain_text("class")
        expect(page.locator("#lesion")).to_be_hidden()
        assert visitor.errors == []
        assert visitor.hosts == {server.url.removeprefix("http://")}
