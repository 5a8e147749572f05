"""The web page in a browser: keys, a service that is gone, batches, and what it says of the model and the image."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import httpx
from playwright.sync_api import expect as eventually

from service.core.settings import shipped_repository
from tests.acceptance.faults.case import check, expect
from tests.acceptance.faults.served import ServedProcess, serve
from tests.support.api_keys import KEYS, WEB, write_keys
from tests.support.browser import chromium, visit

EXAMPLES = sorted(shipped_repository().with_name("examples").glob("*.png"))
PHONE = {"width": 390, "height": 844}
WATCHED_MS = 5000
"""Time in which a page that waits for a key must send nothing more."""


@check(26, "the page of a service with API keys")
def page_with_keys(folder: Path) -> str:
    write_keys(folder / "keys.toml", KEYS)
    with serve("--api-keys", str(folder / "keys.toml")) as service, chromium() as browser:
        with visit(browser, service.url, "#key-form:not([hidden])") as visitor:
            page = visitor.page
            refused: list[str] = []
            page.on("response", lambda response: refused.append(response.url) if response.status == 401 else None)
            page.wait_for_timeout(WATCHED_MS)
            expect(not refused, f"{len(refused)} refused requests in {WATCHED_MS / 1000:.0f} s")
            visitor.drop(*EXAMPLES)
            page.locator("#key").fill("wrong")
            page.keyboard.press("Enter")
            eventually(page.locator("#key-reason")).to_contain_text("No such API key")
            page.locator("#key").fill(WEB)
            page.keyboard.press("Enter")
            eventually(page.locator("#headline")).to_have_text("Ankle boot")
            kept = page.evaluate("[localStorage.length, document.cookie]")
            expect(kept == [0, ""], f"the key is kept beyond the session: {kept}")
            expect(len(refused) == 1, f"{len(refused)} refused requests")
        with visit(browser, service.url, "#key-form:not([hidden])"):
            pass  # another session has to give the key again
    return "one refused request per wrong key, none while it waits"


@check(26, "a service that is gone, and comes back")
def service_gone(folder: Path) -> str:
    with serve() as service, chromium() as browser, visit(browser, service.url) as visitor:
        service.terminate()
        visitor.drop(*EXAMPLES)
        eventually(visitor.page.locator("#headline")).to_have_text("The service is gone")
        again = ServedProcess(("--port", str(service.port)), folder, {})
        try:
            eventually(visitor.page.locator("#headline")).to_have_text("Ankle boot", timeout=30_000)
            eventually(visitor.page.locator("#progress-text")).to_have_text("all done")
        finally:
            again.terminate()
    return "said as such, and the images are sent when it is back"


@check(26, "a batch: labels on a phone, counts, CSV")
def batch(folder: Path) -> str:
    with serve() as service, chromium() as browser, visit(browser, service.url, viewport=PHONE) as visitor:
        page = visitor.page
        visitor.drop(*EXAMPLES * 4, ("notes.txt", b"no image"))
        eventually(page.locator("#progress-text")).to_have_text("all done, 1 could not be read")
        cut = page.locator(".thumb-label").evaluate_all(
            """labels => labels.filter((each) =>
                each.scrollWidth > each.clientWidth || each.scrollHeight > each.clientHeight
            ).map((each) => each.textContent)"""
        )
        expect(cut == [], f"labels are cut: {cut}")
        values = page.locator(".thumb-value").all_inner_texts()
        expect(all(re.fullmatch(r"\d+%", value) for value in values[:-1]), f"confidences {values}")
        counts = page.locator("#counts li").all_inner_texts()
        expect(counts == ["Ankle boot 4", "Pullover 4", "Trouser 4"], f"counts {counts}")
        with page.expect_download() as download:
            page.locator("#save").click()
        with download.value.path().open(newline="") as file:
            rows = list(csv.DictReader(file))
        expect(len(rows) == 12 * 5 + 1, f"{len(rows)} rows")
        answered = httpx.post(f"{service.url}/v1/classify", content=EXAMPLES[0].read_bytes()).json()["results"][0]
        expect(rows[0]["label"] == answered["predictions"][0]["label"], f"first row {rows[0]}")
    return f"{len(rows)} rows, counts {', '.join(counts)}"


@check(26, "facts of the model, lines for a program, times without heat maps")
def facts_and_lines(folder: Path) -> str:
    name = "it's mine.png"
    (folder / name).write_bytes(EXAMPLES[0].read_bytes())
    with serve() as service, chromium() as browser, visit(browser, service.url) as visitor:
        page = visitor.page
        with page.expect_response(lambda response: response.url.endswith("errors=inline")) as classified:
            visitor.drop(folder / name)
        facts = dict(
            zip(page.locator("#facts dt").all_inner_texts(), page.locator("#facts dd").all_inner_texts(), strict=True)
        )
        for fact, pattern in (
            ("Input", "28 . 28"),
            ("Precision", "float32"),
            ("Accuracy", r"94\.\d+%"),
            ("Version", "1"),
        ):
            expect(re.search(pattern, facts.get(fact, "")), f"{fact}: {facts.get(fact)!r}")
        page.locator("#program summary").click()
        line = page.locator("#curl").inner_text()
        done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
        expect(done.returncode == 0, f"{line}: {done.stderr}")
        label = json.loads(done.stdout)["results"][0]["predictions"][0]["label"]
        expect(label == "Ankle boot", f"curl answers {label}")
        expect("requests.post(" in page.locator("#python").inner_text(), "no lines of Python")
        timing = classified.value.json()["timing"]
        expect("extras_ms" not in timing, "the request that is timed makes heat maps")
        (total,) = re.findall(r"[\d.]+", page.locator(".stage-total dd").inner_text())
        expect(abs(float(total) - timing["total_ms"]) <= 0.01 * timing["total_ms"], f"{total} of {timing}")
        eventually(page.locator("#maps-time")).to_contain_text("The heat maps took another")
        page.locator(".bar").first.hover()
        eventually(page.locator("#map")).to_be_visible()
    return f"{facts['Accuracy']}; {total} ms without heat maps"
