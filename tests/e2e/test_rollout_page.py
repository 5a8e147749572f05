"""The page of a rollout in progress, in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from models.artifact.traffic import Rules, TrafficPolicy, change_traffic
from service.core.settings import shipped_repository
from tests.support.browser import CHROMIUM, CONTRAST, chromium, visit
from tests.support.process import ServerProcess, running
from tests.support.tiny import renumber
from tests.support.worker_processes import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)"),
]

NAME = "fashion-mnist-resnet20"
EXAMPLES = sorted((Path(__file__).parents[2] / "models" / "pretrained" / "examples").glob("*.png"))
SWAPPED = {"Trouser": "Pullover", "Pullover": "Trouser"}
KEPT = 3
TEXTS = (".shares .value", ".shares small", ".shadow dt", ".shadow dd", ".shadow td", ".difference small")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Version 1 answers 3 of 4 requests, version 2 the others; version 2, with two labels swapped, is the shadow."""
    folder = tmp_path_factory.mktemp("rollout")
    for number in (1, 2):
        version = folder / "repository" / NAME / str(number)
        renumber(Path(shutil.copytree(shipped_repository() / NAME / "1", version)), number, NAME)
    path = version / "manifest.json"
    described = json.loads(path.read_text())
    labels = [SWAPPED.get(label, label) for label in described["labels"]]
    path.write_text(json.dumps({**described, "labels": labels}))
    rules = Rules(candidate=2, min_images=1000, min_agreement=0.0, dry_run=True)
    policy = TrafficPolicy(weights={1: 3, 2: 1}, shadow={2: 1.0}, keep_images=KEPT, rules=rules)
    change_traffic(folder / "traffic.toml", NAME, policy)
    options = (
        "--repository",
        folder / "repository",
        "--traffic",
        folder / "traffic.toml",
        "--examples",
        EXAMPLES[0].parent,
    )
    with running(*options) as server:
        for example in EXAMPLES:
            headers = {"x-model-version": "1"}
            assert httpx.post(f"{server.url}/v1/classify", content=example.read_bytes(), headers=headers).is_success
        wait_until(lambda: shadow_of(server)["agreement"]["images"] == len(EXAMPLES), "the shadow computes all images")
        yield server


def shadow_of(server: ServerProcess) -> Any:
    return httpx.get(f"{server.url}/v1/models/{NAME}/rollout").json()["shadows"][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_shows_a_rollout(scheme: str, width: int, server: ServerProcess) -> None:
    found = shadow_of(server)["agreement"]
    differ = [each["label"] for each in found["classes"] if each["agreed"] < each["images"]]
    assert set(differ) == set(SWAPPED)
    with (
        chromium() as browser,
        visit(
            browser, server.url, "#shadows dl", viewport={"width": width, "height": 900}, color_scheme=scheme
        ) as visitor,
    ):
        page = visitor.page
        rollout = page.locator("#rollout")
        expect(rollout.locator(".shares li")).to_have_count(2)
        expect(rollout.locator(".shares li").nth(0)).to_contain_text("75.0% of the requests")
        expect(rollout.locator(".shares li").nth(1)).to_contain_text("25.0% of the requests")
        same = f"{100 * found['agreement']['value']:.1f}% of {found['images']} images"
        expect(rollout.locator(".shadow")).to_contain_text(same)
        expect(rollout.locator(".shadow")).to_contain_text(f"{1000 - found['images']} left, only in the log")
        expect(rollout.locator("tbody tr")).to_have_text([f"{label}10.0%" for label in sorted(differ)])
        images = rollout.locator("#differing-images li")
        expect(images).to_have_count(min(KEPT, len(differ)))
        loaded = images.locator("img").evaluate_all("images => images.map((image) => image.naturalWidth)")
        assert set(loaded) == {28}
        for text in ("Trouser", "shadow: Pullover"):
            expect(rollout.locator("#differing-images")).to_contain_text(text)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in (
            ".shares .value",
            ".shares small",
            ".shadow dt",
            ".shadow dd",
            ".shadow td",
            ".difference small",
        ):
            assert page.locator(selector).last.evaluate(CONTRAST) >= 4.5, selector
        assert visitor.errors == []
        assert visitor.hosts == {server.url.removeprefix("http://")}


def test_page_without_a_policy_shows_no_rollout() -> None:
    with running() as server, chromium() as browser, visit(browser, server.url) as visitor:
        visitor.page.wait_for_load_state("networkidle")
        expect(visitor.page.locator("#rollout")).to_be_hidden()
