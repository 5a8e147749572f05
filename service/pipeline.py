"""The path of a request: decode, submit, top-k. Served over HTTP and used offline by `resnet-classify` alike."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

from service import record, repository
from service.decode import Decoded, Decoder
from service.engine import Result
from service.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable
from service.metrics import Metrics
from service.priority import Priority
from service.repository import LoadedModel, LoadError
from service.schemas import Classification, ImageInfo, ImageResult, Prediction, Problem, Timing
from service.settings import Settings
from service.topk import top_k

log = logging.getLogger(__name__)

_OUTPUTS = frozenset({"probabilities"})


class Pipeline:
    """All models of a repository, behind one decoder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models: dict[str, LoadedModel] = {}
        self.failures: dict[str, str] = {}
        """Why a model is not served, by name."""
        self.loading = True
        self.draining = False
        self._decoder = Decoder(settings.decode_threads, settings.max_pixels)

    async def start(self) -> None:
        """Load and warm up every model; one that fails leaves its reason in `failures`."""
        try:
            found = repository.find_models(self.settings.repository)
            if not found:
                self.failures["repository"] = f"{self.settings.repository} holds no model yet"
            for name, version in found.items():
                try:
                    with self.metrics.loading():
                        model = await asyncio.to_thread(repository.load, version, self.settings, self.metrics)
                except LoadError as error:
                    log.error("%s is not served: %s", name, error)
                    self.failures[name] = str(error)
                    continue
                except Exception as error:  # one broken model must not stop the others, nor pass for a ready service
                    log.exception("%s is not served", name)
                    self.failures[name] = f"cannot be loaded: {error}"
                    continue
                model.engine.start()
                self.models[name] = model
        except (LoadError, OSError) as error:
            log.error("%s", error)
            self.failures["repository"] = str(error)
        finally:
            self.loading = False

    async def close(self) -> None:
        """Finish what was accepted, then free everything."""
        self.draining = True
        for model in self.models.values():
            await model.engine.close()
        self._decoder.close()

    def not_ready(self) -> list[str]:
        """What keeps the service from answering; empty when it is ready."""
        if self.draining:
            return ["shutting down"]
        if self.loading:
            return ["loading and warming up"]
        dead = [f"{name}: its engine has stopped" for name, model in self.models.items() if not model.engine.alive]
        if dead or self.models:
            return dead
        return [f"{name}: {reason}" for name, reason in self.failures.items()]

    def model(self, name: str | None, version: str | None = None) -> LoadedModel:
        """The model of a name, or the default one.

        Raises:
            NotFound: no such model or version.
            Unavailable: nothing is loaded yet.
        """
        if self.loading:
            raise Unavailable("the model is being loaded: try again in a moment")
        name = name or self.settings.model or next(iter(self.models), None)
        if name is None:
            raise Unavailable("; ".join(self.not_ready()))
        if name in self.failures:
            raise Unavailable(f"model {name} is not served: {self.failures[name]}")
        found = self.models.get(name)
        if found is None or version not in (None, found.version):
            there = ", ".join(f"{model.name} version {model.version}" for model in self.models.values())
            wanted = name if version is None else f"{name} version {version}"
            raise NotFound(f"no model {wanted} is served; there is: {there or 'none'}")
        return found

    async def classify(
        self,
        model: LoadedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        priority: Priority = Priority.interactive,
    ) -> Classification:
        """Classify image files.

        Args:
            model: from `model`.
            files: encoded images.
            k: classes to answer for each.
            timeout_seconds: time for decoding, waiting and inference together.
            priority: interactive images pass the bulk ones.

        Raises:
            ServiceError: as the engine's `submit`, or the only image's own error.
        """
        started = time.monotonic()
        deadline = started + timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                decoded = await self._decoder.decode(files, model.manifest.preprocess, priority)
        except TimeoutError:
            raise DeadlineExceeded("the time limit passed while images were decoded: raise timeout_ms") from None
        decoded_at = time.monotonic()
        noted = record.current()
        noted.stage("decode", started, decoded_at - started)
        if len(decoded) == 1 and isinstance(decoded[0], ServiceError):
            raise decoded[0]

        good = [image for image in decoded if isinstance(image, Decoded)]
        result = Result({}, 0.0, 0.0, 0.0, 0)
        predictions: Iterator[list[Prediction]] = iter(())
        if good:
            result = await model.engine.submit([image.pixels for image in good], _OUTPUTS, deadline, priority)
        computed_at = time.monotonic()
        if good:
            best = top_k(result.outputs["probabilities"], model.manifest.labels, k)
            self.metrics.model(model.name).predictions(first for first, *_ in best)
            predictions = iter(best)

        results = [
            ImageResult(error=problem(image))
            if isinstance(image, ServiceError)
            else ImageResult(
                predictions=next(predictions),
                image=ImageInfo(width=image.width, height=image.height, format=image.format),
            )
            for image in decoded
        ]
        finished = time.monotonic()
        noted.stage("postprocess", computed_at, finished - computed_at)
        noted.images += len(good)
        return Classification(
            model=model.name,
            version=model.version,
            results=results,
            timing=Timing(
                decode_ms=_milliseconds(decoded_at - started),
                queue_ms=_milliseconds(result.queue_seconds),
                inference_ms=_milliseconds(result.inference_seconds),
                batch_size=result.batch_size,
                total_ms=_milliseconds(finished - started),
            ),
        )

    async def classify_each(
        self, model: LoadedModel, files: Sequence[bytes], k: int, timeout_seconds: float, priority: Priority
    ) -> AsyncGenerator[tuple[int, ImageResult]]:
        """Classify image files one by one.

        Gives:
            (position, result) of each as soon as it is done; a failure, or the time limit, is an `error` in its place.
        """

        async def one(position: int, file: bytes) -> tuple[int, ImageResult]:
            try:
                answer = await self.classify(model, [file], k, timeout_seconds, priority)
            except ServiceError as error:
                return position, ImageResult(error=problem(error))
            return position, answer.results[0]

        tasks = [asyncio.create_task(one(position, file)) for position, file in enumerate(files)]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()


def problem(error: ServiceError) -> Problem:
    """An error as the caller sees it."""
    return Problem(title=error.title, status=error.status, detail=str(error))


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
