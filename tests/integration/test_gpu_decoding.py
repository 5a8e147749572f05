"""A service that decodes on a GPU, in place of which the host decodes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from threading import Event

import pytest

from service import processes
from service.core.settings import Settings
from service.executors.base import ExecutorError
from tests.support.host_jpeg import HostJpeg
from tests.support.service import TIMEOUT, serve


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


def test_decoder_that_cannot_be_opened_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def refuse(gpu: int | None, max_pixels: int) -> HostJpeg:
        if os.getpid() == parent:  # a process that has used a GPU cannot be forked
            return HostJpeg()
        raise ExecutorError(f"decode_gpu needs an NVIDIA GPU: there is no GPU {gpu}")

    monkeypatch.setattr("service.app.open_decoder", refuse)
    with pytest.raises(ExecutorError, match="decode_gpu needs an NVIDIA GPU: there is no GPU 7"):
        processes.serve(Settings(decode_gpu=7), 2)
