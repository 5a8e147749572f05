"""JPEG files decoded and resized on a GPU: throughput, and the difference to the host's pixels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from models.imaging.images import DEFAULT_MAX_PIXELS
from models.imaging.preprocess import Preprocess
from service.decoding.decoder import decode
from service.executors.gpu.gpu_jpeg import JpegDecoder

PREPROCESS = Preprocess(size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_TOGETHER = (1, 8, 32)
_SECONDS = 1.0


@dataclass(frozen=True)
class DecoderRate:
    """Throughput of a decoder."""

    where: str
    """`GPU` or `CPUs`."""
    threads: int
    together: int
    """Files per call."""
    per_second: float
    """Photographs per second."""


@dataclass(frozen=True)
class Difference:
    """Difference between the pixels of the GPU and of the host, of 255."""

    photographs: int
    on_gpu: int
    """Photographs that the GPU decoded; the host decodes the others."""
    largest: int
    share: float
    """Share of the values that differ."""


def examine(files: Sequence[bytes]) -> tuple[Difference, list[DecoderRate]]:
    """Compare and time the decoder of the first GPU on photographs in turn.

    Raises:
        ExecutorError: the GPU has no decoder.
    """
    decoder = JpegDecoder(0, DEFAULT_MAX_PIXELS)
    try:
        difference = _compare(decoder, files)
        rates = [
            _rate("GPU", threads, together, lambda some: decoder.decode(some, PREPROCESS), files)
            for threads in (1, 2)
            for together in _TOGETHER
        ]
    finally:
        decoder.close()
    cpus = len(os.sched_getaffinity(0))
    rates.append(_rate("CPUs", cpus, 1, lambda some: decode(some[0], PREPROCESS, "exact"), files))
    return difference, rates


def _compare(decoder: JpegDecoder, files: Sequence[bytes]) -> Difference:
    pairs = [
        (cut.pixels.astype(int), decode(data, PREPROCESS, "exact").pixels)
        for data, cut in zip(files, decoder.decode(files, PREPROCESS), strict=True)
        if cut is not None
    ]
    differences = np.array([np.abs(on_gpu - on_host) for on_gpu, on_host in pairs])
    return Difference(len(files), len(pairs), int(differences.max()), float((differences > 0).mean()))


def _rate(
    where: str, threads: int, together: int, run: Callable[[list[bytes]], object], files: Sequence[bytes]
) -> DecoderRate:
    some = [files[index % len(files)] for index in range(together)]

    def work(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            run(some)
            done += together
        return done

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: run(some), range(2 * threads)))  # the first call of a thread creates its decoder
        started = time.perf_counter()
        done = sum(pool.map(work, [started + _SECONDS] * threads))
        return DecoderRate(where, threads, together, done / (time.perf_counter() - started))
