"""Settings: defaults, environment variables and flags, and invalid values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.core.cpus import available_cpus
from service.core.settings import Settings
from service.core.settings.former_names import RENAMED, replace_former_flags
from service.core.settings.offline import OfflineSettings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RESNET_SERVE_"):
            monkeypatch.delenv(name)


def parse(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


def test_the_defaults_are_consistent() -> None:
    settings = parse()
    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.executor == "onnxruntime-cpu"
    assert settings.max_delay_ms == 0
    assert settings.max_batch is None
    assert settings.max_images <= settings.max_in_flight_images


def test_every_option_is_a_flag_and_an_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    file.touch()
    values = {
        "repository": str(tmp_path),
        "cache": str(tmp_path / "cache"),
        "versions": "all tiny=1,3",
        "traffic": str(tmp_path / "traffic.toml"),
        "watch": "poll",
        "root_path": "/vision",
        "ssl_certfile": str(file),
        "ssl_keyfile": str(file),
        "api_keys": str(file),
        "admin": "True",
        "cors_origins": "https://a.example https://b.example",
        "compat": "kserve-v1,vertex",
        "model": "resnet",
        "only_model": "resnet",
        "storage_poll_seconds": "5.0",
        "host": "0.0.0.0",
        "port": "0",
        "grpc_port": "8001",
        "executor": "simulated:5",
        "precision": "int8",
        "threads": "3",
        "instances": "2",
        "single_image_threads": "4",
        "decode": "fast",
        "workers": "3",
        "decode_threads": "4",
        "decode_gpu": "1",
        "max_batch": "16",
        "max_delay_ms": "2.5",
        "max_in_flight_images": "300",
        "timeout_ms": "1500.0",
        "max_body_bytes": "1000",
        "max_pixels": "2000",
        "max_decode_bytes": "5000",
        "max_images": "30",
        "examples": str(tmp_path),
        "max_decompressed_bytes": "3000",
        "max_json_bytes": "77",
        "max_buffered_body_bytes": "4000",
        "rate_limit": "2.5",
        "rate_burst": "5",
        "trusted_proxies": "10.0.0.7 172.16.0.0/12",
        "max_connections": "100",
        "client_timeout_seconds": "4.5",
        "keep_alive_seconds": "6",
        "log_format": "text",
        "log_level": "warning",
        "tracing": "True",
        "traces_per_second": "2.0",
        "shutdown_seconds": "7.5",
        "memory_limit": "5000000",
        "pin": "tiny other",
        "response_cache": "7000000",
        "min_residence_seconds": "2.5",
    }
    assert set(values) == set(Settings.model_fields)
    from_flags = parse(*(f"--{name.replace('_', '-')}={value}".removesuffix("=True") for name, value in values.items()))
    for name, value in values.items():
        monkeypatch.setenv(f"RESNET_SERVE_{name.upper()}", value)
    from_environment = parse()
    assert {name: str(value) for name, value in from_flags.model_dump().items()} == values
    assert {name: str(value) for name, value in from_environment.model_dump().items()} == values


def test_flag_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_SERVE_PORT", "9001")
    assert parse().port == 9001
    assert parse("--port", "9002").port == 9002


@pytest.mark.parametrize("path", ["/v2/models", "/", "health", "/a{b}", "/v1/models/tiny"])
def test_paths_of_vertex_may_not_be_those_of_the_service(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HEALTH_ROUTE", path)
    parse("--compat", "torchserve")
    with pytest.raises(ValidationError, match="AIP_HEALTH_ROUTE is"):
        parse("--compat", "torchserve,vertex")


def test_port_of_a_platform_takes_the_place_of_the_port(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", "8080")
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9090")
    assert (parse().port, parse("--compat", "kserve-v1").port) == (8000, 8000)
    assert (parse("--compat", "vertex").port, parse("--compat", "sagemaker").port) == (8080, 9090)
    assert not caplog.records
    assert parse("--compat", "kserve-v1, vertex", "--port", "8000").port == 8080
    (warning,) = caplog.messages
    assert warning == "port 8000 is not used: the service listens on port 8080, which AIP_HTTP_PORT names"
    monkeypatch.setenv("AIP_HTTP_PORT", "http")
    with pytest.raises(ValidationError, match="port"):
        parse("--compat", "vertex")


LINK = {
    "SERVICE_HOST": "10.43.7.9",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT_8000_TCP": "tcp://10.43.7.9:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.43.7.9",
    "METRICS_SERVICE_HOST": "10.43.7.10",
    "METRICS_PORT": "tcp://10.43.7.10:9000",
}
"""Variables of the Kubernetes Services resnet-serve and resnet-serve-metrics, beside RESNET_SERVE_PORT."""


@pytest.mark.parametrize("link", ["tcp://10.43.7.9:8000", "udp://10.43.7.9:53", "tcp://[fd00::9]:8000"])
def test_variables_of_kubernetes_are_ignored_with_one_warning(
    link: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (LINK | {"PORT": link}).items():
        monkeypatch.setenv(f"RESNET_SERVE_{name}", value)
    assert parse() == parse("--port", "8000")
    assert parse("--port", "9000").port == 9000
    warned = {record.getMessage().partition(" is ignored")[0] for record in caplog.records}
    assert warned == {f"RESNET_SERVE_PORT={link}"}


def test_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in (*Settings.model_fields, *RENAMED, "isolate"):
        monkeypatch.setenv(f"RESNET_SERVE_{name.upper()}", "")
    assert parse().model_dump() == OfflineSettings().model_dump()
    assert not caplog.records


def test_unknown_variable_is_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RESNET_SERVE_TIMEOUT", "1")
    monkeypatch.setenv("RESNET_SERVE_QQQ", "1")
    assert parse().model_dump() == OfflineSettings().model_dump()
    assert sorted(record.getMessage() for record in caplog.records) == [
        "RESNET_SERVE_QQQ is ignored: there is no such setting; resnet-serve --help lists the settings",
        "RESNET_SERVE_TIMEOUT is ignored: there is no such setting; is RESNET_SERVE_TIMEOUT_MS meant?",
    ]


def test_offline_commands_ignore_the_settings_of_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"PORT": "x", "EXECUTOR": "none", "MODEL": "none", "MAX_IMAGES": "1", "QUEUE_SIZE": "1"}.items():
        monkeypatch.setenv(f"RESNET_SERVE_{name}", value)
    assert OfflineSettings(repository=tmp_path) == OfflineSettings().model_copy(update={"repository": tmp_path})


@pytest.mark.parametrize(("former", "current"), RENAMED.items())
def test_former_names_work_with_a_warning(
    former: str, current: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flag, variable = f"--{former.replace('_', '-')}", f"RESNET_SERVE_{former.upper()}"
    assert getattr(parse(*replace_former_flags([flag, "300"])), current) == 300
    assert getattr(parse(*replace_former_flags([f"{flag}=300"])), current) == 300
    monkeypatch.setenv(variable, "301")
    assert getattr(parse(), current) == 301
    monkeypatch.setenv(f"RESNET_SERVE_{current.upper()}", "302")
    assert getattr(parse(), current) == 302
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [
        flag, flag, variable, variable
    ]  # fmt: skip


def test_isolate_is_accepted_without_effect(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert replace_former_flags(["--port", "1", "--isolate", "--no-isolate"]) == ["--port", "1"]
    monkeypatch.setenv("RESNET_SERVE_ISOLATE", "true")
    assert parse() == Settings()
    assert all("--workers" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 4


def test_current_flags_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--max-images", "2", "--port=1", "copies", "--"]
    assert replace_former_flags(arguments) == arguments
    assert not caplog.records


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--port", "65536"], "port"),
        (["--port", "http"], "port"),
        (["--threads", "0"], "threads"),
        (["--max-batch", "0"], "max_batch"),
        (["--max-delay-ms", "-1"], "max_delay_ms"),
        (["--max-in-flight-images", "0"], "max_in_flight_images"),
        (["--timeout-ms", "0"], "timeout_ms"),
        (["--max-images", "2.5"], "max_images"),
        (["--versions", "newest"], "versions"),
        (["--watch", "never"], "watch"),
        (["--root-path", "vision"], "root_path"),
        (["--examples", "/missing"], "examples"),
        (["--compat", "kserve"], "compat"),
    ],
)
def test_invalid_value_is_refused_by_name(flags: list[str], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse(*flags)
    (error,) = refused.value.errors()
    assert error["loc"] == (field,)


def test_max_images_is_at_most_max_in_flight_images() -> None:
    with pytest.raises(ValidationError, match=r"max_images \(20\).*\(10\): raise max_in_flight_images"):
        parse("--max-in-flight-images", "10", "--max-images", "20")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--prot", "1")
    assert stopped.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None
        assert " ".join(field.description.split()[:6]) in text


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000\n", 6), ("250000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000\n", 6), ("", 6), (None, 6)],
)
def test_cpus_follow_the_affinity_and_the_quota(
    quota: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path) -> str:
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if quota is None:
            raise FileNotFoundError(path)
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_cpus() == expected


def test_both_protocols_need_a_port() -> None:
    with pytest.raises(ValueError, match="grpc_port and port are both 8000: gRPC needs a port of its own"):
        Settings(grpc_port=8000)
    assert Settings(port=0, grpc_port=0).grpc_port == 0
