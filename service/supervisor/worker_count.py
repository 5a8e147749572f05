"""How many workers answer."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from service import executors
from service.core.cpus import available_cpus
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.registry.default_executor import find_default_device
from service.supervisor.child import start_child

log = logging.getLogger(__name__)

_MAX_WORKERS = 8


def decide_workers(settings: Settings) -> int:
    """The number of workers of a service, which may fork them. 1 means that one process does everything.

    Raises:
        ExecutorError: there are several workers, and the executor cannot be used.
    """
    cpus = available_cpus()
    if settings.workers == 1 or (settings.workers is None and default_workers("gpu", cpus) == 1):
        return 1
    if "executor" in settings.model_fields_set:
        device = find_device(settings.executor)
    else:
        device = ask_child(lambda: find_default_device(settings.cache), "the default executor")
    return count_workers(settings.workers, device, cpus)


def default_workers(device: str, cpus: int) -> int:
    """The number of workers if the setting has none.

    Args:
        device: kind of device that computes: cpu, gpu or simulated. On a CPU, decoding and computing share the CPUs.
        cpus: number of CPUs.
    """
    return max(1, min(_MAX_WORKERS, cpus // 2)) if device == "gpu" else 1


def count_workers(setting: int | None, device: str, cpus: int, platform: str = sys.platform) -> int:
    """The number of workers. 1 means that one process does everything.

    Args:
        setting: value of the setting `workers`.
        device: as of `default_workers`.
        cpus: number of CPUs.
        platform: as `sys.platform`.
    """
    workers = default_workers(device, cpus) if setting is None else setting
    if workers > 1 and platform != "linux":
        log.warning("workers is %d, but several processes need Linux: one process does everything", workers)
        return 1
    return workers


def find_device(executor: str) -> str:
    """Kind of device of an executor.

    Args:
        executor: name of the executor, with its argument.

    Raises:
        ExecutorError: as of `executors.find`.
    """
    return ask_child(lambda: executors.find(executor).device, f"the runtime of executor {executor!r}")


def ask_child(find: Callable[[], str], runtime: str) -> str:
    """Call a function that loads a runtime, on Linux in another process: a runtime may not survive a fork.

    Args:
        find: returns the answer; may raise ExecutorError.
        runtime: its name, for an error.

    Raises:
        ExecutorError: as of the function, or the process ended without an answer.
    """
    if sys.platform != "linux":
        return find()
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as answer:
        pid = start_child(lambda: _write_answer(find, writer))
        os.close(writer)
        kind, _, text = answer.read().partition(" ")
    _, status = os.waitpid(pid, 0)
    if kind == "found":
        return text
    raise ExecutorError(text or f"{runtime} ended its process (status {status}): repair it")


def _write_answer(find: Callable[[], str], writer: int) -> None:
    try:
        answer = f"found {find()}"
    except ExecutorError as error:
        answer = f"error {error}"
    os.write(writer, answer.encode())
