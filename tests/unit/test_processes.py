"""Limits of a worker, and its end when it cannot decode."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.core.settings.offline import OfflineSettings
from service.processes import WorkerSide, share_limits

MIB = 1024 * 1024


def test_worker_that_cannot_decode_ends_after_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *signal_to: sent.append(signal_to))
    side = SimpleNamespace(pipeline=SimpleNamespace(cannot_decode=lambda: True))
    asyncio.run(WorkerSide.watch(cast(WorkerSide, side)))
    assert sent == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.parametrize(
    ("workers", "threads", "body_mib", "decode_mib"), [(1, 16, 1024, 1024), (3, 6, 341, 341), (8, 2, 128, 256)]
)
def test_limits_hold_for_all_workers_together(workers: int, threads: int, body_mib: int, decode_mib: int) -> None:
    settings = OfflineSettings(decode_threads=16)
    share = share_limits(settings, workers)
    assert share.decode_threads == threads
    assert share.max_buffered_body_bytes // MIB == body_mib
    assert share.max_decode_bytes // MIB == decode_mib
    assert share.max_body_bytes == settings.max_body_bytes
