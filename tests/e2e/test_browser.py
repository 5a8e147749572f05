"""The page in a real browser with a real server: with a mouse, a keyboard and a camera."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from service.core.settings import shipped_repository
from tests.support.api_keys import KEYS, OPERATOR, WEB, write_keys
from tests.support.browser import CHROMIUM, CONTRAST, Watched, chromium, visit
from tests.support.process import ServerProcess, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)"),
]

EXAMPLES = sorted((Path(__file__).parents[2] / "models" / "pretrained" / "examples").glob("*.png"))
BOOT = EXAMPLES[0]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, server: ServerProcess) -> Iterator[Watched]:
    """The page; at the end it has logged no error and sent no request to another host."""
    with visit(browser, server.url, viewport={"width": 1280, "height": 860}) as watched:
        yield watched
        assert watched.errors == []
        assert watched.hosts == {server.url.removeprefix("http://")}


def answer(server: ServerProcess, path: Path) -> list[dict[str, Any]]:
    """The response of the API for an image."""
    predictions: list[dict[str, Any]] = httpx.post(f"{server.url}/v1/classify", content=path.read_bytes()).json()[
        "results"
    ][0]["predictions"]
    return predictions


def map_opacity(watched: Watched) -> float:
    """The mean opacity of the map that is shown, 0 to 255, drawn by the browser."""
    opacity: float = watched.page.evaluate(
        """async () => {
            const map = document.querySelector("#map");
            await map.decode();
            const canvas = new OffscreenCanvas(map.naturalWidth, map.naturalHeight).getContext("2d");
            canvas.drawImage(map, 0, 0);
            const { data } = canvas.getImageData(0, 0, map.naturalWidth, map.naturalHeight);
            return data.reduce((sum, value, index) => sum + (index % 4 === 3 ? value : 0), 0) / (data.length / 4);
        }"""
    )
    return opacity


def test_model_card_is_shown_on_request(visitor: Watched, server: ServerProcess) -> None:
    page = visitor.page
    card = httpx.get(f"{server.url}/v1/models/fashion-mnist-resnet20/card").text
    expect(page.locator("#card-text")).to_be_hidden()
    page.get_by_text("Model card").click()
    expect(page.locator("#card-text")).to_have_text(card)


def test_dropped_image_shows_bars_and_maps(visitor: Watched, server: ServerProcess) -> None:
    page = visitor.page
    visitor.drop(BOOT)
    expected = answer(server, BOOT)
    expect(page.locator("#headline")).to_have_text("Ankle boot")
    bars = page.locator(".bar")
    expect(bars.locator(".label")).to_have_text([prediction["label"] for prediction in expected])
    widths = bars.evaluate_all(
        "bars => bars.map(bar => bar.querySelector('.fill').offsetWidth / bar.querySelector('.track').offsetWidth)"
    )
    assert widths == pytest.approx([prediction["probability"] for prediction in expected], abs=0.01)
    expect(page.locator("#map")).to_be_hidden()
    for number in (0, 1):
        bars.nth(number).hover()
        expect(page.locator("#map")).to_be_visible()
        expect(page.locator("#caption")).to_have_text(f"Pixels that support “{expected[number]['label']}”")
        assert 5 < map_opacity(visitor) < 250
    assert page.locator("#map").bounding_box() == page.locator("#image").bounding_box()
    page.locator("#headline").hover()
    expect(page.locator("#map")).to_be_hidden()
    stages = page.locator("#stage-list dt")
    expect(stages).to_have_text(["decode", "queue", "inference", "other", "total"])
    expect(page.locator("#maps-time")).to_have_text(re.compile(r"The heat maps took another [\d.]+ ms"))


def test_file_without_an_image_shows_its_error(visitor: Watched) -> None:
    visitor.drop(("notes.txt", b"milk, eggs"))
    expect(visitor.page.locator("#headline")).to_have_text("This image cannot be read")
    expect(visitor.page.locator("#lead")).to_contain_text("not an image in a known format (JPEG, PNG")
    expect(visitor.page.locator(".bar")).to_have_count(0)
    visitor.drop(BOOT)
    expect(visitor.page.locator("#headline")).to_have_text("Ankle boot")


def test_a_batch_shows_its_progress(visitor: Watched) -> None:
    page = visitor.page
    page.evaluate(
        """() => {
            window.seen = [];
            const bar = document.querySelector("#progress");
            const note = () => bar.hidden || window.seen.push([bar.value, bar.max]);
            new MutationObserver(note).observe(bar, { attributes: true });
        }"""
    )
    visitor.drop(*(EXAMPLES * 7)[:19], ("broken.png", BOOT.read_bytes()[:200]))
    expect(page.locator("#progress-text")).to_have_text("all done, 1 could not be read")
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("20 images done, 1 could not be read.")
    seen = page.evaluate("window.seen")
    assert {total for _, total in seen} == {20}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {done for done, _ in seen} >= set(range(1, 20))
    labels = {"ankle-boot.png": "Ankle boot", "pullover.png": "Pullover", "trouser.png": "Trouser"}
    expected = [labels[path.name] for path in (EXAMPLES * 7)[:19]] + ["unreadable"]
    expect(page.locator(".thumb-label")).to_have_text(expected)
    expect(page.locator("#counts li")).to_have_text(["Ankle boot 7", "Pullover 6", "Trouser 6"])
    page.locator(".thumb").nth(1).click()
    expect(page.locator("#headline")).to_have_text("Pullover")


def test_thumbnail_has_the_class_and_its_probability(visitor: Watched, server: ServerProcess) -> None:
    visitor.drop(*EXAMPLES)
    best = [answer(server, path)[0] for path in EXAMPLES]
    expect(visitor.page.locator(".thumb-label")).to_have_text([each["label"] for each in best])
    expect(visitor.page.locator(".thumb-value")).to_have_text([f"{each['probability']:.0%}" for each in best])


def test_batch_is_saved_in_the_format_of_resnet_classify(visitor: Watched, server: ServerProcess) -> None:
    awkward = 'a "quoted", name.png'
    visitor.drop(BOOT, (awkward, b"no image"))
    expect(visitor.page.locator("#progress-text")).to_have_text("all done, 1 could not be read")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Save as CSV").click()
    with download.value.path().open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["rank"]) for row in rows] == [(BOOT.name, str(rank)) for rank in range(1, 6)] + [
        (awkward, "0")
    ]
    for row, expected in zip(rows, answer(server, BOOT), strict=False):
        assert (row["label"], row["index"]) == (expected["label"], str(expected["index"]))
        assert float(row["probability"]) == pytest.approx(expected["probability"])
    assert "not an image" in rows[-1]["error"]


def test_shown_commands_classify_the_image(visitor: Watched, server: ServerProcess, tmp_path: Path) -> None:
    name = 'it\'s $HOME, "quoted" & `more`.png'
    shutil.copy(BOOT, tmp_path / name)
    visitor.drop(tmp_path / name)
    visitor.page.locator("#program summary").click()
    expected = answer(server, BOOT)
    for program, parse in (("curl", json.loads), ("python", ast.literal_eval)):
        text = visitor.page.locator(f"#{program}").inner_text()
        command = ["sh", "-c", text] if program == "curl" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answered = parse(done.stdout)
        predictions = answered["results"][0]["predictions"] if program == "curl" else answered
        assert [each["label"] for each in predictions] == [each["label"] for each in expected]


def test_facts_of_the_model(visitor: Watched, server: ServerProcess) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["models"]
    expect(visitor.page.locator("#facts dd")).to_have_text(
        [
            model["architecture"],
            model["version"],
            "28 \u00d7 28, grey",
            str(len(model["labels"])),
            f"{model['accuracy']['top1']:.2%} of {model['accuracy']['images']:,} test images",
            model["precision"],
            model["executor"],
            "yes",
        ]
    )


def test_time_is_that_of_a_request_without_heat_maps(visitor: Watched) -> None:
    page = visitor.page
    with (
        page.expect_response(lambda response: response.url.endswith("errors=inline")) as classified,
        page.expect_response(lambda response: response.url.endswith("cam=overlay")) as mapped,
    ):
        visitor.drop(BOOT)
    timing, extras = (response.value.json()["timing"] for response in (classified, mapped))
    assert "extras_ms" not in timing
    expect(page.locator("#maps-time")).to_be_visible()
    for selector, expected in ((".stage-total dd", timing["total_ms"]), ("#maps-time", extras["extras_ms"])):
        (number,) = re.findall(r"([\d.]+) ms", page.locator(selector).inner_text())
        assert float(number) == pytest.approx(expected, rel=0.01)


def test_key_form_sends_one_request_per_key_and_keeps_it_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    with (
        running("--api-keys", tmp_path / "keys.toml") as server,
        visit(browser, server.url, "#key-form:not([hidden])") as visitor,
    ):
        page = visitor.page
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url) if "/v1/" in request.url else None)
        visitor.drop(BOOT)
        expect(page.locator("#key-reason")).to_have_text("This service needs an API key.")
        for key, reason in (("wrong", "Refused: No such API key."), (OPERATOR, re.compile("lacks the scope"))):
            page.locator("#key").fill(key)
            page.get_by_role("button", name="Use this key").click()
            expect(page.locator("#key-reason")).to_have_text(reason)
        assert len(requested) == 2  # one request for each key, and none while the page waits for one
        page.locator("#key").fill(WEB)
        page.keyboard.press("Enter")
        expect(page.locator("#headline")).to_have_text("Ankle boot")
        expect(page.locator("#key-form")).to_be_hidden()
        expect(page.locator("#curl")).to_contain_text("Bearer YOUR_KEY")
        assert page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]
        page.reload()
        expect(page.locator("#model option")).to_have_count(1)
        page.get_by_role("button", name="Forget the key").click()
        expect(page.locator("#key-form")).to_be_visible()


def test_service_that_is_gone_is_reported_and_images_wait_for_it(browser: Browser) -> None:
    with running() as server, visit(browser, server.url) as visitor:
        port = server.url.rpartition(":")[2]
        page = visitor.page
        server.end()
        visitor.drop(*EXAMPLES)
        expect(page.locator("#headline")).to_have_text("The service is gone")
        expect(page.locator("#notice")).to_contain_text("The service cannot be reached")
        again = ServerProcess("--port", port)
        try:
            expect(page.locator("#headline")).to_have_text("Ankle boot", timeout=30_000)
            expect(page.locator("#progress-text")).to_have_text("all done")
            expect(page.locator("#notice")).to_be_hidden()
        finally:
            again.kill()


_FOCUSED = """(({ ariaLabel, textContent, id }) => ariaLabel || textContent || id)(document.activeElement)"""


def test_keyboard_navigation(visitor: Watched) -> None:
    """Tab, Enter and arrows: an example, its maps, a second example, back and forth, and clear."""
    page = visitor.page

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if re.search(name, page.evaluate(_FOCUSED)):
                return
        raise AssertionError(f"the Tab key does not reach {name}")

    # From the start: Playwright needs time to intercept the file chooser of the browser.
    page.on("filechooser", lambda chooser: chooser.set_files([BOOT]))
    page.wait_for_selector(".example")
    tab_to("^ankle boot$")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("Ankle boot")
    expect(page.locator("#status")).to_have_text(re.compile("ankle-boot.png: Ankle boot, 99%"))
    page.locator("#model").focus()
    tab_to("^Ankle boot")
    expect(page.locator("#caption")).to_have_text("Pixels that support “Ankle boot”")
    page.keyboard.press("Tab")
    expect(page.locator("#map")).to_be_visible()
    expect(page.locator("#caption")).not_to_have_text("Pixels that support “Ankle boot”")
    page.keyboard.press("Enter")
    expect(page.locator(".bar[aria-pressed=true]")).to_have_count(1)
    tab_to("^trouser$")
    expect(page.locator("#map")).to_be_visible()  # it is pinned
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("Trouser")
    tab_to("^ankle-boot.png: Ankle boot")
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("Ankle boot")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#headline")).to_have_text("Trouser")
    page.locator("#model").focus()
    tab_to("^Clear$")
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("What is in the picture?")
    expect(page.locator("#files")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text("Ankle boot")


def test_paste(visitor: Watched) -> None:
    visitor.page.evaluate(
        """bytes => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        list(BOOT.read_bytes()),
    )
    expect(visitor.page.locator("#headline")).to_have_text("Ankle boot")


def test_the_camera(visitor: Watched) -> None:
    page = visitor.page
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()
    expect(page.locator(".bar")).to_have_count(5)
    expect(page.locator("#caption")).to_have_text(re.compile(r"photo\.jpg · 640 . 480 JPEG"))
    assert page.evaluate("document.querySelector('#video').srcObject") is None


def test_the_live_view(visitor: Watched) -> None:
    visitor.drop(*EXAMPLES)
    expect(visitor.page.locator("#live")).to_be_visible()
    expect(visitor.page.locator("#latency")).to_have_text(re.compile(r"^\d"), timeout=20_000)
    assert float(visitor.page.locator("#throughput").inner_text()) > 0
    expect(visitor.page.locator("#queue-line polyline")).to_have_count(1)


@pytest.mark.parametrize("options", [(), ("--memory-limit", "1GB")], ids=["all in memory", "loaded on demand"])
def test_images_are_classified_again_with_another_model(
    browser: Browser, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """All images are classified again; a model without maps shows none."""
    shipped = shipped_repository() / "fashion-mnist-resnet20"
    shutil.copytree(shipped, tmp_path / shipped.name)
    older = shutil.copytree(shipped / "1", tmp_path / "older" / "7")
    content = json.loads((older / "manifest.json").read_text())
    content |= {"name": "older", "version": 7, "classifier_sha256": None}
    (older / "manifest.json").write_text(json.dumps(content))
    with running("--repository", str(tmp_path), *options) as server, visit(browser, server.url) as visitor:
        page = visitor.page
        expect(page.locator("#model option")).to_have_text([shipped.name, "older"])
        visitor.drop(BOOT)
        expect(page.locator("#hint")).to_be_visible()
        with page.expect_request(re.compile("/v1/models/older/versions/7/classify")):
            page.locator("#model").select_option("older")
        expect(page.locator("#version option")).to_have_text(["7"])
        expect(page.locator(".bar")).to_have_count(5)
        expect(page.locator("#hint")).to_be_hidden()
        page.locator(".bar").first.hover()
        expect(page.locator("#map")).to_be_hidden()
        assert visitor.errors == []


def test_description_of_the_api_works_without_another_host(browser: Browser, server: ServerProcess) -> None:
    with visit(browser, f"{server.url}/docs", ".opblock", viewport={"width": 1280, "height": 860}) as visitor:
        page = visitor.page
        page.locator("[id$='-readyz_readyz_get']").get_by_role("button").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table .response-col_status").last).to_have_text("200")
        assert visitor.errors == []
        assert visitor.hosts == {server.url.removeprefix("http://")}


def test_markup_in_a_file_name_is_text(visitor: Watched) -> None:
    visitor.drop(("<img src=x onerror=alert(1)>.png", BOOT.read_bytes()))
    expect(visitor.page.locator("#caption")).to_contain_text("<img src=x onerror=alert(1)>.png · 28")
    assert visitor.page.locator("#caption img").count() == 0


TEXTS = (
    *("#headline", ".lead", ".bar .value", ".bar .label", ".hint", ".button", ".thumb.failed span"),
    *(".thumb-value", "#counts li", "#facts dt", "#maps-time", "#program summary", "#save"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_page_fits_narrow_screens_with_enough_contrast(
    width: int, scheme: str, browser: Browser, server: ServerProcess
) -> None:
    """There is no horizontal overflow; text has the contrast of WCAG AA, 4.5 to 1."""
    with visit(browser, server.url, viewport={"width": width, "height": 800}, color_scheme=scheme) as visitor:
        visitor.drop(*EXAMPLES, ("a file with a very long name that goes on and on and on.png", b"no image"))
        expect(visitor.page.locator("#progress-text")).to_contain_text("all done")
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in TEXTS:
            contrast = visitor.page.locator(selector).last.evaluate(CONTRAST)
            assert contrast >= 4.5, selector
