"""gRPC: Triton's client, the errors of HTTP with codes, limits, and streams."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from models.imaging.preprocess import UInt8Array
from service.core.settings import Settings
from tests.support.api import metrics
from tests.support.api_keys import KEYS, ROOT, WEB, write_keys
from tests.support.gate import Gate
from tests.support.grpc_client import SERVICE, address, failure, inputs, pixels, typed
from tests.support.service import TIMEOUT, Client, serve
from tests.support.worker_processes import wait_until

Photographs = list[tuple[str, bytes]]
Change = Callable[[Any], object]
WATCH = "/grpc.health.v1.Health/Watch"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def served(tiny_repository: Path) -> Iterator[Client]:
    """The service with both protocols."""
    settings = Settings(repository=tiny_repository, instances=1, grpc_port=0, client_timeout_seconds=0.5)
    with serve(settings) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(served)) as client:
        yield client


@pytest.fixture(scope="module")
def channel(served: Client) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address(served)) as channel:
        yield channel


def over_http(client: Client, images: UInt8Array | bytes) -> np.ndarray[Any, Any]:
    """The probabilities of pixels or of one file, from the path of HTTP for the same model."""
    if isinstance(images, bytes):
        headers = {"Inference-Header-Content-Length": "0"}
        response = client.post("/v2/models/tiny-encoded/infer", content=images, headers=headers)
    else:
        tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
        response = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    (output,) = response.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_answers_equal_those_of_http(
    served: Client, client: triton.InferenceServerClient, channel: grpc.Channel, photographs: Photographs
) -> None:
    file = photographs[0][1]
    cases: list[tuple[str, Any, Any]] = [
        ("tiny", PIXELS, over_http(served, PIXELS)),
        ("tiny-encoded", [file], over_http(served, file)),
    ]
    for name, images, expected in cases:
        answers = [client.infer(name, inputs(images), compression_algorithm=kind) for kind in (None, "gzip", "deflate")]
        answers.append(client.infer(name, inputs(images), "1", request_id="an id", priority=2, timeout=10_000_000))
        for answer in answers:
            assert np.array_equal(answer.as_numpy("probabilities"), expected)
        assert (answers[-1].get_response().id, answers[-1].get_response().model_version) == ("an id", "1")
    response = service_pb2.ModelInferResponse.FromString(
        channel.unary_unary(SERVICE + "ModelInfer")(typed(pixels(PIXELS)).SerializeToString())
    )
    assert response.raw_output_contents[0] == over_http(served, PIXELS).tobytes()


def test_typed_files_and_classes(client: triton.InferenceServerClient, channel: grpc.Channel, photographs: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="tiny-encoded")
    request.inputs.add(name="image", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(photographs[0][1])
    output = request.outputs.add(name="logits")
    output.parameters["classification"].int64_param = 2
    answer = service_pb2.ModelInferResponse.FromString(
        channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString())
    )
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    expected = client.infer("tiny-encoded", inputs([photographs[0][1]]), outputs=[wanted])
    assert answer.raw_output_contents[0] == expected.get_response().raw_output_contents[0]
    assert answer.outputs[0].datatype == "BYTES"
    assert expected.as_numpy("logits").shape == (1, 2)


def test_metadata_equals_that_of_http(served: Client, client: triton.InferenceServerClient) -> None:
    def as_json(message: Any) -> Any:
        return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=False)

    assert client.is_server_live() and client.is_server_ready()
    assert as_json(client.get_server_metadata()) == served.get("/v2").json()
    index = as_json(client.get_model_repository_index())["models"]
    assert [entry | {"reason": ""} for entry in index] == served.post("/v2/repository/index").json()
    for name in ("tiny", "tiny-encoded"):
        assert client.is_model_ready(name) and not client.is_model_ready(name, "7")
        path = f"/v2/models/{name}"
        metadata = as_json(client.get_model_metadata(name, "1"))
        for tensor in (*metadata["inputs"], *metadata["outputs"]):
            tensor["shape"] = [int(size) for size in tensor["shape"]]
        assert metadata == served.get(path).json()
        told, expected = client.get_model_config(name).config, served.get(f"{path}/config").json()
        assert (told.platform, told.max_batch_size) == (expected["platform"], expected["max_batch_size"])
        assert list(told.input[0].dims) == expected["input"][0]["dims"]
        counted = client.get_inference_statistics(name).model_stats[0]
        stats = served.get(f"{path}/stats").json()["model_stats"][0]
        assert counted.inference_count == stats["inference_count"]
        assert counted.inference_stats.success.ns == stats["inference_stats"]["success"]["ns"]
        assert [batch.batch_size for batch in counted.batch_stats] == [
            each["batch_size"] for each in stats["batch_stats"]
        ]
    assert len(client.get_inference_statistics().model_stats) == 2


def set_input(**values: Any) -> Change:
    def change(request: Any) -> None:
        for name, value in values.items():
            if name == "shape":
                del request.inputs[0].shape[:]
                request.inputs[0].shape.extend(value)
            else:
                setattr(request.inputs[0], name, value)

    return change


def set_raw(*contents: bytes) -> Change:
    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(contents)

    return change


def too_many(request: Any) -> None:
    set_input(shape=[129, 32, 32, 3])(request)
    set_raw(bytes(129 * 32 * 32 * 3))(request)


INVALID = StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (set_input(shape=[3, 32, 32, 1]), INVALID, r"images: has shape \[3, 32, 32, 1\], expected \[-1, 32, 32, 3\]"),
        (set_input(shape=[-3, 32, 32, 3]), INVALID, "exact size of each dimension"),
        (set_input(shape=[1 << 62, 32, 32, 3]), INVALID, "9216 bytes for shape"),
        (too_many, StatusCode.RESOURCE_EXHAUSTED, "129 images in one request, at most 128"),
        (set_input(shape=[0, 32, 32, 3]), INVALID, "no image in the request"),
        (set_input(shape=[1] * 100_000), INVALID, "more than 8 dimensions"),
        (set_input(name="n" * 100_000), INVALID, "the input is 'images' of datatype UINT8, not 'nnn"),
        (set_input(datatype="FP32"), INVALID, "not 'images' of FP32"),
        (set_raw(PIXELS.tobytes()[1:]), INVALID, "9215 bytes for shape"),
        (set_raw(), INVALID, "needs either contents or raw_input_contents"),
        (set_raw(b"", b""), INVALID, "2 elements, for 1 input"),
        (lambda request: request.inputs[0].contents.uint_contents.append(1), INVALID, "needs either contents or raw"),
        (lambda request: request.inputs.add(name="images"), INVALID, "2 inputs, and the model takes 1"),
        (lambda request: request.outputs.add(name="nothing"), INVALID, "there is no output 'nothing'; there are: "),
        (lambda request: setattr(request, "model_name", "nothing"), StatusCode.NOT_FOUND, "no model nothing is served"),
        (lambda request: setattr(request, "model_name", "../etc"), INVALID, "model: String should match pattern"),
        (lambda request: setattr(request, "model_version", "x"), INVALID, "version: String should match pattern"),
        (
            lambda request: request.parameters["timeout"].CopyFrom(service_pb2.InferParameter(string_param="1")),
            INVALID,
            "parameters.timeout: is no whole number",
        ),
        (
            lambda request: (
                request.inputs[0]
                .parameters["shared_memory_region"]
                .CopyFrom(service_pb2.InferParameter(string_param="region"))
            ),
            INVALID,
            "shared memory is not supported",
        ),
    ],
)
def test_mistakes_have_a_code_and_a_reason(channel: grpc.Channel, change: Change, code: StatusCode, words: str) -> None:
    request = pixels(PIXELS)
    change(request)
    error = failure(channel, "ModelInfer", request.SerializeToString())
    assert error.code() is code
    assert len(error.details()) <= 1024
    assert re.search(words, error.details()), error.details()


@pytest.mark.parametrize("data", [b"\xff", b"\x0b" * 10_000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "RepositoryIndex", "ModelStatistics"])
def test_unreadable_message(channel: grpc.Channel, method: str, data: bytes) -> None:
    error = failure(channel, method, data)
    assert (error.code(), error.details()) == (
        INVALID,
        "the message is not valid protobuf of the kind that the method takes",
    )


def test_messages_above_the_limits(tiny_repository: Path, channel: grpc.Channel) -> None:
    huge = pixels(PIXELS)
    huge.id = "i" * 2_000_000
    error = failure(channel, "ModelInfer", huge.SerializeToString())
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "without raw tensors is larger than the 1,048,576 bytes" in error.details()
    settings = Settings(repository=tiny_repository, grpc_port=0, max_body_bytes=10_000, max_buffered_body_bytes=5_000)
    with serve(settings) as client, grpc.insecure_channel(address(client)) as small:
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            error = failure(small, "ModelInfer", bytes(1_000_000), compression=compression)
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in error.details()
        error = failure(small, "ModelInfer", pixels(PIXELS).SerializeToString())
        assert (error.code(), error.details()) == (
            StatusCode.UNAVAILABLE,
            "the memory for requests is used up: try again in 1 s",
        )


def sent_after(ended: Event, *first: bytes) -> Iterator[bytes]:
    """Messages of a client that then sends nothing until an event."""
    yield from first
    ended.wait(TIMEOUT)


def test_slow_client_has_a_time_limit(channel: grpc.Channel) -> None:
    ended = Event()
    with pytest.raises(grpc.RpcError) as error:
        channel.stream_unary(SERVICE + "ModelInfer")(sent_after(ended))
    with pytest.raises(grpc.RpcError) as watch_error:
        next(channel.stream_stream(WATCH)(sent_after(ended), timeout=TIMEOUT / 2))
    ended.set()
    assert watch_error.value.details() == error.value.details()
    assert error.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive within the time limit" in error.value.details()


@pytest.mark.parametrize("method", ["LogSettings", "TraceSetting", "CudaSharedMemoryStatus", "RepositoryModelLoad"])
def test_methods_that_are_not_supported(channel: grpc.Channel, method: str) -> None:
    error = failure(channel, method, b"")
    assert error.code() is StatusCode.UNIMPLEMENTED
    assert "start" in error.details()


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert error.value.code() is StatusCode.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    own = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert {method.name for method in file.service[0].method} >= set(own)


def test_keys_and_rates(tiny_repository: Path, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    settings = Settings(
        repository=tiny_repository,
        grpc_port=0,
        api_keys=tmp_path / "keys.toml",
        admin=True,
        rate_limit=0.001,
        rate_burst=4,
    )
    model = service_pb2.RepositoryModelUnloadRequest(model_name="tiny").SerializeToString()
    with serve(settings) as client, grpc.insecure_channel(address(client)) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer")
        data = pixels(PIXELS).SerializeToString()
        assert channel.unary_unary(SERVICE + "ServerReady")(b"") == b"\x08\x01"
        for metadata, code in (
            ([], StatusCode.UNAUTHENTICATED),
            ([("x-api-key", "wrong")], StatusCode.UNAUTHENTICATED),
            ([("authorization", "Basic x")], StatusCode.UNAUTHENTICATED),
        ):
            assert failure(channel, "ModelInfer", data, metadata=metadata).code() is code
        assert call(data, metadata=[("authorization", f"Bearer {WEB}")])
        assert failure(channel, "RepositoryModelUnload", model, metadata=[("x-api-key", WEB)]).code() is (
            StatusCode.PERMISSION_DENIED
        )
        with pytest.raises(grpc.RpcError) as refused:
            next(channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([data])))
        assert refused.value.code() is StatusCode.UNAUTHENTICATED
        root = triton.InferenceServerClient(address(client))
        root.unload_model("tiny", headers={"x-api-key": ROOT})
        assert not root.is_model_ready("tiny", headers={"x-api-key": ROOT})
        root.load_model("tiny", headers={"x-api-key": ROOT})
        assert root.is_model_ready("tiny", headers={"x-api-key": ROOT})
        root.close()
        error = failure(channel, "ModelReady", b"", metadata=[("x-api-key", ROOT)])
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1


def test_overload_and_deadlines(served: Client, channel: grpc.Channel) -> None:
    data = pixels(PIXELS).SerializeToString()
    with served.admit(512):
        error = failure(channel, "ModelInfer", data)
    assert error.code() is StatusCode.UNAVAILABLE
    assert "too many images are waiting" in error.details()
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
    late = pixels(PIXELS)
    late.parameters["timeout"].int64_param = 1
    error = failure(channel, "ModelInfer", late.SerializeToString())
    assert (error.code(), error.details()[:26]) == (StatusCode.DEADLINE_EXCEEDED, "the time limit passed befo")


def test_request_id_log_and_metrics(served: Client, channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    before = metrics(served)
    call = channel.unary_unary(SERVICE + "ModelInfer")
    with caplog.at_level(logging.INFO, "service.grpc.calls"):
        _, done = call.with_call(pixels(PIXELS).SerializeToString(), metadata=[("x-request-id", "mine")])
        _, other = call.with_call(pixels(PIXELS).SerializeToString(), metadata=[("x-request-id", "not mine")])
    assert dict(done.trailing_metadata())["x-request-id"] == "mine"
    assert len(dict(other.trailing_metadata())["x-request-id"]) == 16
    fields = caplog.records[0].__dict__["fields"]()
    assert fields["request_id"] == "mine"
    assert (fields["status"], fields["images"], fields["caller"], fields["model"]) == ("OK", 3, "127.0.0.1", "tiny")
    after = metrics(served)
    name = ("resnet_requests_total", "tiny", "OK")
    assert after[name] == before.get(name, 0) + 2
    assert after["resnet_requests_in_flight",] == 0


def test_cancelled_call_is_not_computed(served: Client, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(served.engine(), monkeypatch)
    call = channel.unary_unary(SERVICE + "ModelInfer")
    data = pixels(PIXELS[:1]).SerializeToString()
    first = call.future(data)
    served.portal.call(gate.started)
    waiting = [call.future(data) for _ in range(4)]
    streams = [channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([data])) for _ in range(4)]
    expiring = call.future(data, timeout=0.3)
    served.portal.call(gate.queued, 9)
    for each in (*waiting[1:], *streams):
        each.cancel()
    assert expiring.code() is StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: served.images_in_flight() == 2, "the cancelled calls have left")
    gate.let_through(1000)
    assert first.result() and waiting[0].result()
    assert gate.images == 2


def test_stream_answers_in_order(served: Client, channel: grpc.Channel, client: triton.InferenceServerClient) -> None:
    bad = pixels(PIXELS)
    bad.inputs[0].shape[0] = 2
    requests = [pixels(PIXELS[: 1 + number % 3]) for number in range(70)]
    requests[20] = bad
    for number, request in enumerate(requests):
        request.id = str(number)
    responses = channel.stream_stream(SERVICE + "ModelStreamInfer")(
        iter([request.SerializeToString() for request in requests])
    )
    answers = [service_pb2.ModelStreamInferResponse.FromString(data) for data in responses]
    assert "9216 bytes for shape" in answers[20].error_message
    del answers[20], requests[20]
    assert [answer.infer_response.id for answer in answers] == [request.id for request in requests]
    for answer, request in zip(answers, requests, strict=True):
        assert list(answer.infer_response.outputs[0].shape) == [request.inputs[0].shape[0], 5]
    got: list[Any] = []
    with triton.InferenceServerClient(address(served)) as streaming:
        streaming.start_stream(lambda result, error: got.append((result, error)))
        for number in range(3):
            streaming.async_stream_infer(
                "tiny", inputs(PIXELS), request_id=str(number), enable_empty_final_response=True
            )
        streaming.stop_stream()
    assert [result.get_response().id for result, error in got if error is None] == ["0", "1", "2"]
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in got)


def test_unreadable_message_ends_a_stream_after_its_answers(channel: grpc.Channel) -> None:
    data = pixels(PIXELS).SerializeToString()
    responses = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([data, data, b"\xff", data]))
    assert next(responses) == next(responses)
    with pytest.raises(grpc.RpcError) as error:
        next(responses)
    assert error.value.code() is INVALID


def test_asynchronous_client(served: Client) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(address(served)) as client:
            answers = await asyncio.gather(*(client.infer("tiny", inputs(PIXELS)) for _ in range(20)))
            assert all(np.array_equal(each.as_numpy("probabilities"), expected) for each in answers)

            async def requests() -> Any:
                for _ in range(5):
                    yield {"model_name": "tiny", "inputs": inputs(PIXELS)}

            async for result, error in client.stream_infer(requests()):
                assert error is None
                assert np.array_equal(result.as_numpy("probabilities"), expected)
            with pytest.raises(InferenceServerException, match="no model nothing"):
                await client.infer("nothing", inputs(PIXELS))

    with triton.InferenceServerClient(address(served)) as synchronous:
        expected = synchronous.infer("tiny", inputs(PIXELS)).as_numpy("probabilities")
    asyncio.run(ask())


def test_streams_end_with_the_service(tiny_repository: Path) -> None:
    with serve(Settings(repository=tiny_repository, grpc_port=0, client_timeout_seconds=1000)) as client:
        channel = grpc.insecure_channel(address(client))
        silent = channel.stream_stream(WATCH)(sent_after(ended := Event()))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        messages = sent_after(ended, pixels(PIXELS).SerializeToString())
        idle = channel.stream_stream(SERVICE + "ModelStreamInfer")(messages)
        assert next(idle)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert list(silent) == []
    with pytest.raises(grpc.RpcError) as error:
        next(idle)
    assert (error.value.code(), error.value.details()) == (
        StatusCode.UNAVAILABLE,
        "the service ends: open another stream",
    )
    ended.set()
    channel.close()


def test_traces(tiny_repository: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    settings = Settings(repository=tiny_repository, grpc_port=0, traces_per_second=0.001)
    with serve(settings, tracer_provider=provider) as client, grpc.insecure_channel(address(client)) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer")
        data = pixels(PIXELS).SerializeToString()
        call(data, metadata=[("traceparent", parent), ("x-request-id", "mine")])
        failure(channel, "ModelInfer", b"", metadata=[("traceparent", parent)])
        call(data)  # the one of this second
        call(data)
    spans: list[Any] = list(exporter.get_finished_spans())
    roots = [span for span in spans if span.name == "inference.GRPCInferenceService/ModelInfer"]
    assert [span.attributes["rpc.response.status_code"] for span in roots] == ["OK", "INVALID_ARGUMENT", "OK"]
    traced, failed, other = roots
    assert format(traced.context.trace_id, "032x") == parent[3:35]
    assert format(traced.parent.span_id, "016x") == parent[36:52]
    assert (traced.attributes["resnet.request_id"], traced.attributes["resnet.model"]) == ("mine", "tiny")
    assert failed.status.is_ok is False and other.parent is None
    stages = [span.name for span in spans if span.parent and span.parent.span_id == traced.context.span_id]
    assert stages == ["read", "queue", "assembly", "inference"]


def test_responses_count_until_they_are_received(tiny_repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = pixels(np.zeros((128, 32, 32, 3), np.uint8))
    request.outputs.add(name="feature_map")
    data = request.SerializeToString()
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)]
    # Without the long time limit, a busy machine refuses 2,000 images as too late.
    limits: dict[str, Any] = {"max_buffered_body_bytes": 20_000_000, "max_in_flight_images": 100_000, "timeout_ms": 1e6}
    settings = Settings(repository=tiny_repository, grpc_port=0, **limits)
    with serve(settings) as client, grpc.insecure_channel(address(client), small_window) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer")
        assert 500_000 < len(call(data)) < 4_000_000

        def is_refused() -> bool:
            try:
                return not call(data)
            except grpc.RpcError as error:
                return "the memory for requests is used up" in error.details()

        for method, messages in (("ModelInfer", 1), ("ModelStreamInfer", 4)):
            unread = [channel.stream_stream(SERVICE + method)(iter([data] * messages)) for _ in range(16)]
            wait_until(is_refused, "responses that no client receives fill the memory")
            for each in unread:
                each.cancel()
            wait_until(lambda: not is_refused(), "they are dropped with their calls")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
