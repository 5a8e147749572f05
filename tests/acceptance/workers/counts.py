"""Line 6: the counts of all workers, one of which was killed."""

from __future__ import annotations

import os
import re
import signal

import httpx

from tests.acceptance.workers.served import EXAMPLE, SIMULATED, Workers, serve
from tests.support.load import Load
from tests.support.worker_processes import client_ports, wait_until

WORKERS = 4
CONNECTIONS = 16
REQUESTS = 10_000
NAMES = ("resnet_requests_total", "resnet_images_total", "resnet_predictions_total", "resnet_confidence_count")


def check() -> tuple[bool, str]:
    """The counts of `/metrics` beside those of the clients."""
    with serve(WORKERS, *SIMULATED) as workers:
        with Load(workers.port, EXAMPLE, CONNECTIONS, limit=REQUESTS) as load:
            wait_until(lambda: len(load.answers) > REQUESTS // 2, "half of the requests are answered")
            victim = workers.find().workers[0]
            os.kill(victim, signal.SIGSTOP)
            in_flight = len(client_ports(victim, workers.port))
            os.kill(victim, signal.SIGKILL)
            load.wait()
        workers.wait()
        texts = [_read(workers) for _ in range(WORKERS)]
    answered = load.statuses.get(200, 0)
    beyond = {name: {_sum(text, name) - answered for text in texts} for name in NAMES}
    holds = all(abs(number) <= in_flight for numbers in beyond.values() for number in numbers)
    return holds and len(load.answers) == REQUESTS and len(load.lost()) <= in_flight, (
        f"{len(load.answers)} requests, by status {load.statuses}, {in_flight} connections of the killed worker; "
        f"/metrics counts beyond {answered}, read {WORKERS} times: "
        f"{', '.join(f'{name} {sorted(numbers)}' for name, numbers in beyond.items())}"
    )


def _read(workers: Workers) -> str:
    """`/metrics`, over a new connection."""
    return httpx.get(f"{workers.service.url}/metrics", timeout=30.0).text


def _sum(text: str, name: str) -> float:
    """The sum of a metric over all models; a request without a model, such as that for `/metrics`, has an empty one."""
    return sum(map(float, re.findall(rf'^{name}{{[^}}]*model="[^"]+"[^}}]*}} (\S+)$', text, re.M)))
