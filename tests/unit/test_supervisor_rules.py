"""How many workers there are, how long a replacement waits, and when a process is killed."""

from __future__ import annotations

import logging

import pytest

from service.supervisor.watch import Part, WatchedProcess, pause_before_start
from service.supervisor.worker_count import count_workers
from service.telemetry.sheet import Sheet


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


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[WatchedProcess]:
    """The processes that were killed."""
    processes: list[WatchedProcess] = []
    monkeypatch.setattr(WatchedProcess, "kill", lambda process: processes.append(process))
    return processes


@pytest.mark.parametrize(("loading", "seconds"), [(False, 10), (True, 300)])
def test_process_without_heartbeats_is_killed(loading: bool, seconds: int, killed: list[WatchedProcess]) -> None:
    sheet = Sheet("worker-1", 1, 1)
    process = WatchedProcess(Part("worker 1", lambda: None, sheet))
    process.pid = 1
    sheet.loading = loading
    for _ in range(2 * seconds):
        sheet.beat()
        process.look(0.1)
    for _ in range(10 * seconds - 5):
        process.look(0.1)
    assert killed == []
    for _ in range(10):
        process.look(0.1)
    assert killed[:1] == [process]


def test_pause_of_the_whole_service_kills_nothing(killed: list[WatchedProcess]) -> None:
    """After a pause, the supervisor may run before its processes do: it sees old heartbeats, and stopped processes."""
    process = WatchedProcess(Part("worker 1", lambda: None, Sheet("worker-1", 1, 1)))
    process.pid = 1
    process.notice(0x137F, 0.0, replace=True)  # stopped by SIGSTOP, as waitpid(2) has it
    process.look(3600.0)
    assert killed == []
