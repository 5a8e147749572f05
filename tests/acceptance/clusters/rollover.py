"""Line 5, second part: pods replace each other under load, as the Deployment rolls them over."""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from resnet_serve_client import AsyncClient
from service.core.settings import shipped_repository
from tests.acceptance.clusters.pod import Pod, remove_all
from tests.support import kubernetes
from tests.support.kubernetes import OVERLAYS, ROOT

IMAGE = shipped_repository().parent / "examples" / "ankle-boot.png"
LAG_SECONDS = 3.0
"""Time for which a balancer still sends connections to a pod that is ending; less than preStop."""
REPLACEMENTS = 3


@dataclass
class Balancer:
    """Gives each new TCP connection to a pod, as kube-proxy does; connections that are open stay."""

    ports: list[int] = field(default_factory=list)
    port: int = 0

    async def run(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", random.choice(self.ports))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer), return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@dataclass
class Counts:
    """Requests of one kind of client."""

    answered: int = 0
    lost: int = 0
    reasons: set[str] = field(default_factory=set)


def check() -> tuple[bool, str]:
    """Build the image, and replace two pods several times while clients ask."""
    subprocess.run(["podman", "build", "--target", "cpu", "--tag", "resnet-serve:cpu", str(ROOT)], check=True)
    remove_all()
    try:
        return asyncio.run(_roll_over())
    finally:
        remove_all()


async def _roll_over() -> tuple[bool, str]:
    manifests = kubernetes.render(OVERLAYS / "cpu")
    pods = [await asyncio.to_thread(Pod, manifests, number) for number in (1, 2)]
    for pod in pods:
        await asyncio.to_thread(pod.wait_until_ready)
    faults = _confinement(pods[0])
    balancer = Balancer([pod.port for pod in pods])
    await balancer.run()
    url, stop = f"http://127.0.0.1:{balancer.port}", threading.Event()
    fresh, kept = Counts(), Counts()
    load = [asyncio.create_task(_ask_with_new_connections(url, fresh, stop)) for _ in range(2)]
    load.append(asyncio.create_task(_ask_with_the_client(url, kept, stop)))
    ends = []
    for number in range(3, 3 + REPLACEMENTS):
        new = await asyncio.to_thread(Pod, manifests, number)
        await asyncio.to_thread(new.wait_until_ready)
        old = pods.pop(0)
        pods.append(new)
        balancer.ports.append(new.port)
        ending = asyncio.create_task(asyncio.to_thread(old.end))
        await asyncio.sleep(LAG_SECONDS)
        balancer.ports.remove(old.port)
        ends.append(await ending)
    stop.set()
    await asyncio.gather(*load)
    failures = sum(pod.liveness_failures for pod in pods)
    holds = not faults and not fresh.lost and not kept.lost and not failures and min(fresh.answered, kept.answered) > 0
    print(*sorted(fresh.reasons | kept.reasons), sep="\n")
    return holds, (
        f"{faults or 'user 10001, root read-only, no capability'}; {REPLACEMENTS} pods replaced under load, each ended "
        f"after {max(ends):.1f} s at most: {fresh.answered} requests on new connections, {fresh.lost} lost; "
        f"{kept.answered} of the Python client on kept connections, {kept.lost} lost; {failures} liveness failures"
    )


async def _ask_with_new_connections(url: str, counts: Counts, stop: threading.Event) -> None:
    content = IMAGE.read_bytes()
    while not stop.is_set():
        try:
            async with httpx.AsyncClient(timeout=30.0) as client:
                answer = await client.post(f"{url}/v1/classify", content=content, headers={"Content-Type": "image/png"})
            answer.raise_for_status()
            counts.answered += 1
        except httpx.HTTPError as error:
            counts.lost += 1
            counts.reasons.add(f"new connection: {error!r}")
        await asyncio.sleep(0.02)


async def _ask_with_the_client(url: str, counts: Counts, stop: threading.Event) -> None:
    async with AsyncClient(url) as client:
        while not stop.is_set():
            try:
                await client.classify(IMAGE)
                counts.answered += 1
            except Exception as error:
                counts.lost += 1
                counts.reasons.add(f"client: {error!r}")
            await asyncio.sleep(0.02)


def _confinement(pod: Pod) -> str:
    """Rights of the container that it should not have; empty without any."""
    faults = []
    if pod.inside("id", "-u").stdout.strip() != "10001":
        faults.append("not user 10001")
    if pod.inside("touch", "/opt/planted").returncode == 0:
        faults.append("writes to the root file system")
    if "CapEff:\t0000000000000000" not in pod.inside("cat", "/proc/1/status").stdout:
        faults.append("has capabilities")
    if pod.inside("touch", "/cache/planted", "/tmp/planted").returncode:
        faults.append("cannot write to its cache")
    return ", ".join(faults)
