"""Messages of the protocol: valid ones, odd ones, and their bytes after damage. Made with Triton's own classes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tritonclient.grpc import service_pb2

MODEL = "fashion-mnist-resnet20"
SHAPE = (28, 28, 1)
_PIXELS = 28 * 28
_INT64 = 1 << 63
_NUMBERS = (0, 1, -1, 2, 28, 127, 128, 129, 1 << 31, (1 << 32) - 1, _INT64 - 1, -_INT64)
_NAMES = ("", "images", "image", MODEL, f"{MODEL}-encoded", "../../etc", "a\0b", "é" * 400, "n" * 100_000)
_DATATYPES = ("UINT8", "BYTES", "FP32", "INT64", "", "uint8", "BOOL")
_OUTPUTS = ("probabilities", "logits", "embedding", "feature_map", "", "nothing")
_PARAMETERS = ("timeout", "priority", "classification", "sequence_id", "shared_memory_region", "binary_data", "x" * 300)


def infer_request(encoded: bytes | None = None, images: int = 1) -> Any:
    """A valid request: pixels, or one image file."""
    request = service_pb2.ModelInferRequest(model_name=MODEL if encoded is None else f"{MODEL}-encoded")
    if encoded is None:
        request.inputs.add(name="images", datatype="UINT8", shape=[images, *SHAPE])
        request.raw_input_contents.append(bytes(images * _PIXELS))
    else:
        request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(len(encoded).to_bytes(4, "little") + encoded)
    return request


def odd_infer_request(draw: random.Random, encoded: bytes) -> Any:
    """A request that is well-formed protobuf, and wrong in some places."""
    request = infer_request(encoded if draw.random() < 0.3 else None)
    for change in draw.choices(_CHANGES, k=draw.randrange(4)):
        change(draw, request)
    return request


def _set_shape(draw: random.Random, request: Any) -> None:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(draw.choices(_NUMBERS, k=draw.choice([0, 1, 2, 4, 4, 4, 5, 9, 2000])))


def _set_names(draw: random.Random, request: Any) -> None:
    request.model_name = draw.choice(_NAMES).replace("\0", "")
    request.model_version = draw.choice(("", "1", "0", "2", "-1", "9" * 18, "9" * 400, "x"))
    request.id = draw.choice(("", "id", "i" * 100_000))


def _set_tensor(draw: random.Random, request: Any) -> None:
    request.inputs[0].name = draw.choice(_NAMES)
    request.inputs[0].datatype = draw.choice(_DATATYPES)


def _set_raw(draw: random.Random, request: Any) -> None:
    del request.raw_input_contents[:]
    for _ in range(draw.choice([0, 1, 1, 2, 1500])):
        request.raw_input_contents.append(draw.randbytes(draw.choice([0, 1, 4, _PIXELS - 1, _PIXELS, 100_000])))


def _set_contents(draw: random.Random, request: Any) -> None:
    contents = request.inputs[0].contents
    count = draw.choice([0, 1, _PIXELS, _PIXELS, 5000])
    contents.uint_contents.extend([draw.choice((0, 255, 256, (1 << 32) - 1))] * count)
    if draw.random() < 0.5:
        contents.bytes_contents.append(draw.randbytes(100))
        contents.fp64_contents.extend([float("nan")] * 3)
    if draw.random() < 0.7:
        del request.raw_input_contents[:]


def _add_inputs(draw: random.Random, request: Any) -> None:
    for _ in range(draw.choice([1, 3, 2000])):
        request.inputs.add(name=draw.choice(("images", "")))


def _add_outputs(draw: random.Random, request: Any) -> None:
    for _ in range(draw.choice([1, 2, 3, 17, 2000])):
        output = request.outputs.add(name=draw.choice(_OUTPUTS))
        _set_parameter(draw, output.parameters)


def _add_parameters(draw: random.Random, request: Any) -> None:
    for _ in range(draw.choice([1, 3, 100])):
        _set_parameter(draw, draw.choice((request.parameters, request.inputs[0].parameters)))


def _set_parameter(draw: random.Random, parameters: Any) -> None:
    parameter = parameters[draw.choice(_PARAMETERS)]
    kind = draw.choice(("bool_param", "int64_param", "string_param", "double_param", "uint64_param", ""))
    if kind == "string_param":
        parameter.string_param = "7"
    elif kind == "uint64_param":
        parameter.uint64_param = draw.choice((0, 1, 2, 5, 10_000_000, (1 << 64) - 1))
    elif kind:
        setattr(parameter, kind, draw.choice((0, 1, 2)) if kind != "int64_param" else draw.choice(_NUMBERS))


_CHANGES: Sequence[Callable[[random.Random, Any], None]] = (
    _set_shape,
    _set_names,
    _set_tensor,
    _set_raw,
    _set_contents,
    _add_inputs,
    _add_outputs,
    _add_parameters,
)


def damage(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes after some kinds of damage, most of which are no valid message any more."""
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
        data = draw.choice(_DAMAGES)(draw, bytearray(data), others)
    return data


def _flip(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    for _ in range(draw.choice([1, 2, 16])):
        if data:  # most often at the start, where the fields are that say how to read the rest
            data[draw.randrange(len(data) if draw.random() < 0.3 else min(64, len(data)))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _cut(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    return bytes(data[: draw.randrange(len(data) + 1)])


def _lie(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    """Put a number of variable length over some bytes, such as a length that is far too large."""
    number = draw.choice((b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\xff\xff\xff\xff\x0f", b"\x80" * 10, b"\x7f"))
    start = draw.randrange(min(64, len(data)) + 1)
    data[start : start + draw.choice((0, 1, len(number)))] = number
    return bytes(data)


def _splice(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    return bytes(data[: draw.randrange(len(data) + 1)]) + other[draw.randrange(len(other) + 1) :]


def _retype(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    """Change the wire type of the first fields: varint, 64 bits, length, groups, 32 bits, and those that none has."""
    if data:
        data[0] = data[0] & 0xF8 | draw.randrange(8)
    return bytes(data)


def _nest(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    depth = draw.choice((10, 1000, 100_000))
    return bytes(data) + draw.choice((b"\x2b", b"\x0b", b"\x73")) * depth


def _repeat(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    return bytes(data) * draw.choice((2, 3, 50)) if len(data) < 5000 else bytes(data)


def _noise(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    return draw.randbytes(draw.choice((1, 10, 1000)))


_DAMAGES = (_flip, _flip, _flip, _cut, _lie, _splice, _retype, _nest, _repeat, _noise)
