"""Fuzzes gRPC with damaged messages: `python -m tests.acceptance.protocols.grpc_fuzz [--minutes M] [--seed N]`.

A finding is an answer of INTERNAL or UNKNOWN, a call without an answer, an error in the log, a service that has ended
or does not answer a valid request, and memory that grows. A message that led to a finding is printed.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from tritonclient.grpc import service_pb2

from tests.acceptance.faults.fuzz import MAX_SLOPE, WARM_UP, make_parser
from tests.acceptance.faults.served import ROOT, ServedProcess, serve
from tests.acceptance.protocols.messages import MODEL, damage, infer_request, odd_infer_request
from tests.acceptance.server import free_port

SERVICE = "/inference.GRPCInferenceService/"
_TASKS = 16
_MAX_FINDINGS = 5
_TURN_SECONDS, _REST_SECONDS = 20.0, 3.0
_SECONDS = 30.0
"""Time limit of a call."""
_STREAMS = ("ModelStreamInfer", "Watch", "ServerReflectionInfo")
_PATHS = {
    "Check": "/grpc.health.v1.Health/Check",
    "Watch": "/grpc.health.v1.Health/Watch",
    "ServerReflectionInfo": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}
_BAD = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
_OF_CLIENT = "Internal error from Core"
"""Details that grpc.aio itself gives, with INTERNAL, if a stream ended while it sent a message."""
_EXAMPLE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()


def seeds() -> dict[str, list[bytes]]:
    """Valid messages by method."""
    raw, files = infer_request(), infer_request(_EXAMPLE)
    typed, several = infer_request(), infer_request(images=8)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.uint_contents.extend([7] * 784)
    classes = infer_request()
    classes.outputs.add(name="logits").parameters["classification"].int64_param = 3
    infer = [request.SerializeToString() for request in (raw, files, typed, several, classes)]
    pb = service_pb2
    model = {"name": MODEL, "version": "1"}
    found: dict[str, list[bytes]] = {"ModelInfer": infer, "ModelStreamInfer": infer}
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        found[method] = [getattr(pb, f"{method}Request")(**model).SerializeToString()]
    found["RepositoryIndex"] = [pb.RepositoryIndexRequest(ready=True).SerializeToString()]
    for method in ("ServerLive", "ServerReady", "ServerMetadata"):
        found[method] = [b"\x08\x01"]
    load = pb.RepositoryModelLoadRequest(model_name=MODEL)
    load.parameters["config"].string_param = "{}"
    found["RepositoryModelLoad"] = [load.SerializeToString()]
    found["LogSettings"] = [pb.LogSettingsRequest().SerializeToString() or b"\x0a\x00"]
    found["Check"] = found["Watch"] = [HealthCheckRequest(service="inference.GRPCInferenceService").SerializeToString()]
    found["ServerReflectionInfo"] = [
        ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService").SerializeToString(),
        ServerReflectionRequest(list_services="").SerializeToString(),
    ]
    return found


class Fuzzer:
    """Sends damaged messages over some channels.

    Args:
        target: address of the service.
        seed: of everything that is drawn.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.codes = Counter[str]()
        self.findings: list[str] = []
        self._draw = random.Random(seed)
        self._target = target
        self._seeds = seeds()
        self._all = [data for messages in self._seeds.values() for data in messages]
        self._methods = [*self._seeds, *["ModelInfer"] * 12, *["ModelStreamInfer"] * 4]

    async def run(self, end: float, service: ServedProcess) -> None:
        """Send messages until `end`, `time.monotonic` seconds, or until some findings."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_TASKS):
                group.create_task(self._send_until(end, service))

    async def _send_until(self, end: float, service: ServedProcess) -> None:
        while time.monotonic() < end and len(self.findings) < _MAX_FINDINGS and service.process.poll() is None:
            async with grpc.aio.insecure_channel(self._target) as channel:
                for _ in range(200):
                    await self._send(channel)
                data = infer_request().SerializeToString()
                await channel.unary_unary(SERVICE + "ModelInfer")(data, timeout=_SECONDS)

    async def _send(self, channel: grpc.aio.Channel) -> None:
        draw, method = self._draw, self._draw.choice(self._methods)
        data = draw.choice(self._seeds[method])
        if method in ("ModelInfer", "ModelStreamInfer") and draw.random() < 0.6:
            data = odd_infer_request(draw, _EXAMPLE).SerializeToString()
        data = damage(draw, data, self._all)
        path = _PATHS.get(method, SERVICE + method)
        started = time.monotonic()
        try:
            if method in _STREAMS:
                await self._stream(
                    channel, path, [data, *draw.choices(self._all, k=0 if method == "Watch" else draw.randrange(3))]
                )
            else:
                await channel.unary_unary(path)(data, timeout=_SECONDS)
            self.codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            if error.details() == _OF_CLIENT:
                self.codes["error of the client"] += 1
                return
            self.codes[error.code().name] += 1
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - started > _SECONDS / 2
            if error.code() in _BAD or late:
                self._report(f"{method}: {error.code().name} {error.details()} for {data[:100]!r} of {len(data)} bytes")

    async def _stream(self, channel: grpc.aio.Channel, path: str, messages: list[bytes]) -> None:
        async def send() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        call = channel.stream_stream(path)(send(), timeout=_SECONDS)
        async for _ in call:
            if path.endswith("Watch"):  # it has no end
                call.cancel()
                return

    def _report(self, finding: str) -> None:
        self.findings.append(finding)
        print(f"  {finding}", flush=True)


def _run(fuzzer: Fuzzer, service: ServedProcess, minutes: float) -> float:
    """Send messages in turns. Returns by how much the memory between the turns grows, in MB per minute.

    Messages of megabytes make it rise and fall by 100 MB during a turn, and the service returns it after two seconds.
    """
    start, samples = time.monotonic(), list[tuple[float, float]]()
    while (elapsed := time.monotonic() - start) < minutes * 60 and len(fuzzer.findings) < _MAX_FINDINGS:
        end = time.monotonic() + min(_TURN_SECONDS, minutes * 60 - elapsed)
        asyncio.run(fuzzer.run(end, service))
        time.sleep(_REST_SECONDS)
        if service.process.poll() is not None:
            break
        samples.append(((time.monotonic() - start) / 60, service.memory_mb()))
    settled = [sample for sample in samples if sample[0] > WARM_UP * minutes]
    print(f"  MB between the turns: {', '.join(f'{memory:.0f}' for _, memory in samples)}", flush=True)
    return statistics.linear_regression(*zip(*settled, strict=True)).slope if len(settled) > 1 else 0.0


def fuzz(minutes: float, seed: int) -> tuple[bool, str]:
    """Fuzz a service. Returns whether it holds, and the figures."""
    port = free_port()
    print(f"  seed {seed}", flush=True)
    with serve("--grpc-port", str(port), "--max-in-flight-images", "4096") as service:
        fuzzer = Fuzzer(f"127.0.0.1:{port}", seed)
        slope = _run(fuzzer, service, minutes)
        alive = service.process.poll() is None
        errors = [line for line in service.log.splitlines() if '"level":"error"' in line or "Traceback" in line]
    for line in errors[:5]:
        print(f"  log: {line[:2000]}", flush=True)
    holds = alive and not fuzzer.findings and not errors and slope <= MAX_SLOPE
    counts = ", ".join(f"{code} {count:,}" for code, count in fuzzer.codes.most_common())
    return holds, (
        f"seed {seed}, {minutes:g} minutes, {fuzzer.codes.total():,} calls ({counts}), "
        f"{len(fuzzer.findings)} findings, {len(errors)} errors in the log, memory {slope:+.2f} MB per minute "
        f"(at most {MAX_SLOPE})"
    )


if __name__ == "__main__":
    arguments = make_parser(__doc__, minutes=10.0).parse_args()
    holds, figure = fuzz(arguments.minutes, arguments.seed)
    print(f"{'PASS' if holds else 'FAIL'}  {figure}")
    sys.exit(not holds)
