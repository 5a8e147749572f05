"""A service of several processes: the two sides of `app`, apart."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from models import malloc
from service.app import create_app, make_pipeline, make_rates, open_gpu_decoder
from service.core.rate_limit import Rates
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.executors.gpu import page_locked
from service.executors.gpu.gpu_batcher import DecodeBatcher
from service.grpc import prepare
from service.http.connection.shared_server import SharedServer
from service.registry.registry import Registry
from service.remote.client import RemoteBackend
from service.remote.gpu_decoder import RemoteGpuDecoder
from service.remote.server import BackendServer
from service.supervisor import launch
from service.supervisor.launch import EngineProcess, Worker
from service.supervisor.worker_count import ask_child
from service.telemetry.loop_lag import LoopLagMonitor
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import check_tracing, otlp_provider

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 2.0
"""A new worker waits for the engine process this long. Then it accepts requests, and says what is missing."""
_MIN_DECODE_BYTES = 256 * 1024 * 1024
"""Enough for the largest image that the default settings allow."""


def serve(settings: Settings, workers: int) -> int:
    """Serve with workers until SIGTERM, SIGINT or SIGHUP. Returns the exit status.

    Raises:
        TracingError: traces cannot be sent.
        ExecutorError: `decode_gpu` is set and the GPU cannot decode.
        FileLimitError: the limit of open files leaves no connections.
        GrpcError: the extra is not installed, or the port cannot be bound.
        KeyFileError: the file of API keys is not valid.
        TlsError: the files for TLS cannot be used.
    """
    if settings.tracing:
        check_tracing()
    if settings.decode_gpu is not None:
        ask_child(lambda: _open_and_close_decoder(settings), "the decoder of the GPU")
    settings, _grpc_port = prepare.reserve(settings)  # kept until the end
    return launch.serve(settings, workers, run_engine, run_worker)


def _open_and_close_decoder(settings: Settings) -> str:
    if (gpu := open_gpu_decoder(settings)) is not None:
        gpu.close()
    return "it decodes"


def run_engine(process: EngineProcess) -> None:
    """Load the models, and compute for the workers until SIGTERM."""
    malloc.return_large_blocks()
    _run(_serve_backend(process))


async def _serve_backend(process: EngineProcess) -> None:
    settings, loop = process.settings, asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    metrics = Metrics(process.sheet, process.sheets)
    registry = Registry(settings, metrics, os.getppid())
    gpu = _open_decoder(settings)
    server = BackendServer(registry, process.listening, make_rates(settings), gpu, page_locked.offer)
    registry.observe(server.catalog_changed)

    def note_loads() -> None:
        models = registry.catalog.models.values()
        process.sheet.loading = registry.catalog.loading or any(model.loading for model in models)

    registry.observe(note_loads)
    lag = LoopLagMonitor(loop, metrics.loop_lag, metrics.beat)
    server.start()

    async def load() -> None:
        try:
            await registry.start(None if gpu is None else gpu.warm_up)
        except Exception:
            log.exception("the models were not loaded")

    tasks = [asyncio.create_task(load()), asyncio.create_task(registry.watch())]
    await stop.wait()
    with suppress(TimeoutError):  # a service manager may send SIGTERM to all processes at once
        async with asyncio.timeout(settings.shutdown_seconds):
            await server.wait_for_workers()
    await registry.close()
    server.close()
    lag.close()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    if gpu is not None:
        gpu.close()


def _open_decoder(settings: Settings) -> DecodeBatcher | None:
    """The decoder on the GPU; None if there is none, or if the GPU is lost since the start of the service."""
    try:
        return open_gpu_decoder(settings)
    except ExecutorError as error:
        log.error("the CPUs decode: %s", error)
        return None


def run_worker(worker: Worker) -> None:
    """Answer requests until SIGTERM."""
    malloc.return_large_blocks()
    settings = share_limits(worker.settings, len(worker.sheets) - 1)
    provider = otlp_provider() if settings.tracing else None
    app = create_app(settings, provider, WorkerSide(worker, settings))
    SharedServer(app, settings, worker.shared, app.state.begin_shutdown).run()


class WorkerSide:
    """The answering side, whose backend is in the engine process.

    Args:
        worker: means of the worker.
        settings: limits of the worker.
    """

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self.keys = worker.keys
        self.metrics = Metrics(worker.sheet, worker.sheets)
        self.backend = RemoteBackend(worker.engine_address)
        self.rates: Rates | None = self.backend if settings.rate_limit else None
        gpu = None if settings.decode_gpu is None else RemoteGpuDecoder(self.backend)
        self.pipeline = make_pipeline(settings, self.backend, self.metrics, gpu)

    async def connect(self) -> None:
        """Connect to the engine process, and wait for a moment until its models are known."""
        self.backend.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self.backend.connected()

    async def start(self) -> None:
        """Nothing: the engine process loads the models."""

    async def watch(self) -> None:
        """End this worker after its requests if no thread can decode: only its end frees what a codec holds."""
        while not self.pipeline.cannot_decode():
            await asyncio.sleep(_LOOK_SECONDS)
        log.error("all decoder threads are held by images: this worker ends after its requests, and is replaced")
        os.kill(os.getpid(), signal.SIGTERM)

    async def close(self) -> None:
        """End the connection, after the requests in flight."""
        await self.backend.close()
        self.pipeline.close()


def share_limits(settings: Settings, workers: int) -> Settings:
    """The settings of one worker: its part of what all workers may take together."""
    return settings.model_copy(
        update={
            "response_cache": settings.response_cache and max(1, settings.response_cache // workers),
            "decode_threads": -(-settings.decode_threads // workers),
            "max_buffered_body_bytes": max(settings.max_buffered_body_bytes // workers, settings.max_body_bytes),
            "max_decode_bytes": max(
                settings.max_decode_bytes // workers, min(settings.max_decode_bytes, _MIN_DECODE_BYTES)
            ),
        }
    )


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run an event loop, that of uvloop if it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)
