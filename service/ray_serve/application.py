"""The service as an application of Ray Serve: `serve run service.ray_serve.application:build repository=FOLDER`.

Each replica is the whole service in one process, with its own queue; the proxies of Ray Serve take the place of its
HTTP server. Needs the extra `ray`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models import malloc
from service import executors
from service.app import Service, create_app
from service.core import cpus
from service.core.settings import Settings
from service.http.access_log import REQUEST_ID
from service.ray_serve.autoscaling import QUEUE_IMAGES, QueuePolicy
from service.ray_serve.settings import make_settings
from service.telemetry import log_config
from service.telemetry.tracing import otlp_provider


def build(options: dict[str, Any]) -> serve.Application:
    """Build the application: `args` of the Serve config are settings of the service, such as `repository`.

    Settings that are not given come from the environment of the replica, RESNET_SERVE_ and the name in capitals.
    """
    return Replica.bind(options)  # type: ignore[attr-defined]  # the decorators return a Deployment


@serve.deployment(
    name="resnet-serve",
    # More than max_in_flight_images (512): the replica, not a queue of Ray, decides which requests to refuse, and
    # gives them 503 with Retry-After. The second limit holds per proxy while no replica takes requests.
    max_ongoing_requests=1024,
    max_queued_requests=1024,
    backpressure_config={"status_code": 503, "retry_after_s": 1},
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 20,
        "upscale_delay_s": 30,
        "downscale_delay_s": 300,
        "policy": {"policy_function": QueuePolicy},
    },
    health_check_period_s=5,
    health_check_timeout_s=10,
    # As long as the service itself waits for its requests, and the two seconds of the first look.
    graceful_shutdown_timeout_s=32,
    # A new replica takes requests before an old one ends.
    max_surge_percent=100,
)
@serve.ingress()
class Replica:
    """One replica.

    Args:
        options: settings by name, as of `build`.

    Raises:
        SettingsError: a setting is not valid, or cannot be used in Ray Serve.
        ExecutorError: there is no such executor, or it is not installed.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        # Ray gives a replica a number of CPUs, and does not keep it to them.
        if assigned := ray.get_runtime_context().get_assigned_resources().get("CPU"):
            cpus.limit_cpus(max(1, int(assigned)))
        self._settings = make_settings(options)
        executors.find(self._settings.executor)
        log_config.configure(self._settings.log_format, self._settings.log_level)
        malloc.return_large_blocks()
        self._service = _LoadedService(self._settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve calls this after the constructor, then runs the startup of the application."""
        app = create_app(self._settings, otlp_provider() if self._settings.tracing else None, self._service)
        app.add_middleware(_without_request_id)
        return app

    async def check_health(self) -> None:
        """Raise what `/readyz` says if the replica cannot answer: Ray then replaces it.

        The first check waits for the models, so a new replica takes requests when it is ready.
        """
        await self._service.loaded.wait()
        if reasons := await self._service.pipeline.not_ready():
            raise RuntimeError(f"not ready: {'; '.join(reasons)}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The metric that `QueuePolicy` reads."""
        return {QUEUE_IMAGES: sum(self._service.metrics.queue_images.read().values())}


def _without_request_id(app: ASGIApp) -> ASGIApp:
    """ASGI middleware that drops the response header X-Request-Id: the proxy adds it to each response."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0] != REQUEST_ID]
            await send(message)

        await app(scope, receive, send_without)

    return call


class _LoadedService(Service):
    """Both sides of the service, with an event that is set after the first load."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.loaded = asyncio.Event()

    async def start(self) -> None:
        try:
            await super().start()
        finally:
            self.loaded.set()
