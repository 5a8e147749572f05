"""JPEG files on a GPU, decoded and brought to a network's size: how fast, and how far from the host's pixels."""

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
from service.executors.cuda.gpu_jpeg import JpegDecoder

PREPROCESS = Preprocess(size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_TOGETHER = (1, 8, 32)
_SECONDS = 1.0


@dataclass(frozen=True)
class Rate:
    """Photographs a second, decoded by so many threads so many at a time."""

    where: str
    threads: int
    together: int
    per_second: float


@dataclass(frozen=True)
class Difference:
    """Between the GPU's pixels and the host's, of 255."""

    photographs: int
    on_gpu: int
    """Of these, decoded there; the others are left to the host."""
    largest: int
    share: float
    """Of all values, those that differ at all."""


def examine(files: Sequence[bytes]) -> tuple[Difference, list[Rate]]:
    """Compare and time the decoder of the first GPU. Each photograph is taken in turn.

    Raises:
        ExecutorError: there is no decoder.
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
    processors = len(os.sched_getaffinity(0))
    rates.append(_rate("processors", processors, 1, lambda some: decode(some[0], PREPROCESS, "exact"), files))
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
) -> Rate:
    some = [files[index % len(files)] for index in range(together)]

    def work(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            run(some)
            done += together
        return done

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: run(some), range(2 * threads)))  # the first call of a thread makes its decoder
        started = time.perf_counter()
        done = sum(pool.map(work, [started + _SECONDS] * threads))
        return Rate(where, threads, together, done / (time.perf_counter() - started))
