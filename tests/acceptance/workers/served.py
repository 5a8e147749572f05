"""A served process with workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.faults.case import Failed
from tests.acceptance.faults.served import ROOT, ServedProcess
from tests.acceptance.faults.served import serve as serve_process
from tests.support.worker_processes import Processes, find_processes, wait_for_workers

EXAMPLE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
TINY = ROOT / "tests" / "data" / "tiny" / "repository"
SIMULATED = ("--executor", "simulated:0.64", "--max-batch", "32")
"""50,000 images per second: 0.64 ms for a batch of up to 32."""


class Workers:
    """A service of several processes.

    Args:
        service: its parent.
        count: number of workers; 1 for a single process.
    """

    def __init__(self, service: ServedProcess, count: int) -> None:
        self.service = service
        self.port = service.port
        self._count = count

    def find(self) -> Processes:
        """Its processes now."""
        return find_processes(self.service.process.pid, self.port)

    def wait(self) -> Processes:
        """Wait until all workers are connected to the engine process."""
        return wait_for_workers(self.service.process.pid, self.port, self._count)


@contextmanager
def serve(workers: int, *options: str | Path) -> Iterator[Workers]:
    """A service with workers, ready."""
    with serve_process("--workers", str(workers), *map(str, options)) as service:
        served = Workers(service, workers)
        if workers > 1:
            served.wait()
        yield served


def check_each(*parts: Callable[[], str]) -> tuple[bool, str]:
    """Run the parts of a line, and print the figure of each. Returns whether all hold, and all figures."""
    figures, holds = [], True
    for part in parts:
        try:
            figures.append(part())
        except Failed as failed:
            holds = False
            figures.append(f"FAILED {failed}")
        print(f"  {figures[-1]}", flush=True)
    return holds, "; ".join(figures)
