"""Finds out what a machine computes a model best with: every executor, precision, number of threads and batch, in turn.

It needs the service's executors and writes what the service reads, and the service may not measure for minutes while it
starts: so it stands here, where both may be imported, and `resnet-export tune` runs it as a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.timing import visit
from models.artifact import golden, manifest, parity
from models.artifact.manifest import Artifact, Manifest, Precision
from models.artifact.parity import Float32Array
from models.console import console
from models.imaging.preprocess import UInt8Array
from models.progress import progress_bar
from models.runtime import tuning
from models.runtime.tuning import Bounds, Host, Measurement, Tuning
from service import executors
from service.core.settings import available_cpus
from service.engine.arrangement import arrange
from service.executors.base import Executor, ExecutorError, Source, close_all, compute
from service.registry.repository import LoadError, checked

BATCHES = (1, 2, 4, 8, 16, 32)
_SLOWEST = 1.0
"""Seconds a batch; larger ones of that engine are not tried. Under a bound, twice the bound."""
_VISIT = 0.2
"""Seconds of each engine and batch in each round, if there are so many."""
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 12
_RUN = 0.02
"""Seconds of a run, or one batch if that takes longer."""
_REPEATS = 2
_ANSWER = frozenset({"probabilities"})


@dataclass(frozen=True)
class Engine:
    """A loaded executor, which has answered the golden images as it should."""

    executor: str
    precision: Precision
    threads: int
    accuracy_loss: float
    loaded: Sequence[Executor]
    """As many as the service would have."""
    pool: ThreadPoolExecutor
    """A thread for each of them."""

    @property
    def name(self) -> str:
        return f"{self.executor} {self.precision}, {self.threads} threads"


@dataclass(eq=False)
class _Trial:
    """An engine with batches of one size, and what was measured of it so far."""

    engine: Engine
    pixels: UInt8Array
    batches: int
    """In a run, so many that handing them to threads counts for nothing."""
    estimate: float
    """Seconds of a run, of a single batch."""
    seconds: list[float] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)

    def run(self) -> None:
        """So many batches on each executor, on all of them at the same time."""
        for done in [self.engine.pool.submit(self._compute, executor) for executor in self.engine.loaded]:
            done.result()

    def _compute(self, executor: Executor) -> None:
        for _ in range(self.batches):
            compute(executor, self.pixels, _ANSWER)


def tune(version: Path, cache: Path, bounds: Bounds, seconds: float, threads: Sequence[int] = ()) -> Tuning:
    """Measure a version on this machine and keep the result in the engine cache.

    Args:
        version: folder in a model repository.
        cache: folder of the engine cache.
        bounds: what the best must keep within; all is measured all the same.
        seconds: about how long to measure, after everything is loaded.
        threads: numbers of threads to try. Default: powers of two up to all processors, and all.

    Raises:
        ManifestError: the version cannot be read.
        ExecutorError: nothing can compute it here.
        OSError: the result cannot be written.
    """
    described = manifest.read(version)
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    engines = list(load_engines(version, described, images, logits, threads or _thread_counts(), cache))
    if not engines:
        raise ExecutorError(f"{described.name} version {described.version}: no executor here can compute it")
    try:
        measurements = _measure(engines, images, bounds, seconds)
    finally:
        for engine in engines:
            engine.pool.shutdown()
            close_all(engine.loaded)
    result = Tuning(
        schema=1,
        model=described.name,
        version=described.version,
        artifacts=tuning.hashes(described),
        host=Host.here(available_cpus()),
        created=datetime.now(UTC).replace(microsecond=0),
        bounds=bounds,
        measurements=tuple(measurements),
    )
    tuning.write(cache, described, result)
    return result


def load_engines(
    version: Path,
    described: Manifest,
    images: UInt8Array,
    logits: Float32Array,
    threads: Sequence[int],
    cache: Path,
) -> Iterator[Engine]:
    """Everything that computes a version here. What is there and does not is told."""
    for name in executors.names():
        try:
            runtime = executors.find(name)
        except ExecutorError:  # not installed
            continue
        for precision in runtime.artifacts:
            for count in sorted(threads, reverse=True):
                try:
                    artifact = runtime.choose(described, precision)
                    source = Source(version, described, artifact, precision, count, cache=cache)
                    loaded, _ = arrange(checked(runtime, source, images, logits), images, count, None, available_cpus())
                except ExecutorError:
                    break
                except LoadError as error:  # it computes something else
                    console.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
                    break
                if not loaded[0].computes:
                    close_all(loaded)
                    break
                loss = _accuracy_loss(described, artifact, precision, loaded[0], images, logits)
                yield Engine(name, precision, count, loss, loaded, ThreadPoolExecutor(len(loaded)))
                if loaded[0].device != "cpu":  # threads are the host's
                    break


def _accuracy_loss(
    described: Manifest,
    artifact: Artifact,
    precision: Precision,
    loaded: Executor,
    images: UInt8Array,
    logits: Float32Array,
) -> float:
    """What the manifest has measured, and where the executor rounds more than the file, the golden images as well."""
    reference = next((item.accuracy for item in described.artifacts if item.precision == "float32"), None)
    if artifact.accuracy is not None and reference is not None:
        loss = reference.top1 - artifact.accuracy.top1
    else:
        loss = 0.0 if artifact.parity is None else 1 - artifact.parity.top1_agreement
    if precision == artifact.precision:
        return loss
    answers = [compute(loaded, image[None], frozenset({"logits"}))["logits"] for image in images]
    return max(loss, 1 - parity.compare(np.concatenate(answers), logits).top1_agreement)


def _measure(engines: Sequence[Engine], images: UInt8Array, bounds: Bounds, seconds: float) -> list[Measurement]:
    end = time.monotonic() + seconds
    slowest = _SLOWEST if bounds.max_latency_ms is None else 2 * bounds.max_latency_ms / 1000
    trials = [trial for engine in engines for trial in _trials(engine, images, slowest)]
    length = min(_VISIT, seconds / (_LEAST_ROUNDS * len(trials)))
    # One call before it is timed, then as many as fit in the visit.
    possible = int((end - time.monotonic()) / sum(trial.estimate + max(trial.estimate, length) for trial in trials))
    rounds = min(max(possible, _LEAST_ROUNDS), _MOST_ROUNDS)
    with progress_bar("measuring", total=rounds * len(trials), unit="timings") as progress:
        for turn in range(rounds):
            for index, trial in enumerate(trials):
                _visit(trial, length, end)
                progress.update(turn * len(trials) + index + 1)
    return [_measurement(trial) for trial in trials]


def _trials(engine: Engine, images: UInt8Array, slowest: float) -> Iterator[_Trial]:
    for batch in engine.loaded[0].buckets or BATCHES:
        pixels = images[np.arange(batch) % len(images)]
        for executor in engine.loaded:
            compute(executor, pixels, _ANSWER)  # plans the memory of this shape
        started = time.perf_counter()
        compute(engine.loaded[0], pixels, _ANSWER)
        taken = time.perf_counter() - started
        if taken > slowest and batch > 1:
            return
        batches = math.ceil(_RUN / taken)
        yield _Trial(engine, pixels, batches, batches * taken)


def _visit(trial: _Trial, length: float, end: float) -> None:
    """Time a trial; again, while there is time for it, if something else ran meanwhile."""
    for _ in range(1 + _REPEATS):
        timed = visit(trial.run, length)
        if not timed.disturbed or time.monotonic() > end:
            break
    trial.seconds.append(timed.seconds / trial.batches)
    trial.disturbed.append(timed.disturbed)


def _measurement(trial: _Trial) -> Measurement:
    engine, batch = trial.engine, len(trial.pixels)
    seconds = float(np.median(trial.seconds))
    return Measurement(
        executor=engine.executor,
        precision=engine.precision,
        threads=engine.threads,
        batch=batch,
        copies=len(engine.loaded),
        images_per_second=batch * len(engine.loaded) / seconds,
        latency_ms=seconds * 1000,
        accuracy_loss=engine.accuracy_loss,
        rounds=len(trial.seconds),
        disturbed=sum(trial.disturbed) > len(trial.disturbed) / 2,
    )


def _thread_counts() -> list[int]:
    cpus = available_cpus()
    return sorted({1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus} | {cpus})
