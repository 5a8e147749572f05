"""Line 6: the page shows a rollout in progress, light and dark, wide and narrow, in a browser."""

from __future__ import annotations

from tests.acceptance.suites import pytest_counts

TEST = "tests/e2e/test_rollout_page.py"


def check() -> tuple[bool, str]:
    """Run the test of the page; without a browser nothing is shown."""
    passed, counts = pytest_counts(TEST)
    return passed and "skipped" not in counts, f"{TEST}: {counts}"
