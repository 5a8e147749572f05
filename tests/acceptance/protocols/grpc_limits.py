"""Line 2: calls that are cancelled or late, streams that go away, hostile messages, and a fuzzer of ten minutes."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
from grpc import StatusCode

from tests.acceptance.faults.served import ServedProcess, serve
from tests.acceptance.protocols import grpc_fuzz
from tests.acceptance.protocols.messages import MODEL, infer_request
from tests.acceptance.server import free_port

SERVICE = "/inference.GRPCInferenceService/"
FUZZ_MINUTES = float(os.environ.get("GRPC_FUZZ_MINUTES", "10"))
BATCH_MS = 100
STREAMS = 1000
MAX_LATE_SECONDS = 0.25
MAX_LEFT_MB = 20.0
"""Of memory, after 1,000 more streams."""
_DATA = infer_request().SerializeToString()


def check() -> tuple[bool, str]:
    """All parts in turn."""
    parts = [_cancelled, _deadlines, _streams, _hostile]
    results = []
    for part in parts:
        holds, figure = part()
        print(f"  {'holds' if holds else 'FAILS'}: {figure}", flush=True)
        results.append((holds, figure))
    results.append(grpc_fuzz.fuzz(FUZZ_MINUTES, random.SystemRandom().randrange(1 << 30)))
    return all(holds for holds, _ in results), "; ".join(figure for _, figure in results)


@contextmanager
def _served(*options: str) -> Iterator[tuple[ServedProcess, str]]:
    """A service that computes one image per batch, and its address of gRPC."""
    port = free_port()
    flags = ("--executor", f"simulated:{BATCH_MS}", "--max-batch", "1", "--instances", "1", "--threads", "1")
    with serve("--grpc-port", str(port), "--max-in-flight-images", "4096", *flags, *options) as service:
        yield service, f"127.0.0.1:{port}"


def _metric(service: ServedProcess, name: str) -> float:
    text = httpx.get(f"{service.url}/metrics", timeout=30.0).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def _until(holds: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _cancelled() -> tuple[bool, str]:
    """32 calls and 32 streams are cancelled while the first is computed: nothing further is computed."""
    with _served() as (service, target), grpc.insecure_channel(target) as channel:
        unary, stream = channel.unary_unary(SERVICE + "ModelInfer"), channel.stream_stream(SERVICE + "ModelStreamInfer")
        calls = [unary.future(_DATA) for _ in range(32)] + [stream(iter([_DATA])) for _ in range(32)]
        in_flight = _until(lambda: _metric(service, "resnet_images_in_flight") >= 60)
        for call in calls:
            call.cancel()
        gone = _until(lambda: _metric(service, "resnet_images_in_flight") == 0, 5.0)
        computed = _metric(service, "resnet_batch_size_count")
        time.sleep(1.0)  # ten batches
        further = _metric(service, "resnet_batch_size_count") - computed
        left = _metric(service, "resnet_requests_in_flight")
    return in_flight and gone and further <= 1 and not left, (
        f"64 calls cancelled: {computed:.0f} images computed before, {further:.0f} after (the one that had begun), "
        f"{left:.0f} calls left"
    )


def _deadlines() -> tuple[bool, str]:
    """Of 16 calls, those whose time limit does not reach to their turn end at it, over both protocols."""
    limit = 0.45
    with _served() as (service, target):

        async def over_grpc(by_parameter: bool) -> list[tuple[str, float]]:
            request = infer_request()
            if by_parameter:
                request.parameters["timeout"].int64_param = round(limit * 1e6)
            data = request.SerializeToString()
            async with grpc.aio.insecure_channel(target) as channel:
                call = channel.unary_unary(SERVICE + "ModelInfer")

                async def one() -> tuple[str, float]:
                    started = time.monotonic()
                    try:
                        await call(data, timeout=60 if by_parameter else limit)
                        return "OK", time.monotonic() - started
                    except grpc.aio.AioRpcError as error:
                        return error.code().name, time.monotonic() - started

                return await asyncio.gather(*(one() for _ in range(16)))

        async def over_http() -> list[tuple[str, float]]:
            tensor = {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}
            body = {"inputs": [tensor], "parameters": {"timeout": round(limit * 1e6)}}
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:

                async def one() -> tuple[str, float]:
                    started = time.monotonic()
                    response = await client.post(f"/v2/models/{MODEL}/infer", json=body)
                    names = {200: "OK", 504: "DEADLINE_EXCEEDED", 503: "UNAVAILABLE"}
                    return names[response.status_code], time.monotonic() - started

                return await asyncio.gather(*(one() for _ in range(16)))

        figures, holds = [], True
        for name, run in (
            ("grpc-timeout", over_grpc(False)),
            ("parameters.timeout", over_grpc(True)),
            ("HTTP", over_http()),
        ):
            answers = asyncio.run(run)
            late = max(seconds for _, seconds in answers) - limit
            codes = {code: [each for each, _ in answers].count(code) for code in sorted({each for each, _ in answers})}
            holds &= late <= MAX_LATE_SECONDS and "OK" in codes and len(codes) > 1
            figures.append(f"{name} {codes}, at most {late * 1000:+.0f} ms from the limit")
        left = _until(lambda: _metric(service, "resnet_images_in_flight") == 0)
    return holds and left, f"deadlines of {limit * 1000:.0f} ms: {'; '.join(figures)}"


def _streams() -> tuple[bool, str]:
    """1,000 streams, twice, go away while they are computed; the second time must leave nothing."""

    async def open_and_leave(target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            call = channel.stream_stream(SERVICE + "ModelStreamInfer")
            streams = [call() for _ in range(STREAMS)]
            await asyncio.gather(*(stream.write(_DATA) for stream in streams))
            for stream in streams[: STREAMS // 2]:
                stream.cancel()
            await asyncio.sleep(0.2)
        # The others go with their connection.

    with _served() as (service, target):
        figures = []
        for _ in range(3):
            asyncio.run(open_and_leave(target))
            gone = _until(lambda: _metric(service, "resnet_requests_in_flight") == 0)
            gone &= _until(lambda: _metric(service, "resnet_images_in_flight") == 0)
            time.sleep(3)  # freed memory is returned after two seconds
            figures.append((service.memory_mb(), service.files(), service.threads(), gone))
        with grpc.insecure_channel(target) as channel:
            answered = bool(channel.unary_unary(SERVICE + "ModelInfer")(_DATA, timeout=30))
    (_, *before, first), (memory, *_), (memory_after, *after, last) = figures
    holds = first and last and answered and after[0] <= before[0] + 2 and memory_after <= memory + MAX_LEFT_MB
    return holds, (
        f"{STREAMS} streams went away, three times: MB, descriptors, threads "
        f"{[(round(mb), files, threads) for mb, files, threads, _ in figures]}, all left: {first and last}"
    )


def _hostile() -> tuple[bool, str]:
    """Messages that lie or cannot be read, and one above the limit, each with its code; the next call is answered."""
    shape, short, long_raw, zero = (infer_request() for _ in range(4))
    shape.inputs[0].shape[0] = 1 << 40
    negative = infer_request()
    negative.inputs[0].shape[1] = -28
    short.raw_input_contents[0] = bytes(783)
    long_raw.raw_input_contents[0] = bytes(785)
    zero.inputs[0].shape[0] = 0
    files = infer_request(b"x")
    files.raw_input_contents[0] = b"\xff\xff\xff\xffx"
    swapped = infer_request()
    swapped.inputs[0].shape[:] = [28, 28, 1, 1]
    invalid, exhausted = StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED
    cases = [
        ("a shape of 2^40 images", shape.SerializeToString(), invalid),
        ("a negative shape", negative.SerializeToString(), invalid),
        ("a shape of another order", swapped.SerializeToString(), invalid),
        ("no images", zero.SerializeToString(), invalid),
        ("raw contents that are too short", short.SerializeToString(), invalid),
        ("raw contents that are too long", long_raw.SerializeToString(), invalid),
        ("an element longer than its message", files.SerializeToString(), invalid),
        ("bytes that are no protobuf", b"\xff" * 1000, invalid),
        ("half a message", infer_request().SerializeToString()[:400], invalid),
        ("a nesting of 100,000 groups", b"\x0b" * 100_000, invalid),
        ("no bytes", b"", invalid),
        ("33 MiB", bytes(33 << 20), exhausted),
        ("a million inputs", b"\x2a\x00" * 1_000_000, invalid),
    ]
    wrong = []
    with _served() as (service, target), grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer")
        service.reset_peak()
        before = service.memory_mb()
        for name, data, expected in cases:
            try:
                call(data, timeout=60)
                wrong.append(f"{name} was answered")
            except grpc.RpcError as error:
                if error.code() is not expected:
                    wrong.append(f"{name}: {error.code().name} {error.details()}")
            call(_DATA, timeout=60)
        peak = service.peak_mb() - before
        errors = service.log.count('"level":"error"')
    return not wrong and not errors and peak < 200, (
        f"{len(cases)} hostile messages, not as documented: {wrong or 'none'}, {errors} errors in the log, "
        f"peak of memory {peak:+.0f} MB"
    )
