"""Raw tensors that are cut out of protobuf, compared with protobuf itself."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from service.core.errors import BadRequest, PayloadTooLarge
from service.grpc import wire

Request = service_pb2.ModelInferRequest
RAW_INPUTS = Request.DESCRIPTOR.fields_by_name["raw_input_contents"].number
PIECES = st.one_of(
    st.builds(lambda text: Request(model_name=text), st.text(max_size=300)),
    st.builds(lambda raw: Request(raw_input_contents=[raw]), st.binary(max_size=300)),
    st.builds(lambda shape: Request(inputs=[{"shape": shape}]), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)),
).map(Request.SerializeToString)
OTHER_FIELDS = st.sampled_from([b"\x78\xff\x01", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\xfa\x7f\x03abc"])
"""Fields that the message does not have, of each wire type."""


@given(st.lists(PIECES | OTHER_FIELDS, max_size=8).map(b"".join))
def test_raw_tensors_and_the_rest_are_those_of_protobuf(data: bytes) -> None:
    rest, raw = wire.cut_out(data, RAW_INPUTS)
    expected = Request.FromString(data)
    assert [bytes(each) for each in raw] == list(expected.raw_input_contents)
    del expected.raw_input_contents[:]
    assert Request.FromString(rest) == expected


@given(st.lists(PIECES, min_size=1, max_size=4).map(b"".join), st.data())
def test_damaged_messages_are_refused_as_by_protobuf(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        if damaged:
            damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    damaged = damaged[: draw.draw(st.integers(0, len(damaged)))]
    try:
        expected = Request.FromString(bytes(damaged))
    except DecodeError:
        with pytest.raises(BadRequest):
            rest, _ = wire.cut_out(bytes(damaged), RAW_INPUTS)
            asyncio.run(wire.parse(Request, rest, 1 << 20))
        return
    try:
        rest, raw = wire.cut_out(bytes(damaged), RAW_INPUTS)
    except BadRequest:  # groups, which protobuf accepts in unknown fields
        return
    assert [bytes(each) for each in raw] == list(expected.raw_input_contents)
    del expected.raw_input_contents[:]
    assert Request.FromString(rest) == expected


def test_limits() -> None:
    with pytest.raises(BadRequest, match="more than 1,024 fields"):
        wire.cut_out(b"\x3a\x00" * 2000, RAW_INPUTS)
    with pytest.raises(PayloadTooLarge, match="larger than the 100 bytes"):
        asyncio.run(wire.parse(Request, bytes(101), 100))
    large = Request(id="i" * 100_000)  # parsed in a thread
    assert asyncio.run(wire.parse(Request, large.SerializeToString(), 1 << 20)) == large
