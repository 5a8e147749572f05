"""Trials of `resnet-serve tune`: every executor, precision, number of threads and batch size, timed in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models.artifact import golden, manifest, parity
from models.artifact.manifest import Artifact, Manifest, Precision
from models.artifact.parity import Float32Array
from models.console import console
from models.imaging.preprocess import UInt8Array
from models.progress import progress_bar
from models.runtime import tuning
from models.runtime.tuning import Bounds, Host, Measurement, TuningProfile
from service import executors
from service.cli.tune_timing import time_calls
from service.core.cpus import available_cpus
from service.engine.instance_group import plan_instances
from service.executors import Runtime
from service.executors.base import Executor, ExecutorError, Source, close_all, compute
from service.registry.loader import multiply_adds
from service.registry.repository import LoadError
from service.registry.verification import load_verified

BATCHES = (1, 2, 4, 8, 16, 32)
_MAX_BATCH_SECONDS = 1.0
"""Larger batches of an engine are not tried beyond this time. With a latency bound: twice the bound."""
_TIMING_SECONDS = 0.2
"""Time per engine and batch size in each round, if there is enough time."""
_MIN_ROUNDS, _MAX_ROUNDS = 3, 12
_RUN_SECONDS = 0.02
"""Time of a run, or one batch if that takes longer."""
_REPEATS = 2
_OUTPUTS = frozenset({"probabilities"})


@dataclass(frozen=True)
class Candidate:
    """Loaded instances of an executor in one precision, checked on the golden images."""

    executor: str
    precision: Precision
    threads: int
    accuracy_loss: float
    instances: Sequence[Executor]
    """As many as the service would have."""
    pool: ThreadPoolExecutor
    """A thread per instance."""


@dataclass(eq=False)
class _Trial:
    """A candidate with one batch size, and its timings so far."""

    candidate: Candidate
    pixels: UInt8Array
    batches: int
    """Batches per run and instance, so many that the hand-over to threads does not count."""
    estimate: float
    """Expected seconds of a run."""
    seconds: list[float] = field(default_factory=list)
    """Time of a batch in each round."""
    disturbed: list[bool] = field(default_factory=list)

    def run(self) -> None:
        """Compute the batches on all instances at the same time."""
        for done in [self.candidate.pool.submit(self._compute, instance) for instance in self.candidate.instances]:
            done.result()

    def _compute(self, instance: Executor) -> None:
        for _ in range(self.batches):
            compute(instance, self.pixels, _OUTPUTS)


def tune(
    version: Path,
    cache: Path,
    bounds: Bounds,
    seconds: float,
    threads: Sequence[int] = (),
    requested: Sequence[str] = (),
) -> TuningProfile:
    """Measure a version on this machine and store the profile in the engine cache.

    Args:
        version: folder in a model repository.
        cache: folder of the engine cache.
        bounds: limits of the best measurement; candidates beyond them are measured too.
        seconds: approximate time to measure, after all candidates are loaded.
        threads: numbers of threads to try. Default: powers of two up to the number of CPUs, and that number.
        requested: executors to try. Default: all that are installed.

    Raises:
        ManifestError: the version cannot be read.
        ExecutorError: no executor on this machine can compute it, or one that was requested is not installed.
        OSError: the profile cannot be written.
    """
    described = manifest.read(version)
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    names = list(requested) or executors.names()
    runtimes = list(_find_runtimes(names, required=bool(requested)))
    candidates = list(load_candidates(version, described, images, logits, threads or _thread_counts(), cache, runtimes))
    if not candidates:
        raise ExecutorError(f"{described.name} version {described.version}: no executor here can compute it")
    try:
        measurements = _measure(candidates, images, bounds, seconds)
    finally:
        for candidate in candidates:
            candidate.pool.shutdown()
            close_all(candidate.instances)
    profile = TuningProfile(
        schema=1,
        model=described.name,
        version=described.version,
        artifacts=tuning.hashes(described),
        host=Host.here(available_cpus()),
        created=datetime.now(UTC).replace(microsecond=0),
        bounds=bounds,
        measurements=tuple(measurements),
    )
    tuning.write(cache, described, profile)
    return profile


def _find_runtimes(names: Sequence[str], required: bool) -> Iterator[Runtime]:
    """The executors that are installed; raises ExecutorError for another one if it is required."""
    for name in names:
        try:
            yield executors.find(name)
        except ExecutorError:
            if required:
                raise


def load_candidates(
    version: Path,
    described: Manifest,
    images: UInt8Array,
    logits: Float32Array,
    threads: Sequence[int],
    cache: Path,
    runtimes: Sequence[Runtime],
) -> Iterator[Candidate]:
    """Everything that computes a version on this machine; prints the candidates whose answers are wrong."""
    for runtime in runtimes:
        for precision in runtime.artifacts:
            for count in sorted(threads, reverse=True):
                try:
                    artifact = runtime.select_artifact(described, precision)
                    source = Source(version, described, artifact, precision, count, cache=cache)
                    plan = plan_instances(
                        runtime.device, available_cpus(), multiply_adds(version, described), threads=count
                    )
                    loaded = load_verified(runtime, source, plan.instances).executors
                except ExecutorError:
                    break
                except LoadError as error:
                    console.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
                    break
                if not loaded[0].computes:
                    close_all(loaded)
                    break
                loss = _accuracy_loss(described, artifact, precision, loaded[0], images, logits)
                yield Candidate(runtime.name, precision, count, loss, loaded, ThreadPoolExecutor(len(loaded)))
                if loaded[0].device != "cpu":  # threads are those of the host
                    break


def _accuracy_loss(
    described: Manifest,
    artifact: Artifact,
    precision: Precision,
    loaded: Executor,
    images: UInt8Array,
    logits: Float32Array,
) -> float:
    """The loss that the manifest records; if the executor rounds more than the file, at least that on golden images."""
    reference = next((item.accuracy for item in described.artifacts if item.precision == "float32"), None)
    if artifact.accuracy is not None and reference is not None:
        loss = reference.top1 - artifact.accuracy.top1
    else:
        loss = 0.0 if artifact.parity is None else 1 - artifact.parity.top1_agreement
    if precision == artifact.precision:
        return loss
    answers = [compute(loaded, image[None], frozenset({"logits"}))["logits"] for image in images]
    return max(loss, 1 - parity.compare(np.concatenate(answers), logits).top1_agreement)


def _measure(candidates: Sequence[Candidate], images: UInt8Array, bounds: Bounds, seconds: float) -> list[Measurement]:
    end = time.monotonic() + seconds
    longest = _MAX_BATCH_SECONDS if bounds.max_latency_ms is None else 2 * bounds.max_latency_ms / 1000
    trials = [trial for candidate in candidates for trial in _trials(candidate, images, longest)]
    length = min(_TIMING_SECONDS, seconds / (_MIN_ROUNDS * len(trials)))
    # Each timing has one call that does not count, then as many calls as fit in its time.
    possible = int((end - time.monotonic()) / sum(trial.estimate + max(trial.estimate, length) for trial in trials))
    rounds = min(max(possible, _MIN_ROUNDS), _MAX_ROUNDS)
    with progress_bar("measuring", total=rounds * len(trials), unit="timings") as progress:
        for turn in range(rounds):
            for index, trial in enumerate(trials):
                _time(trial, length, end)
                progress.update(turn * len(trials) + index + 1)
    return [_measurement(trial) for trial in trials]


def _trials(candidate: Candidate, images: UInt8Array, longest: float) -> Iterator[_Trial]:
    for batch in candidate.instances[0].buckets or BATCHES:
        pixels = images[np.arange(batch) % len(images)]
        for instance in candidate.instances:
            compute(instance, pixels, _OUTPUTS)  # plans the memory of this shape
        started = time.perf_counter()
        compute(candidate.instances[0], pixels, _OUTPUTS)
        taken = time.perf_counter() - started
        if taken > longest and batch > 1:
            return
        batches = math.ceil(_RUN_SECONDS / taken)
        yield _Trial(candidate, pixels, batches, batches * taken)


def _time(trial: _Trial, length: float, end: float) -> None:
    """Time a trial; repeat it if other processes disturbed it and there is time left."""
    for _ in range(1 + _REPEATS):
        timed = time_calls(trial.run, length)
        if not timed.disturbed or time.monotonic() > end:
            break
    trial.seconds.append(timed.seconds / trial.batches)
    trial.disturbed.append(timed.disturbed)


def _measurement(trial: _Trial) -> Measurement:
    candidate, batch = trial.candidate, len(trial.pixels)
    seconds = float(np.median(trial.seconds))
    return Measurement(
        executor=candidate.executor,
        precision=candidate.precision,
        threads=candidate.threads,
        batch=batch,
        instances=len(candidate.instances),
        images_per_second=batch * len(candidate.instances) / seconds,
        latency_ms=seconds * 1000,
        accuracy_loss=candidate.accuracy_loss,
        rounds=len(trial.seconds),
        disturbed=sum(trial.disturbed) > len(trial.disturbed) / 2,
    )


def _thread_counts() -> list[int]:
    cpus = available_cpus()
    return sorted({1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus} | {cpus})
