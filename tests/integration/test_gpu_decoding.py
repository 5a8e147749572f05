"""A service that decodes on a GPU, in place of which the host decodes."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from service import processes
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.inference.results import Classification
from service.messages.wire import Kind
from service.remote import address
from service.supervisor.launch import EngineProcess, Worker
from service.telemetry.sheet import Sheet
from tests.support.host_jpeg import HostJpeg
from tests.support.service import TIMEOUT, serve
from tests.support.tiny import Photographs


def settings(repository: Path, jpeg: HostJpeg, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("service.app.open_decoder", lambda gpu, max_pixels: jpeg)
    return Settings(repository=repository, decode_gpu=0, watch="off")


def test_decoder_is_warm_before_the_service_is_ready(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg, load = HostJpeg(held=True), Event()
    load.set()
    with serve(settings(tiny_repository, jpeg, monkeypatch), load) as client:
        assert jpeg.begun.wait(TIMEOUT)
        assert client.get("/readyz").status_code == 503
        jpeg.go_on.set()
        assert client.loaded.wait(TIMEOUT)
        assert client.get("/readyz").status_code == 200
    assert {files for _, files in jpeg.calls} == {1, 32}
    assert len({thread for thread, _ in jpeg.calls}) == 2
    assert len(jpeg.sizes) == 3


def test_failed_warm_up_is_not_fatal(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = HostJpeg(error=RuntimeError("the device is gone"))
    with caplog.at_level(logging.WARNING), serve(settings(tiny_repository, broken, monkeypatch)) as client:
        assert client.get("/readyz").status_code == 200
    assert "decode_gpu: the warm-up failed" in caplog.text
    assert "the device is gone" in caplog.text


@pytest.mark.parametrize("lost", [False, True], ids=["GPU", "GPU that is lost since the start"])
def test_engine_process_decodes_for_a_worker(
    tiny_repository: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    jpeg = HostJpeg()

    def open_decoder(gpu: int | None, max_pixels: int) -> HostJpeg:
        if lost:
            raise ExecutorError("there is no GPU 0")
        return jpeg

    async def test() -> Classification:
        listening, sheets = address.listen(), [Sheet("worker-1"), Sheet("engine")]
        engine = asyncio.create_task(processes._serve_backend(EngineProcess(options, sheets[1], sheets, listening)))
        unused: Any = None
        worker = processes.WorkerSide(
            Worker(1, options, sheets[0], sheets, listening.getsockname(), unused, None), options
        )
        receivers, changed = worker.backend.connection.receivers, asyncio.Event()
        take_catalog = receivers[Kind.CATALOG]

        def take_catalog_and_notify(body: memoryview) -> None:
            take_catalog(body)
            changed.set()

        receivers[Kind.CATALOG] = take_catalog_and_notify
        await worker.connect()
        while worker.backend.catalog.loading:
            changed.clear()
            await changed.wait()
        with worker.pipeline.lease() as model:
            answer = await worker.pipeline.classify(model, [data for _, data in photographs], 1, TIMEOUT)
        await worker.close()
        os.kill(os.getpid(), signal.SIGTERM)  # ends the engine process, which this process plays
        await engine
        listening.close()
        return answer

    options = settings(tiny_repository, jpeg, monkeypatch)
    monkeypatch.setattr("service.app.open_decoder", open_decoder)
    answer = asyncio.run(asyncio.wait_for(test(), TIMEOUT))
    sizes = [Image.open(io.BytesIO(data)).size for _, data in photographs]
    assert [(each.image.width, each.image.height) for each in answer.results if each.image is not None] == sizes
    assert jpeg.sizes >= (set() if lost else set(sizes))
    assert bool(jpeg.calls) is not lost


def test_decoder_that_cannot_be_opened_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def refuse(gpu: int | None, max_pixels: int) -> HostJpeg:
        if os.getpid() == parent:  # a process that has used a GPU cannot be forked
            return HostJpeg()
        raise ExecutorError(f"decode_gpu needs an NVIDIA GPU: there is no GPU {gpu}")

    monkeypatch.setattr("service.app.open_decoder", refuse)
    with pytest.raises(ExecutorError, match="decode_gpu needs an NVIDIA GPU: there is no GPU 7"):
        processes.serve(Settings(decode_gpu=7), 2)
