"""Replicas of Ray Serve: their settings, their CPUs and their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.core import cpus
from service.ray_serve.autoscaling import QUEUE_IMAGES, QueuePolicy
from service.ray_serve.settings import SettingsError, make_settings


@dataclass
class Context:
    """Images that wait by replica, and requests that wait in the proxies, as Ray passes them to a policy."""

    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None
    total_queued_requests: float = 0.0
    target_num_replicas: int = 3


@pytest.mark.parametrize(
    ("metrics", "queued", "replicas"),
    [
        pytest.param({QUEUE_IMAGES: {"a": 0.0, "b": 0.0}}, 0.0, 0.0, id="idle"),
        pytest.param({QUEUE_IMAGES: {"a": 10.0, "b": 38.0}}, 0.0, 3.0, id="images wait"),
        pytest.param({QUEUE_IMAGES: {"a": 16.0}}, 48.0, 4.0, id="requests wait in the proxies too"),
        pytest.param({"another": {"a": 99.0}}, 48.0, 3, id="no replica has reported the metric"),
        pytest.param(None, 0.0, 3, id="no replica has reported"),
    ],
)
def test_replicas_follow_the_images_that_wait(metrics: Any, queued: float, replicas: float) -> None:
    assert QueuePolicy(16.0)(Context(metrics, queued)) == (replicas, {})


def test_settings_come_from_options_then_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNET_SERVE_REPOSITORY", str(tmp_path))
    monkeypatch.setenv("RESNET_SERVE_TIMEOUT_MS", "500")
    settings = make_settings({"timeout_ms": "250", "versions": "all"})
    assert (settings.repository, settings.timeout_ms, settings.versions) == (tmp_path, 250.0, "all")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"repostory": "/models"}, "repostory: Extra inputs are not permitted"),
        ({"timeout_ms": "soon"}, "timeout_ms: Input should be a valid number"),
        ({"grpc_port": 8001}, "grpc_port cannot be used in Ray Serve: its proxies take HTTP only"),
        ({"workers": 4}, "workers cannot be used in Ray Serve: a replica is one process"),
        ({"ssl_certfile": "/tls.pem"}, "ssl_certfile cannot be used in Ray Serve"),
        ({"admin": True, "api_keys": "/keys.toml"}, "admin cannot be used in Ray Serve"),
    ],
)
def test_other_settings_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_settings(options)
    assert str(caught.value).startswith(sentence)


def test_replica_takes_no_more_cpus_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(cpus, "_limit", None)
    everything = cpus.available_cpus()  # under a quota of the container, less than sixteen
    cpus.limit_cpus(1)
    assert cpus.available_cpus() == 1 < everything or everything == 1
    cpus.limit_cpus(64)
    assert cpus.available_cpus() == everything
