"""Sends one tensor again and again: `python -m tests.acceptance.protocols.tensor_load {grpc,http} PORT REQUESTS`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

IN_FLIGHT = 32
SIDE = 224
MODEL = "model"
_SHAPE = [1, SIDE, SIDE, 3]
_PIXELS = np.random.default_rng(0).integers(0, 256, _SHAPE, np.uint8).tobytes()

Send = Callable[[], Awaitable[None]]


async def _repeat(senders: list[Send], requests: int) -> None:
    left = requests

    async def work(send: Send) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await send()

    await asyncio.gather(*map(work, senders))


async def over_grpc(port: int, requests: int) -> None:
    """All calls over one channel, as a client of Triton sends them."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[_PIXELS])
    request.inputs.add(name="images", datatype="UINT8", shape=_SHAPE)
    data = request.SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def send() -> None:
            await call(data)

        await _repeat([send] * IN_FLIGHT, requests)


async def over_http(port: int, requests: int) -> None:
    """Binary tensors in both directions, over a connection for each request in flight."""
    parameters = {"binary_data_size": len(_PIXELS)}
    tensor = {"name": "images", "shape": _SHAPE, "datatype": "UINT8", "parameters": parameters}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    fields = [
        f"POST /v2/models/{MODEL}/infer HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(_PIXELS)}",
    ]
    message = "\r\n".join(fields).encode() + b"\r\n\r\n" + head + _PIXELS
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IN_FLIGHT)]

    def sender(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Send:
        async def send() -> None:
            writer.write(message)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith(b"http/1.1 200"):
                raise RuntimeError(answer.decode())
            await reader.readexactly(int(answer.partition(b"\r\ncontent-length: ")[2].split()[0]))

        return send

    await _repeat([sender(*connection) for connection in connections], requests)
    for _, writer in connections:
        writer.close()


if __name__ == "__main__":
    protocol, port, requests = sys.argv[1:]
    asyncio.run({"grpc": over_grpc, "http": over_http}[protocol](int(port), int(requests)))
