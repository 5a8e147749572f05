"""The processes of the service: replaced, ended in order, and never left behind."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable

import pytest

from service import executors
from service.core.settings.offline import OfflineSettings
from service.executors.base import ExecutorError
from service.supervisor.child import start_child
from service.supervisor.worker_count import decide_workers, find_device
from tests.support.service import TIMEOUT
from tests.support.supervised import supervised


def wait_for_end(pidfds: Iterable[int]) -> None:
    """Wait until processes have ended."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], TIMEOUT)[0]
        os.close(pidfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker-2", "engine"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_process_that_is_killed_or_stopped_is_replaced(name: str, number: signal.Signals) -> None:
    with supervised("beat") as service:
        first = service.begin(3)
        os.kill(first[name], number)
        ((replaced, pid),) = service.begin(1).items()
        assert (replaced, pid != first[name]) == (name, True)
        assert f"{name} (process {first[name]}) was ended by SIGKILL: it is replaced" in service.line("replaced")
        status, ended = service.end()
        assert (status, len(ended)) == (0, 3)


@pytest.mark.slow
def test_process_that_is_continued_in_time_lives_on() -> None:
    with supervised("beat") as service:
        first = service.begin(3)
        os.kill(first["worker-1"], signal.SIGSTOP)
        os.kill(first["worker-1"], signal.SIGCONT)
        os.kill(first["worker-2"], signal.SIGSTOP)
        assert service.begin(1).keys() == {"worker-2"}
        assert service.end()[0] == 0
        assert f"worker-1 (process {first['worker-1']}) ended with status 0" in service.log()


@pytest.mark.slow
def test_process_without_heartbeats_is_replaced() -> None:
    with supervised("fall_silent") as service:
        first = service.begin(3)
        assert service.begin(1)["worker-1"] != first["worker-1"]
        assert "stands still" in service.line("killed")


@pytest.mark.slow
def test_pause_grows_while_a_process_fails_at_its_start() -> None:
    with supervised("fail") as service:
        assert service.begin(6)["worker-1"] > 0
        lines = [service.line("worker-1 (process") for _ in range(3)]
        assert all("ended with status 1: it is replaced" in line for line in lines)
        assert ["0.25 s" in lines[1], "0.5 s" in lines[2]] == [True, True]
        status, ended = service.end()
        assert (status, ended[-1]) == (0, "engine")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_end_before_the_engine_process(number: signal.Signals) -> None:
    with supervised("beat") as service:
        service.begin(3)
        status, ended = service.end(number, to_all=number is not signal.SIGTERM)  # as a terminal sends the others
        assert (status, sorted(ended[:2]), ended[2:]) == (0, ["worker-1", "worker-2"], ["engine"])


@pytest.mark.slow
def test_nohup_keeps_the_service_running_after_a_hangup() -> None:
    with supervised("beat", nohup=True) as service:
        service.begin(3)
        service.process.send_signal(signal.SIGHUP)
        assert service.end()[0] == 0
        assert "SIGTERM: the service ends" in service.log()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "message"),
    [(None, "the shutdown took more than 1.1 s: ended"), (signal.SIGINT, "a second signal: ended at once")],
)
def test_process_that_does_not_end_is_killed(second: signal.Signals | None, message: str) -> None:
    with supervised("ignore_end") as service:
        pids = service.begin(3)
        pidfds = [os.pidfd_open(pid) for pid in pids.values()]
        service.process.send_signal(signal.SIGTERM)
        if second is not None:
            service.line("the service ends")
            service.process.send_signal(second)
        assert message in service.log()
        assert service.process.wait(TIMEOUT) == 1
        wait_for_end(pidfds)


@pytest.mark.slow
def test_no_process_outlives_the_parent() -> None:
    with supervised("beat") as service:
        pidfds = [os.pidfd_open(pid) for pid in service.begin(3).values()]
        service.process.kill()
        wait_for_end(pidfds)


def test_status_of_a_function_in_a_child() -> None:
    def refuse() -> None:
        raise SystemExit(2)

    def status_of(function: Callable[[], None]) -> int:
        _, status = os.waitpid(start_child(function), 0)
        return os.waitstatus_to_exitcode(status)

    assert status_of(lambda: None) == 0
    assert status_of(refuse) == 2
    assert status_of(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL


def test_device_is_found_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def find(name: str) -> executors.Runtime:
        if name == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        device: executors.DeviceKind = "gpu" if os.getpid() != parent else "cpu"
        return executors.Runtime(name, "", lambda source: pytest.fail("loaded"), {}, device)

    with pytest.raises(ExecutorError, match="no executor is named 'abacus'"):
        find_device("abacus")
    assert find_device("simulated:5") == "simulated"
    monkeypatch.setattr(executors, "find", find)
    assert find_device("fake") == "gpu"
    with pytest.raises(ExecutorError, match="the runtime of executor 'crash' ended its process"):
        find_device("crash")


def test_setting_decides_the_number_of_workers() -> None:
    assert decide_workers(OfflineSettings(workers=1, executor="abacus")) == 1  # it is checked by that process
    assert decide_workers(OfflineSettings(workers=3, executor="simulated:5")) == 3
    with pytest.raises(ExecutorError, match="abacus"):
        decide_workers(OfflineSettings(workers=3, executor="abacus"))
