"""Processes that share sheets or a log: `python -m tests.support.forked_metrics SCENARIO` prints what they leave.

The scenarios fork from a process without threads, as the service does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from random import Random

from service.core.errors import REASONS
from service.telemetry.background_log import BackgroundHandler
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import STAGES, RequestContext
from service.telemetry.sheet import Sheet

WRITERS = 4
LINES = 500
"""Lines per process in a shared log."""
SERIES = 3000
REPLACED_THREADS = {"worker-1": 4, "worker-2": 1, "worker-1 again": 2, "engine": 0, "engine again": 0}
SEEDS = {name: number for number, name in enumerate(REPLACED_THREADS)}
"""Each process counts random events, which follow from its seed."""


def work(metrics: Metrics, seed: int) -> None:
    """Count random events of each kind. Sums of their seconds are exact."""
    random = Random(seed)
    for _ in range(1000):
        model = metrics.model(random.choice(["tiny", 'odd "name"\n']))
        model.batch(random.randrange(1, 200), random.randrange(1000) / 256, random.randrange(3))
        index = random.choice([*range(50), 1500])
        model.prediction(index, f"class {index}", random.randrange(257) / 256)
        context = RequestContext(model=random.choice(["tiny", ""]), refused=random.choice([None, *REASONS]), images=2)
        context.stages = [(random.choice(STAGES), 0.0, random.randrange(1000) / 256)]
        status = random.choice([200, 429, 503])
        metrics.request(context, status, random.randrange(1000) / 256, failed=status != 200)
        random.choice([model.device_lost, model.retried])()
        metrics.repository_read(random.choice(["read", "failed"]))
        metrics.loop_lag.observe(random.randrange(100) / 256)
        with metrics.loading():
            pass


def line(writer: int, number: int) -> str:
    """A line of a shared log; one in a hundred has nearly the size that a pipe takes as a whole."""
    return f"{writer} {number} {chr(97 + writer) * (4000 if number % 100 == 0 else 37 * number % 1500)}"


def _fork(run: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
        os._exit(0)
    finally:
        os._exit(1)


def _serve(name: str, sheet: Sheet, sheets: list[Sheet], gauges: dict[str, int], connection: Connection) -> None:
    """Count, then render at each message."""
    sheet.begin()
    metrics = Metrics(sheet, sheets)
    metrics.queue_images.watch_all(lambda: {(model,): waiting for model, waiting in gauges.items()})
    metrics.watch_versions(lambda: [(model, "1", "simulated", "fp32") for model in gauges])
    metrics.watch_requests(lambda: 10)
    metrics.watch_decoder_threads(lambda: 1, lambda: REPLACED_THREADS[name])
    work(metrics, SEEDS[name])
    metrics.beat()
    connection.send("counted")
    while True:
        connection.recv()
        connection.send(asyncio.run(metrics.render()).decode())


class _Process:
    def __init__(self, name: str, sheet: Sheet, sheets: list[Sheet], gauges: dict[str, int]) -> None:
        self._connection, theirs = Pipe()
        self.pid = _fork(lambda: _serve(name, sheet, sheets, gauges, theirs))
        assert self._connection.recv() == "counted"

    def render(self) -> str:
        self._connection.send("render")
        return str(self._connection.recv())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not noticed


def counts() -> None:
    """Two workers and an engine: one worker and the engine are killed and replaced."""
    sheets = [Sheet("worker-1"), Sheet("worker-2"), Sheet("engine")]
    first, second, engine = sheets
    worker = _Process("worker-1", first, sheets, {})
    other = _Process("worker-2", second, sheets, {"tiny": 2})
    model = _Process("engine", engine, sheets, {"tiny": 3, "gone": 5})
    texts = {"all run": other.render()}
    worker.kill()
    model.kill()
    texts["two were killed"] = other.render()
    for process, sheet in ((worker, first), (model, engine)):
        os.waitpid(process.pid, 0)
        sheet.end()
    texts["two have ended"] = other.render()
    again = [
        _Process("worker-1 again", first, sheets, {}),
        _Process("engine again", engine, sheets, {"tiny": 3}),
    ]
    texts["replaced"] = again[0].render()
    for process in (*again, other):
        process.kill()
    print(json.dumps(texts))


def names() -> None:
    """A process is killed while it adds series, which another process reads; the next one continues."""
    sheet = Sheet("worker-1")
    reading, writing = os.pipe()

    def add(tell: bool) -> None:
        sheet.begin()
        for number in range(SERIES):
            sheet.series("images", (f"{number}: {'é' * (number % 30)}",), 1 + number % 3)[0] += 1
            if tell and number == 100:
                os.write(writing, b"!")

    child = _fork(lambda: add(tell=True))
    os.read(reading, 1)
    reads = [sheet.read("images") for _ in range(20)]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sheet.end()
    reads.append(sheet.read("images"))
    os.waitpid(_fork(lambda: add(tell=False)), 0)
    reads.append(sheet.read("images"))
    print(json.dumps([[(labels[0], values[0]) for labels, values in read.items()] for read in reads]))


def log() -> None:
    """Several processes write one log to standard output."""

    def write(writer: int) -> None:
        handler = BackgroundHandler(1, shared=True)
        logger = logging.Logger("test")
        logger.addHandler(handler)
        for number in range(LINES):
            logger.info("%s", line(writer, number))
        handler.close()
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()

    for child in [_fork(lambda writer=writer: write(writer)) for writer in range(WRITERS)]:  # type: ignore[misc]
        os.waitpid(child, 0)


if __name__ == "__main__":
    {"counts": counts, "names": names, "log": log}[sys.argv[1]]()
