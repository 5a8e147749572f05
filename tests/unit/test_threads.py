"""Threads that compute give way to those that answer: by the priorities that the system tells."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.core.settings import Settings
from service.core.threads import run_in_background
from tests.support.service import serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads priorities of their own")


def niceness() -> int:
    """Of the calling thread; more is less priority."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_in_the_background_gives_way_with_the_threads_that_it_starts() -> None:
    def work() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as pool:
            return niceness(), pool.submit(niceness).result()

    before = niceness()
    own, started = asyncio.run(run_in_background(work))
    assert own == started > before
    assert niceness() == before


def test_its_errors_reach_the_caller() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(run_in_background(int, "none"))


def test_executors_give_way_to_the_event_loop(tiny_repository: Path) -> None:
    with serve(Settings(repository=tiny_repository)) as client:
        assert client.get("/readyz").status_code == 200
        engine = {
            thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("engine-") and thread.native_id is not None
        }
    assert engine
    assert min(engine.values()) > niceness()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_executors_of_one_thread_stay_on_a_processor_each(tiny_repository: Path) -> None:
    processors, others = os.sched_getaffinity(0), threading.enumerate()
    with serve(Settings(repository=tiny_repository, threads=1, instances=len(processors))) as client:
        assert client.get("/readyz").status_code == 200
        kept = [
            os.sched_getaffinity(thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("engine-") and thread not in others and thread.native_id is not None
        ]
    assert sorted(kept, key=min) == [{processor} for processor in sorted(processors)]
    assert os.sched_getaffinity(0) == processors
