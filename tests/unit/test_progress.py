"""Progress of long work without a terminal."""

from __future__ import annotations

import pytest

from models.progress import ProgressLines, duration, progress_bar
from tests.support.clock import Clock


def test_line_now_and_then_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """50 images per second, of a run that was resumed at 1,000 images."""
    clock = Clock()
    progress = ProgressLines("training", 10_000, clock=clock)
    progress.update(1000)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(1000 + 50 * step, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 1,500 of 10,000 images (15%), loss 0.5000, 50 images/s, about 3 min left"
    assert [int(line.split()[1].replace(",", "")) for line in lines] == list(range(1500, 6001, 500))


def test_total_may_become_known_later(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = ProgressLines("classifying", None, clock=clock)
    progress.update(0)
    for _ in range(2):
        clock.now += 10.0
        progress.update(int(50 * (clock.now - 100.0)))
        progress.set_total(10_000)
    assert capsys.readouterr().err.splitlines() == [
        "classifying: 500 images, 50 images/s, time left unknown",
        "classifying: 1,000 of 10,000 images (10%), 50 images/s, about 3 min left",
    ]


def test_log_of_days_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = ProgressLines("training", 10_000_000, clock=clock)
    for step in range(24 * 360):
        clock.now += 10.0
        progress.update(step)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 200


def test_output_that_is_no_terminal_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working", total=3) as progress:
        assert isinstance(progress, ProgressLines)
        progress.update(3)
        progress.note("a [note]")
    assert capsys.readouterr().err == "a [note]\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99.0, "99 s"), (600.0, "10 min"), (7200.0, "2.0 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
