"""The tests of the HTTP interface, with both sides of the service in one, and apart."""

from __future__ import annotations

from tests.acceptance.faults.case import expect
from tests.acceptance.suites import pytest_counts
from tests.support.split import VARIABLE

FILES = (
    "access_log",
    "activation_maps",
    "api",
    "api_keys",
    "classify",
    "overload",
    "single_image",
    "stalled_batches",
    "v2",
    "web_ui",
    "wrapping",
)
"""Tests that use `tests.support.service.serve`, in tests/integration."""


def run_both() -> str:
    """Run the tests in both modes."""
    files = [f"tests/integration/test_{name}.py" for name in FILES]
    outcomes = {"together": pytest_counts(*files), "apart": pytest_counts(*files, **{VARIABLE: "1"})}
    figures = ", ".join(f"{name} {summary}" for name, (_, summary) in outcomes.items())
    expect(all(passed for passed, _ in outcomes.values()), f"tests of the API, both sides {figures}")
    return f"tests of the API, both sides {figures}"
