"""Metrics, log lines, request ids and traces."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.parser import text_string_to_metric_families

from service.core import errors
from service.core.choices import LogFormat
from service.core.errors import InferenceFailed, ServiceError
from service.core.settings import Settings
from service.telemetry import log_config
from service.telemetry.log_config import JsonFormatter, TextFormatter
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import STAGES
from tests.support.api import as_form, check_problem, metrics
from tests.support.asgi import Exchange
from tests.support.service import Client, serve
from tests.support.tiny import Eager

Photographs = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def traffic(tiny_repository: Path, photographs: Photographs) -> tuple[str, dict[tuple[str, ...], float]]:
    """/metrics, and its samples, of a service after requests of every kind."""
    with serve(Settings(repository=tiny_repository)) as client:
        for _, data in photographs:
            assert client.post("/v1/classify", content=data).status_code == 200
        form = as_form(*[data for _, data in photographs])
        assert client.post("/v1/classify?cam=values", **form).status_code == 200
        assert client.post("/v1/classify", content=b"bad").status_code == 422
        assert client.post("/v1/models/other/classify", content=b"x").status_code == 404
        with client.admit(512):
            assert client.post("/v1/classify", content=photographs[0][1]).status_code == 503
            response = client.get("/metrics")
        return response.text, metrics(client) | {
            ("during", "resnet_images_in_flight"): sample(response.text, "resnet_images_in_flight")
        }


def sample(text: str, name: str) -> float:
    return sum(
        each.value for family in text_string_to_metric_families(text) for each in family.samples if each.name == name
    )


def test_every_metric_is_counted(
    traffic: tuple[str, dict[tuple[str, ...], float]], photographs: Photographs, eager: Eager
) -> None:
    _, values = traffic
    images = 2 * len(photographs)
    requests = len(photographs) + 1
    assert values["resnet_requests_total", "tiny", "200"] == requests
    assert values["resnet_requests_total", "tiny", "422"] == 1
    assert values["resnet_requests_total", "", "404"] == 1
    assert values["resnet_requests_refused_total", "tiny", "queue_full"] == 1
    assert sum(value for name, value in values.items() if name[0] == "resnet_requests_refused_total") == 1
    assert values["resnet_images_total", "tiny"] == images
    for stage in (*STAGES, "total"):
        assert values["resnet_stage_seconds_count", "tiny", stage] == (1 if stage == "extras" else requests)
        assert values["resnet_stage_seconds_sum", "tiny", stage] > 0
    assert values["resnet_batch_size_sum", "tiny"] == images
    assert values["resnet_batch_seconds_sum", "tiny"] > 0
    assert values["resnet_devices", "tiny"] == 1
    # These need several devices, or one with buckets: see test_devices.
    for name in ("wasted_rows", "devices_lost", "batches_retried"):
        assert values[f"resnet_{name}_total", "tiny"] == 0
    assert values["resnet_model_loads_total", "loaded"] == 1
    assert values["resnet_model_loads_total", "failed"] == 0
    assert values["resnet_model_load_seconds_sum",] > 0
    assert values["resnet_model_info", "onnxruntime-cpu", "tiny", "float32", "1"] == 1
    assert values["resnet_repository_reads_total", "read"] >= 1
    assert values["resnet_devices_stalled", "tiny"] == 0
    assert values["resnet_queue_images", "tiny"] == 0
    assert values["during", "resnet_images_in_flight"] == 512
    assert values["resnet_images_in_flight", "tiny"] == 0
    assert values["resnet_requests_in_flight",] == 0
    expected: dict[str, int] = {}
    for _, data in photographs:
        label = f"class {eager(data).argmax()}"
        expected[label] = expected.get(label, 0) + 2
    predicted = {name[1]: value for name, value in values.items() if name[0] == "resnet_predictions_total"}
    assert predicted == expected
    assert values["resnet_confidence_count", "tiny"] == images
    assert values["resnet_confidence_sum", "tiny"] == pytest.approx(
        2 * sum(float(eager(data).max()) for _, data in photographs), abs=1e-3
    )
    assert values["process_resident_memory_bytes",] > 10_000_000


def test_all_metrics_are_tested(traffic: tuple[str, dict[tuple[str, ...], float]]) -> None:
    families = {family.name for family in text_string_to_metric_families(traffic[0])}
    assert {name for name in families if name.startswith("resnet_") and not name.endswith("_created")} == {
        "resnet_requests",
        "resnet_requests_refused",
        "resnet_images",
        "resnet_stage_seconds",
        "resnet_batch_size",
        "resnet_batch_seconds",
        "resnet_wasted_rows",
        "resnet_devices",
        "resnet_devices_lost",
        "resnet_batches_retried",
        "resnet_model_loads",
        "resnet_model_load_seconds",
        "resnet_model_info",
        "resnet_queue_images",
        "resnet_images_in_flight",
        "resnet_requests_in_flight",
        "resnet_predictions",
        "resnet_confidence",
        "resnet_event_loop_lag_seconds",
        "resnet_log_lines_dropped",
        "resnet_repository_reads",
        "resnet_devices_stalled",
        "resnet_decoder_threads_held",
        "resnet_decoder_threads_replaced",
        "resnet_shadow_images",  # counted in test_shadows
    }


def test_promtool_accepts_the_metrics(traffic: tuple[str, dict[tuple[str, ...], float]]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run(["promtool", "check", "metrics"], input=traffic[0], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_reasons_are_a_fixed_list() -> None:
    def kinds(kind: type[ServiceError]) -> list[type[ServiceError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in kinds(child))]

    assert {kind.reason for kind in kinds(ServiceError) if kind.reason} | set(errors.OVERLOAD) == set(errors.REASONS)


def test_a_model_that_cannot_be_loaded_is_counted(tiny_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_repository, tmp_path / "repository")
    (tmp_path / "repository" / "tiny" / "1" / "golden.npz").unlink()
    with serve(Settings(repository=tmp_path / "repository")) as client:
        assert metrics(client)["resnet_model_loads_total", "failed"] == 1


def test_classes_beyond_a_thousand_share_a_label() -> None:
    told = Metrics()
    for index in (0, 999, 1000, 1001, 20_000):
        told.model("large").prediction(index, f"class {index}", 0.5)
    values = {
        each.labels["label"]: each.value
        for family in told.predictions.collect()
        for each in family.samples
        if each.name.endswith("_total")
    }
    assert values == {"class 0": 1, "class 999": 1, "others": 3}


@pytest.mark.parametrize("given", ["7f3a", "A-z_0.9:/+=", "x" * 128])
def test_a_request_id_comes_in_and_goes_out(given: str, client: Client, photographs: Photographs) -> None:
    headers = {"X-Request-Id": given}
    assert client.post("/v1/classify", content=photographs[0][1], headers=headers).headers["x-request-id"] == given
    failed = client.post("/v1/classify", content=b"bad", headers=headers)
    check_problem(failed, 422)
    assert failed.headers["x-request-id"] == failed.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, '"', "ä".encode().decode("latin-1")])
def test_invalid_request_id_is_replaced(given: str, client: Client) -> None:
    answer = client.request("GET", "/healthz", headers={"X-Request-Id": given.encode("latin-1")})
    assert answer.headers["x-request-id"] not in (given, "")


def test_every_request_has_an_id_of_its_own(client: Client) -> None:
    assert len({client.get("/v1/models").headers["x-request-id"] for _ in range(100)}) == 100


def fail(*arguments: object, **named: object) -> None:
    raise RuntimeError("a secret of the machine")


def test_unexpected_error_keeps_the_request_id(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client.pipeline, "classify", fail)
    response = client.post("/v1/classify", content=photographs[0][1], headers={"X-Request-Id": "mine"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine"
    (logged,) = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.exc_info]
    assert logged["request_id"] == "mine"
    assert "a secret of the machine" in logged["error"]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_one_log_line_per_request(client: Client, photographs: Photographs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="service")
    exchange = Exchange([photographs[0][1]], {"x-request-id": "mine"}, path="/v1/classify?priority=bulk")
    client.portal.call(exchange.run, client.app)
    (line,) = lines(caplog)
    expected = {
        "level": "info",
        "message": "POST /v1/classify 200",
        "request_id": "mine",
        "caller": "192.0.2.1",
        "method": "POST",
        "path": "/v1/classify",
        "status": 200,
        "model": "tiny",
        "version": "1",
        "priority": "bulk",
        "images": 1,
        "batch_size": 1,
    }
    assert {name: line[name] for name in expected} == expected
    stages = [line[f"{stage}_ms"] for stage in STAGES if stage != "extras"]
    assert min(stages) > 0
    assert sum(stages) <= line["total_ms"]
    assert line["time"].endswith("+00:00")


def test_log_line_of_a_refused_request(
    client: Client, photographs: Photographs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service")
    with client.admit(512):
        client.post("/v1/classify", content=photographs[0][1])
    client.post("/v1/models/a%0Ab/classify", content=b"x")
    refused, wrong = lines(caplog)
    assert (refused["status"], refused["refused"], refused["images"]) == (503, "queue_full", 0)
    assert (wrong["status"], wrong["path"]) == (400, "/v1/models/a%0Ab/classify")
    assert "model" not in wrong


def logged(formatter: logging.Formatter, message: str, **options: Any) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.error(message, **options)
    return stream.getvalue()


def test_json_log_lines_have_no_line_breaks() -> None:
    try:
        raise InferenceFailed('a "quoted"\nerror')
    except InferenceFailed:
        text = logged(JsonFormatter(), "first\nsecond ä", exc_info=True, extra={"fields": {"images": 3}})
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["message"], line["level"], line["images"]) == ("first\nsecond ä", "error", 3)
    assert 'a "quoted"\nerror' in line["error"]


def test_text_lines_name_the_fields() -> None:
    text = logged(TextFormatter(), "POST / 200", extra={"fields": {"status": 200, "images": 3, "model": "tiny"}})
    assert text.endswith(" ERROR POST / 200 images=3 model=tiny\n")


@pytest.mark.parametrize(
    ("log_format", "terminal", "kind"),
    [
        (None, True, TextFormatter),
        (None, False, JsonFormatter),
        (LogFormat.json, True, JsonFormatter),
        (LogFormat.text, False, TextFormatter),
    ],
)
def test_log_format_follows_the_setting_and_the_terminal(
    log_format: LogFormat | None, terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    log_config.configure(log_format)
    assert [type(handler.formatter) for handler in root.handlers] == [kind]
    for handler in root.handlers:
        handler.close()


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(tiny_repository: Path, exporter: InMemorySpanExporter) -> Any:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serve(Settings(repository=tiny_repository), tracer_provider=provider) as client:
        yield client


def test_a_trace_has_a_span_for_each_stage(
    traced: Client, exporter: InMemorySpanExporter, photographs: Photographs
) -> None:
    exporter.clear()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "mine"}
    assert traced.post("/v1/classify?cam=values", content=photographs[0][1], headers=headers).status_code == 200
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert len(exporter.get_finished_spans()) == len(spans) == len(STAGES) + 1
    request = spans.pop("POST /v1/classify")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == trace
    assert f"{request.parent.span_id:016x}" == parent
    assert request.attributes is not None
    assert request.attributes["resnet.request_id"] == "mine"
    assert request.attributes["resnet.model"] == "tiny"
    assert list(spans) == list(STAGES)
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert span.start_time is not None and span.end_time is not None
        assert request.start_time is not None and request.end_time is not None
        # The two clocks are not read at the same time.
        assert request.start_time - 1_000_000 <= span.start_time <= span.end_time <= request.end_time + 1_000_000


def test_a_trace_of_a_failure(traced: Client, exporter: InMemorySpanExporter, photographs: Photographs) -> None:
    exporter.clear()
    with traced.admit(512):
        assert traced.post("/v1/classify", content=photographs[0][1]).status_code == 503
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 503


@pytest.mark.slow
def test_tracing_without_the_extra_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from service.telemetry.tracing import TracingError, otlp_provider\n"
        "import service.app\n"
        "try: otlp_provider()\n"
        "except TracingError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "-e '.[tracing]'" in done.stdout
