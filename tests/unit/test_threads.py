"""Priorities and CPUs of threads, as the system reports them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.core import threads
from service.core.settings import Settings
from service.core.threads import run_in_background
from tests.support.service import TIMEOUT, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority per thread")


def niceness() -> int:
    """Niceness of the calling thread; a higher value is a lower priority."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_background_work_and_its_threads_have_a_lower_priority() -> None:
    def work() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as pool:
            return niceness(), pool.submit(niceness).result()

    before = niceness()
    own, started = asyncio.run(run_in_background(work))
    assert own == started > before
    assert niceness() == before


def test_error_in_background_work_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(run_in_background(int, "none"))


def test_thread_that_does_not_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thread without memory for its first steps."""
    monkeypatch.setattr(threads, "start_new_thread", lambda function, arguments: 1)
    monkeypatch.setattr(threads, "_BEGIN_SECONDS", 0.0)
    with pytest.raises(MemoryError, match="not enough memory for another thread"):
        asyncio.run(run_in_background(int, "1"))


def test_process_ends_while_background_work_hangs() -> None:
    code = (
        "import asyncio, threading; from service.core.threads import run_in_background\n"
        "begun = threading.Event()\n"
        "def hang(): begun.set(); threading.Event().wait()\n"
        "async def main():\n"
        "    task = asyncio.create_task(run_in_background(hang))\n"
        "    await asyncio.to_thread(begun.wait); task.cancel()\n"
        "asyncio.run(main()); print('ended')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_instances_have_a_lower_priority_than_the_event_loop(tiny_repository: Path) -> None:
    with serve(Settings(repository=tiny_repository)) as client:
        assert client.get("/readyz").status_code == 200
        engine = {
            thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("engine-") and thread.native_id is not None
        }
    assert engine
    assert min(engine.values()) > niceness()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_instances_of_one_thread_are_pinned_to_a_cpu_each(tiny_repository: Path) -> None:
    cpus, others = os.sched_getaffinity(0), threading.enumerate()
    settings = Settings(repository=tiny_repository, threads=1, instances=len(cpus), single_image_threads=2)
    with serve(settings) as client:
        assert client.get("/readyz").status_code == 200
        affinity = {
            thread.name: os.sched_getaffinity(thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("engine-") and thread not in others and thread.native_id is not None
        }
    (single,) = (name for name in affinity if name.endswith("-single"))
    assert affinity.pop(single) == cpus
    assert sorted(affinity.values(), key=min) == [{cpu} for cpu in sorted(cpus)]
    assert os.sched_getaffinity(0) == cpus
