"""How many workers there are, and how long a replacement waits."""

from __future__ import annotations

import logging

import pytest

from service.supervisor.watch import pause_before_start
from service.supervisor.worker_count import count_workers


@pytest.mark.parametrize(
    ("setting", "device", "cpus", "workers"),
    [
        (None, "cpu", 64, 1),
        (None, "simulated", 64, 1),
        (None, "gpu", 1, 1),
        (None, "gpu", 2, 1),
        (None, "gpu", 7, 3),
        (None, "gpu", 16, 8),
        (None, "gpu", 64, 8),
        (1, "gpu", 64, 1),
        (3, "cpu", 2, 3),
    ],
)
def test_number_of_workers(
    setting: int | None, device: str, cpus: int, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert count_workers(setting, device, cpus, "linux") == workers
    assert caplog.messages == []


def test_one_process_on_other_systems(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert count_workers(1, "cpu", 8, "darwin") == 1
        assert caplog.messages == []
        assert count_workers(4, "cpu", 8, "darwin") == 1
    (line,) = caplog.messages
    assert "workers is 4, but several processes need Linux" in line


def test_pause_grows_to_five_seconds() -> None:
    pauses = [pause_before_start(count) for count in range(1000)]
    assert pauses[:4] == [0.0, 0.0, 0.25, 0.5]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
