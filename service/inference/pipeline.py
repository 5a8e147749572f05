"""The path of a request: decode, infer, top-k. For requests over HTTP and, offline, for `resnet-classify`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from models.imaging.errors import DeadlinePassed
from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.errors import DeadlineExceeded, Overloaded, ServiceError
from service.core.priority import Priority
from service.core.settings import Settings
from service.core.threads import lower_priority
from service.decoding.decoder import DecodedFile, Decoder
from service.inference import routing
from service.inference.admission import AdmissionTable
from service.inference.computation import compute
from service.inference.leases import Lease
from service.inference.lookup import ModelLookup
from service.inference.optional_outputs import NONE, OptionalOutputs
from service.inference.response_cache import ResponseCache
from service.inference.results import (
    Classification,
    ImageResult,
    Prediction,
    make_results,
    make_timing,
    with_errors,
)
from service.inference.top_k import select_top_k
from service.messages.backend import Backend
from service.messages.inference import InferenceRequest, InferenceResult
from service.messages.model import ServedModel
from service.telemetry import request_context
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_OUTPUTS = frozenset({"probabilities"})
_WINDOW = 8
"""Images with heat maps that are computed ahead of the line that is sent: a client may read slowly."""
_NOT_COMPUTED = InferenceResult({}, 0.0, 0.0, 0.0, 0)


class Pipeline:
    """Answers requests with the models of a backend.

    Args:
        backend: loads the models and computes.
        decoder: decodes image files; closed with the pipeline.
        settings: limits and defaults.
        metrics: counts predictions.
    """

    def __init__(self, backend: Backend, decoder: Decoder, settings: Settings, metrics: Metrics) -> None:
        self.backend = backend
        self.settings = settings
        self.cache = None if settings.response_cache is None else ResponseCache(settings.response_cache, metrics)
        self.lookup = ModelLookup(backend, None if settings.memory_limit is None else metrics.memory)
        self.admission = AdmissionTable(settings.max_in_flight_images, metrics)
        self._decoder = decoder
        self._drawing = ThreadPoolExecutor(settings.decode_threads, "draw", lower_priority)
        self._metrics = metrics
        metrics.watch_admitted(self.admission.images)
        metrics.watch_decoder_threads(lambda: decoder.threads.held, lambda: decoder.threads.replaced)

    def close(self) -> None:
        """End the threads of the decoder, and those that draw."""
        self._decoder.close()
        self._drawing.shutdown(wait=False, cancel_futures=True)

    async def not_ready(self) -> list[str]:
        """Reasons why the service cannot answer; empty when it is ready."""
        return await self.backend.not_ready() + self._decoder.not_ready()

    def cannot_decode(self) -> bool:
        """Whether all decoder threads are held by images that take longer than their time limit."""
        return self._decoder.threads.exhausted

    def check_admission(self, model: ServedModel, images: int, seconds: float, priority: Priority) -> None:
        """Check whether images can be admitted; arguments are those of `admit`.

        Raises:
            Overloaded: the images are above the capacity, or would not be computed in time.
        """
        try:
            self.admission.of(model).check(images, seconds, priority)
        except Overloaded:
            self.backend.count_refused(model.key)
            raise

    def find(self, name: str | None, version: str | None) -> ServedModel:
        """The version for the current request, without holding it; as `routing.find`."""
        return routing.find(self.backend.catalog, name, version)

    def lease(self, name: str | None = None, version: str | None = None) -> Lease:
        """Hold a version while the lease is entered; by default the current version of the default model."""
        return Lease(self.backend, self.admission, name, version)

    def admit(self, name: str, version: str | None, images: int, seconds: float, priority: Priority) -> Lease:
        """Hold a version and count images as in flight while the lease is entered.

        Args:
            name: name of the model.
            version: version of the model; None for the current one.
            images: number of images.
            seconds: time limit of the request.
            priority: priority of the request.
        """
        return Lease(self.backend, self.admission, name, version, images, seconds, priority)

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, deadline: float, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files; a file that cannot be decoded gives its error in its place.

        Raises:
            DeadlineExceeded: the deadline, in `time.monotonic` seconds, passed.
        """
        started = time.monotonic()
        try:
            if decoded := self._decoder.decode_at_once(files, preprocess):
                return decoded
            async with asyncio.timeout_at(deadline):
                return await self._decoder.decode(files, preprocess, priority, deadline)
        except (TimeoutError, DeadlinePassed):
            raise DeadlineExceeded("the time limit passed while images were decoded: raise timeout_ms") from None
        finally:
            request_context.current().stage("decode", started, time.monotonic() - started)

    async def infer(
        self,
        model: ServedModel,
        images: Sequence[UInt8Array],
        outputs: frozenset[str],
        deadline: float,
        priority: Priority,
        decode_seconds: float = 0.0,
    ) -> tuple[ServedModel, InferenceResult]:
        """Compute images.

        Args:
            model: the version, which the caller holds.
            images: uint8 [H, W, C] each.
            outputs: names of the outputs.
            deadline: `time.monotonic` seconds.
            priority: priority of the request.
            decode_seconds: time that decoding took, for the statistics of the version.

        Returns:
            The version that has computed, and the result. If the traffic policy chose the version, and it failed, the
            version with the largest weight computes.

        Raises:
            ServiceError: as `Backend.submit`.
        """
        only_in_flight = len(self.admission.of(model)) == 1
        request = InferenceRequest(images, outputs, deadline, priority, decode_seconds, only_in_flight)
        return await compute(self.backend, model, request)

    async def classify(
        self,
        model: ServedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        optional: OptionalOutputs = NONE,
        priority: Priority = Priority.interactive,
        *,
        inline_errors: bool = False,
    ) -> Classification:
        """Classify image files.

        Args:
            model: the version, which the caller holds.
            files: encoded images.
            k: number of classes per image.
            timeout_seconds: time limit for decoding, waiting and inference together.
            optional: optional outputs.
            priority: priority of the request.
            inline_errors: put the error of a single image into its result, as for one of several images.

        Raises:
            BadRequest: the model does not have the optional outputs.
            ServiceError: as `infer`, or the error of a single image.
        """
        optional.check(model)
        started = time.monotonic()
        deadline = started + timeout_seconds
        decoded = await self.decode(files, model.preprocess, deadline, priority)
        decoded_at = computed_at = time.monotonic()
        images = [image for image in decoded if isinstance(image, DecodedFile)]
        inference = _NOT_COMPUTED
        results: list[ImageResult] = []
        extras_seconds = 0.0
        if images:
            outputs = _OUTPUTS | optional.outputs if optional else _OUTPUTS
            pixels = [image.pixels for image in images]
            model, inference = await self.infer(model, pixels, outputs, deadline, priority, decoded_at - started)
            computed_at = time.monotonic()
            best = await select_top_k(inference.outputs["probabilities"], model.labels, k)
            results = self._results(model, images, best)
            if optional:
                good = [file for file, image in zip(files, decoded, strict=True) if isinstance(image, DecodedFile)]
                results, extras_seconds = await self._add_optional(optional, model, results, inference, good, deadline)
        if len(images) < len(decoded):
            results = with_errors(decoded, results)
        if len(results) == 1 and results[0].error is not None and not inline_errors:
            raise results[0].error
        finished = time.monotonic()
        context = request_context.current()
        context.stage("postprocess", computed_at, finished - computed_at - extras_seconds)
        context.images += len(images)
        timing = make_timing(decoded_at - started, inference, extras_seconds, finished - started)
        return Classification(model=model.name, version=model.version, results=results, timing=timing)

    def _results(
        self, model: ServedModel, images: Sequence[DecodedFile], best: Sequence[list[Prediction]]
    ) -> list[ImageResult]:
        metrics = self._metrics.model(model.name)
        results = make_results(images, best)
        for result in results:
            if result.error is None:
                best_class = result.predictions[0]
                metrics.prediction(best_class.index, best_class.label, best_class.probability)
        return results

    async def _add_optional(
        self,
        optional: OptionalOutputs,
        model: ServedModel,
        results: list[ImageResult],
        inference: InferenceResult,
        files: Sequence[bytes],
        deadline: float,
    ) -> tuple[list[ImageResult], float]:
        """Add the optional outputs to results; also gives the seconds that it took."""
        started = time.monotonic()
        allowance = self._decoder.allowance(deadline)
        extended = await optional.add(model, results, inference.outputs, files, deadline, self._drawing, allowance)
        seconds = time.monotonic() - started
        request_context.current().stage("extras", started, seconds)
        return extended, seconds

    async def classify_each(
        self,
        model: ServedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        optional: OptionalOutputs = NONE,
        priority: Priority = Priority.interactive,
    ) -> AsyncGenerator[tuple[int, str, ImageResult]]:
        """Classify image files one by one; arguments are those of `classify`.

        Yields:
            (position, version, result) of each image as soon as it is computed, with the version that has computed it.
            An error, the time limit, or a lack of memory is the `error` of its result.
        """
        deadline = time.monotonic() + timeout_seconds
        window = asyncio.Semaphore(_WINDOW if optional.cam is not None else len(files))

        async def classify_one(position: int, file: bytes) -> tuple[int, str, ImageResult]:
            await window.acquire()  # until the result was sent
            try:
                seconds = deadline - time.monotonic()
                answer = await self.classify(model, [file], k, seconds, optional, priority)
            except ServiceError as error:
                # The frames of the traceback would keep the images until the garbage collector runs.
                error.__traceback__ = error.__context__ = None
                return position, model.version, ImageResult(error=error)
            except MemoryError:
                log.warning("out of memory for one of %d images", len(files), exc_info=True)
                return position, model.version, ImageResult(error=Overloaded(1, "memory"))
            return position, answer.version, answer.results[0]

        tasks = [asyncio.create_task(classify_one(position, file)) for position, file in enumerate(files)]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
                window.release()
        finally:
            for task in tasks:
                task.cancel()
