"""The page of studies in a real browser: what it computes, and how it is operated."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from models.studies.live import COMPUTE
from tests.support.browser import CHROMIUM, CONTRAST, Watched, chromium, visit
from tests.support.process import running
from tests.support.studies_page import (
    VECTOR,
    address,
    compute,
    largest_difference,
    save,
    wait_until_computed,
    widget,
)
from tools.studies_page import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)"),
]

SMALL: dict[str, dict[str, Any]] = {
    "shattered-gradients": {
        "layers": 7, "width": 16, "init": "naive", "beta": 0.35, "normalised": True, "seeds": 2, "first": 9,
    },
    "signal-growth": {"blocks": 4, "width": 32, "init": "naive", "normalised": False, "seeds": 2, "first": 3},
    "order-of-operations": {"blocks": 3, "width": 24, "normalised": False, "seeds": 2, "first": 1},
    "finite-step": {
        "layers": 8, "width": 16, "beta": 0.5, "normalised": True, "longest": -3.5, "seeds": 2, "first": 2,
    },
}  # fmt: skip
DIFFERENCE = 1e-6
PAINTED = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean)"
NUMBERS = """async known => {
    const { RandomTensors, words } = await import("./page/studies/generator.js");
    const found = { words: [], normals: [] };
    for (const { counter, key } of known.words) found.words.push(words(...counter, key));
    for (const { seed, tensor, values } of known.normals) {
        const draws = new RandomTensors(seed);
        for (let place = 0; place < tensor; place++) draws.normal(3);
        found.normals.push([...draws.normal(values.length)]);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as server:
        yield f"{server.url}/studies"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def studies(browser: Browser, url: str, **context: Any) -> Iterator[Watched]:
    """The page; at the end it has logged no error and sent no request to another host."""
    with visit(browser, url, ".widget canvas", **context) as watched:
        yield watched
        assert watched.errors == []
        assert watched.hosts == {url.split("/")[2]}


def test_random_numbers_are_those_of_the_vector(browser: Browser, url: str) -> None:
    with studies(browser, url) as watched:
        found = watched.page.evaluate(NUMBERS, VECTOR)
    assert found["words"] == [known["words"] for known in VECTOR["words"]]
    for ours, known in zip(found["normals"], VECTOR["normals"], strict=True):
        assert ours == pytest.approx(known["values"], rel=1e-13)


def test_every_study_agrees_with_python_and_has_its_tables(browser: Browser, url: str) -> None:
    with studies(browser, url) as watched:
        page = watched.page
        for study in COMPUTE:
            numbers = compute(page, study, SMALL[study])
            assert numbers["settings"] == SMALL[study]
            assert largest_difference(study, numbers) <= DIFFERENCE
            section = widget(page, study)
            section.locator("summary").press("Enter")
            tables = section.locator("table")
            expect(tables).to_have_count(2)
            chart, curve = next((c, n) for c, curves in numbers["charts"].items() for n in curves if c != "gradient")
            shown = section.get_by_role("table").nth(list(numbers["charts"]).index(chart)).locator("tbody tr").last
            last = numbers["charts"][chart][curve]["y"][-1]
            text = shown.locator("td").first.inner_text().replace("\N{MINUS SIGN}", "-")
            assert float(text) == pytest.approx(last, rel=1e-2)
            for canvas in section.locator("canvas").all():
                assert canvas.evaluate(
                    "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean)"
                )
                description = canvas.get_attribute("aria-describedby")
                assert page.locator(f"#{description}").inner_text() == section.locator(".result").inner_text()


def test_keyboard_changes_settings_and_the_link_repeats_them(browser: Browser, url: str) -> None:
    study = "signal-growth"
    with studies(browser, url + address(study, SMALL[study])) as watched:
        page = watched.page
        wait_until_computed(page, study)
        slider, checkbox = page.locator(f"#{study}-blocks"), page.locator(f"#{study}-normalised")
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "width"
        checkbox.focus()
        page.keyboard.press("Space")
        expect(slider).to_have_value("5")
        expect(checkbox).to_be_checked()
        wait_until_computed(page, study)
        changed = {**SMALL[study], "blocks": 5, "normalised": True}
        assert save(page, study)["settings"] == changed
        assert page.evaluate("location.hash") == address(study, changed)
        link = widget(page, study).get_by_role("link", name="Link to these settings")
        assert link.get_attribute("href") == address(study, changed)
        page.evaluate("location.hash = '#signal-growth?blocks=500&colour=red'")
        expect(page.locator("#notice")).to_contain_text("blocks cannot be 500: 40 is used.")
        expect(page.locator("#notice")).to_contain_text("There is no setting colour.")


def test_a_change_cancels_the_computation_before(browser: Browser, url: str) -> None:
    study = "shattered-gradients"
    long = {**SMALL[study], "layers": 64, "width": 128, "seeds": 20}
    with studies(browser, url + address(study, long)) as watched:
        page = watched.page
        expect(widget(page, study).locator(".charts")).to_have_attribute("aria-busy", "true")
        numbers = compute(page, study, SMALL[study])
        assert numbers["settings"] == SMALL[study]
        assert largest_difference(study, numbers) <= DIFFERENCE


def test_a_computation_that_fails_is_reported(browser: Browser, url: str) -> None:
    study = "finite-step"
    with visit(browser, url, ".widget canvas") as watched:
        watched.page.route(f"**/{study}.js", lambda route: route.abort())
        watched.page.evaluate("fragment => { location.hash = fragment; }", address(study, SMALL[study]))
        expect(widget(watched.page, study).locator(".result")).to_contain_text("The computation failed")
        expect(widget(watched.page, study).locator(".charts")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_page_fits_and_its_text_is_readable(scheme: Any, width: int, browser: Browser, url: str) -> None:
    view = {"width": width, "height": 900}
    with studies(browser, url, viewport=view, color_scheme=scheme, reduced_motion="reduce") as watched:
        page = watched.page
        compute(page, "order-of-operations", SMALL["order-of-operations"])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in (".slides .claim", ".slides .figure", ".control label", ".keys li", ".result", ".differs"):
            assert page.locator(selector).last.evaluate(CONTRAST) >= 4.5, selector
        unnamed = page.locator("input, select").evaluate_all("all => all.filter(e => !e.labels.length).length")
        assert unnamed == 0


def test_exported_folder_works_from_a_static_file_server(browser: Browser, tmp_path: Path) -> None:
    files = export(tmp_path / "site")
    assert all(file.is_file() for file in files)
    handler = functools.partial(_QuietHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with studies(browser, f"http://127.0.0.1:{server.server_port}/") as watched:
                numbers = compute(watched.page, "finite-step", SMALL["finite-step"])
                assert largest_difference("finite-step", numbers) <= DIFFERENCE
                expect(watched.page.locator("nav")).to_be_hidden()
        finally:
            server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
