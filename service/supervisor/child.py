"""Processes that the supervisor forks. They end with it, even if it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that the supervisor receives."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def start_child(run: Callable[[], None]) -> int:
    """Fork a process that calls a function and then ends: with 0, the status of a SystemExit, or 1 for other errors.

    In it, SIGTERM raises SystemExit(0) until the function sets another handler, and SIGINT and SIGHUP, which a terminal
    sends to all processes, are ignored. The function configures the log: a log thread does not survive a fork.

    Returns:
        The id of the process.

    Raises:
        OSError: there are no means for another process.
    """
    parent = os.getpid()
    # Otherwise a signal right after the fork would reach the supervisor, whose handlers the child still has.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(run, parent, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _run_child(run: Callable[[], None], parent: int, mask: set[signal.Signals | int]) -> NoReturn:
    status = 1
    try:
        _end_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _exit)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = _exit_status(run)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stderr.flush()
    except SystemExit:  # SIGTERM, before the function began or after it ended
        status = 0
    finally:
        # The functions of `atexit` and the frames below belong to the supervisor.
        os._exit(status)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _exit_status(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        log.exception("a process of the service has failed")
        return 1
    return 0


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
