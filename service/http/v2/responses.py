"""Writes the response of an inference: a small one as a whole, a large one in slices.

Feature maps of many images are hundreds of megabytes as JSON. Such a response is written while it is sent, so it is
never in memory as a whole, and the event loop is not held up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from service.core.threads import run_python
from service.http.v2.json_body import LENGTH_HEADER
from service.http.v2.schemas import InferResponse, OutputTensor
from service.open_inference.outputs import Output

_MAX_VALUES = 4096
_MAX_BYTES = 1 << 20
"""Largest response that is written as a whole."""
_SLICE_VALUES = 16384
_SLICE_BYTES = 256 * 1024


async def respond(answer: InferResponse, outputs: Sequence[Output]) -> Response:
    """Make the response.

    Args:
        answer: the response without outputs.
        outputs: its outputs.
    """
    raw_bytes = sum(len(output.raw) for output in outputs)
    if raw_bytes <= _MAX_BYTES and sum(output.count for output in outputs) <= _MAX_VALUES:
        return _whole(answer, outputs)
    if not raw_bytes:
        return StreamingResponse(_json_slices(answer, outputs), media_type="application/json")
    head = b"".join([piece async for piece in _json_slices(answer, outputs)])
    headers = {LENGTH_HEADER: str(len(head)), "Content-Length": str(len(head) + raw_bytes)}
    return StreamingResponse(_raw_slices(head, outputs), headers=headers, media_type="application/octet-stream")


def _whole(answer: InferResponse, outputs: Sequence[Output]) -> Response:
    tensors = [_tensor(output, None if output.data is None else output.values()) for output in outputs]
    head = answer.model_copy(update={"outputs": tensors}).model_dump_json(exclude_none=True).encode()
    raw = b"".join(output.raw for output in outputs)
    if not raw:
        return Response(head, media_type="application/json")
    return Response(head + raw, headers={LENGTH_HEADER: str(len(head))}, media_type="application/octet-stream")


def _tensor(output: Output, data: list[Any] | None = None) -> OutputTensor:
    """The part of an output in the JSON."""
    parameters = {"binary_data_size": len(output.raw)} if output.data is None else None
    return OutputTensor(
        name=output.name, datatype=output.datatype, shape=output.shape, parameters=parameters, data=data
    )


async def _json_slices(answer: InferResponse, outputs: Sequence[Output]) -> AsyncIterator[bytes]:
    yield answer.model_dump_json(exclude_none=True, exclude={"outputs"}).encode()[:-1] + b',"outputs":['
    for position, output in enumerate(outputs):
        tensor = (b"," if position else b"") + _tensor(output).model_dump_json(exclude_none=True).encode()
        if output.data is None:
            yield tensor
            continue
        yield tensor[:-1] + b',"data":['
        for start in range(0, output.count, _SLICE_VALUES):
            text = await run_python(_list_json, output, start)
            yield b"," + text if start else text
        yield b"]}"
    yield b"]}"


def _list_json(output: Output, start: int) -> bytes:
    """A slice of the values as JSON, without the brackets."""
    return to_json(output.values(start, start + _SLICE_VALUES), inf_nan_mode="null")[1:-1]


async def _raw_slices(head: bytes, outputs: Sequence[Output]) -> AsyncIterator[bytes]:
    yield head
    for output in outputs:
        for start in range(0, len(output.raw), _SLICE_BYTES):
            yield bytes(output.raw[start : start + _SLICE_BYTES])
