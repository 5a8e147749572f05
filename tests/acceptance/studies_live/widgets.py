"""Line 1: every study computes in the browser at once, with the numbers of Python, by mouse and by keyboard."""

from __future__ import annotations

import os
import random
import statistics
from typing import Any

from playwright.sync_api import Browser, Locator, Page

from models.studies.live import COMPUTE
from tests.acceptance.server import serve
from tests.support.browser import chromium, visit
from tests.support.studies_page import compute, largest_difference, wait_until_computed, widget

FIRST_POINTS, WHOLE_CURVE = 300.0, 3000.0
"""Limits in ms, from the key that moves a slider to the painted chart."""
RUNS, SETTINGS = 5, 3
DIFFERENCE = 1e-6
SEED = int(os.environ.get("STUDIES_LIVE_SEED", "31"))

MEASURE = """section => {
    const charts = section.querySelector(".charts");
    section.measured = new Promise((resolve) => {
        let start = null, first = null;
        const painted = (use) => requestAnimationFrame(() => requestAnimationFrame(use));
        section.addEventListener("keydown", (event) => (start = event.timeStamp), { once: true, capture: true });
        const observer = new MutationObserver(() => {
            if (start === null || section.dataset.points === "0") return;
            if (first === null) painted(() => (first ??= performance.now() - start));
            if (charts.getAttribute("aria-busy") === "true") return;
            observer.disconnect();
            painted(() => resolve([first ?? performance.now() - start, performance.now() - start]));
        });
        observer.observe(section, { subtree: true, attributes: true, attributeFilter: ["data-points", "aria-busy"] });
    });
}"""


def check() -> tuple[bool, str]:
    """Time, compare and operate each study in a page of its own."""
    generator = random.Random(SEED)
    holds, figures = True, []
    with serve() as server, chromium() as browser:
        for study in COMPUTE:
            good, figure = check_study(browser, f"{server.url}/studies", study, generator)
            print(f"  {study}: {figure}", flush=True)
            holds &= good
            figures.append(f"{study} {figure}")
    return holds, f"seed {SEED}; {'; '.join(figures)}"


def check_study(browser: Browser, url: str, study: str, generator: random.Random) -> tuple[bool, str]:
    """Whether a study keeps all limits, and its figures."""
    with visit(browser, f"{url}#{study}", ".widget canvas", viewport={"width": 1280, "height": 900}) as watched:
        page = watched.page
        wait_until_computed(page, study)
        unreached = controls_out_of_reach(page, study)
        # In pairs back and forth, so that the size stays at its default.
        times = [time_change(page, study, "ArrowLeft" if run % 2 == 0 else "ArrowRight") for run in range(RUNS)]
        first, whole = (statistics.median(column) for column in zip(*times, strict=True))
        differences = []
        for _ in range(SETTINGS):
            settings = draw_settings(page, study, generator)
            differences.append(largest_difference(study, compute(page, study, settings)))
            print(f"  {study} {settings}: {differences[-1]:.1e}", flush=True)
        foreign = watched.hosts - {url.split("/")[2]}
        holds = first <= FIRST_POINTS and whole <= WHOLE_CURVE and max(differences) <= DIFFERENCE
        figure = f"first points {first:.0f} ms, whole curve {whole:.0f} ms, difference at most {max(differences):.1e}"
        for name, found in (("not by keyboard", unreached), ("errors", watched.errors), ("other hosts", foreign)):
            if found:
                holds, figure = False, f"{figure}, {name}: {found}"
        return holds, figure


def time_change(page: Page, study: str, key: str) -> tuple[float, float]:
    """Milliseconds from a key on the first slider to the first points, and to the whole curve, both painted."""
    section = widget(page, study)
    section.evaluate(MEASURE)
    section.locator("input[type=range]").first.press(key)
    first, whole = section.evaluate("section => section.measured")
    wait_until_computed(page, study)
    return float(first), float(whole)


def controls_out_of_reach(page: Page, study: str) -> list[str]:
    """Controls that the Tab key does not reach in order, or that no key changes."""
    section = widget(page, study)
    found: list[str] = []
    controls = section.locator("form input, form select").all()
    section.locator("h2").focus()
    for control in controls:
        page.keyboard.press("Tab")
        name = str(control.get_attribute("name"))
        if not control.evaluate("control => control === document.activeElement"):
            found.append(f"Tab does not reach {name}")
            control.focus()
        before = _state(control)
        page.keyboard.press(_key(control))
        if _state(control) == before:
            found.append(f"no key changes {name}")
    for selector in (".permalink", ".save", ".reset", "summary"):
        page.keyboard.press("Tab")
        if not section.locator(selector).evaluate("element => element === document.activeElement"):
            found.append(f"Tab does not reach {selector}")
    page.keyboard.press("Enter")
    if section.locator("details").get_attribute("open") is None:
        found.append("Enter does not open the tables")
    section.locator(".reset").press("Enter")
    wait_until_computed(page, study)
    if section.locator("table tbody tr").count() == 0:
        found.append("the tables are empty")
    return found


def draw_settings(page: Page, study: str, generator: random.Random) -> dict[str, Any]:
    """A value of each control, drawn from all that it offers."""
    settings: dict[str, Any] = {}
    for control in widget(page, study).locator("form input, form select").all():
        name = str(control.get_attribute("name"))
        kind = control.evaluate("control => control.type")
        if kind == "checkbox":
            settings[name] = generator.random() < 0.5
        elif kind == "range":
            low, high, step = control.evaluate("({ min, max, step }) => [min, max, step].map(Number)")
            value = round(low + step * generator.randrange(round((high - low) / step) + 1), 6)
            settings[name] = int(value) if value == int(value) else value
        else:
            settings[name] = generator.choice(control.evaluate("control => [...control.options].map((o) => o.value)"))
    return settings


def _state(control: Locator) -> Any:
    return control.evaluate("control => [control.value, control.checked]")


def _key(control: Locator) -> str:
    """A key that changes the control whatever its value: to an end of its range that it does not have."""
    kind = control.evaluate("control => control.type")
    if kind == "checkbox":
        return "Space"
    if kind == "range":
        return "Home" if control.evaluate("({ value, min }) => value !== min") else "End"
    return "ArrowDown"
