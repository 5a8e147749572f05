"""The page of studies in a browser: its controls, its numbers, and their difference from those of Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Locator, Page, expect

from models.studies.live import COMPUTE

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "philox2x32.json").read_text(encoding="utf-8")
)
"""Random numbers that Python and JavaScript must give."""

_TIMEOUT = 60_000.0
"""For one computation, in ms."""


def widget(page: Page, study: str) -> Locator:
    return page.locator(f"section#{study}")


def wait_until_computed(page: Page, study: str) -> None:
    charts = widget(page, study).locator(".charts")
    expect(charts).to_have_attribute("aria-busy", "false", timeout=_TIMEOUT)
    expect(widget(page, study).locator(".result")).not_to_be_empty()


def address(study: str, settings: dict[str, Any]) -> str:
    """The fragment that sets these settings."""
    texts = {True: "on", False: "off"}
    values = [f"{name}={texts[value] if isinstance(value, bool) else value}" for name, value in settings.items()]
    return f"#{study}?{'&'.join(values)}"


def compute(page: Page, study: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Open the address of these settings, wait, and return the numbers that the page saves."""
    page.evaluate("fragment => { location.hash = fragment; }", address(study, settings))
    expect(page.locator("#notice")).to_be_hidden()
    wait_until_computed(page, study)
    return save(page, study)


def save(page: Page, study: str) -> dict[str, Any]:
    """The numbers, by the button that saves them."""
    with page.expect_download() as download:
        widget(page, study).get_by_role("button", name="Save the numbers").click()
    numbers: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    return numbers


def largest_difference(study: str, numbers: dict[str, Any]) -> float:
    """From Python's curves for the same settings, relative to the largest value of each curve.

    Raises:
        AssertionError: the curves have other names or lengths.
    """
    expected = COMPUTE[study](**numbers["settings"])
    found = numbers["charts"]
    assert {chart: set(curves) for chart, curves in found.items()} == {
        chart: set(curves) for chart, curves in expected.items()
    }
    largest = 0.0
    for chart, curves in expected.items():
        for name, curve in curves.items():
            assert set(found[chart][name]) == set(curve), f"{chart}, {name}"
            for key, values in curve.items():
                ours = np.asarray(found[chart][name][key], np.float64)
                assert ours.shape == values.shape, f"{chart}, {name}, {key}"
                difference = np.abs(ours - values).max(initial=0.0) / (np.abs(values).max(initial=0.0) or 1.0)
                # A comparison with NaN is false, so it must not pass as small.
                largest = max(largest, float(np.nan_to_num(difference, nan=np.inf)))
    return largest
