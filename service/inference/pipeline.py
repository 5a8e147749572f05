"""The path of a request: decode, submit, top-k. Served over HTTP and used offline by `resnet-classify` alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.errors import DeadlineExceeded, ServiceError
from service.core.priority import Priority
from service.core.settings import Settings
from service.decoding.decoder import DecodedFile, Decoder
from service.inference.admission import AdmissionTable
from service.inference.leases import AdmittedImages, AdmittedVersion, VersionLease
from service.inference.optional_outputs import NONE, OptionalOutputs
from service.inference.results import Classification, ImageInfo, ImageResult, Timing
from service.inference.top_k import top_k
from service.messages.backend import Backend
from service.messages.inference import InferenceRequest, InferenceResult
from service.messages.model import ServedModel
from service.telemetry import request_context
from service.telemetry.metrics import Metrics

_OUTPUTS = frozenset({"probabilities"})
_NOTHING_COMPUTED = InferenceResult({}, 0.0, 0.0, 0.0, 0)


class Pipeline:
    """Answers requests with the models of a backend.

    Args:
        backend: holds the models and computes.
        decoder: decodes image files; closed with the pipeline.
        settings: limits and defaults.
        metrics: counts predictions.
    """

    def __init__(self, backend: Backend, decoder: Decoder, settings: Settings, metrics: Metrics) -> None:
        self.backend = backend
        self.settings = settings
        self._decoder = decoder
        self._metrics = metrics
        self.admission = AdmissionTable(settings.max_in_flight_images)
        metrics.watch_admitted(self.admission.images)

    def close(self) -> None:
        """End the threads that decode."""
        self._decoder.close()

    def lease(self, name: str | None = None, version: str | None = None) -> VersionLease:
        """Hold a version, the current one of the default model by default, until the lease is left."""
        return VersionLease(self.backend, name, version)

    def check_admission(self, model: ServedModel, images: int, seconds: float, priority: Priority) -> None:
        """Refuse images that would not be admitted.

        Raises:
            Overloaded: they do not fit, or would not be computed in time.
        """
        self.admission.of(model).check(images, seconds, priority)

    def admit_images(self, model: ServedModel, images: int, seconds: float, priority: Priority) -> AdmittedImages:
        """Count images of a version that is held as in flight, until they are answered.

        Args:
            model: the version.
            images: number of images.
            seconds: time limit of the request.
            priority: interactive images pass the bulk ones.
        """
        return AdmittedImages(self.backend, self.admission, model, images, seconds, priority)

    def admit(self, name: str, version: str | None, images: int, seconds: float, priority: Priority) -> AdmittedVersion:
        """Hold a version and count images of it as in flight; arguments are those of `lease` and `admit_images`."""
        return AdmittedVersion(self.backend, self.admission, name, version, images, seconds, priority)

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, deadline: float, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files; a bad one gives its error in its place.

        Raises:
            DeadlineExceeded: the deadline, in `time.monotonic` seconds, passed.
        """
        started = time.monotonic()
        try:
            if decoded := self._decoder.decode_at_once(files, preprocess):
                return decoded
            async with asyncio.timeout_at(deadline):
                return await self._decoder.decode(files, preprocess, priority)
        except TimeoutError:
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
    ) -> InferenceResult:
        """Compute images, uint8 [H, W, C] each.

        Raises:
            ServiceError: as `Backend.submit`.
        """
        submitted = time.monotonic()
        result = await self.backend.submit(
            model.key, InferenceRequest(images, outputs, deadline, priority, decode_seconds)
        )
        _record_stages(result, submitted)
        return result

    async def classify(
        self,
        model: ServedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        extras: OptionalOutputs = NONE,
        priority: Priority = Priority.interactive,
        *,
        inline_errors: bool = False,
    ) -> Classification:
        """Classify image files.

        Args:
            model: the version, which the caller holds until the answer.
            files: encoded images.
            k: number of classes per image.
            timeout_seconds: time limit for decoding, waiting and inference together.
            extras: embeddings and activation maps, if wanted.
            priority: interactive images pass the bulk ones.
            inline_errors: put the error of a single image into its result, as for one of several images.

        Raises:
            BadRequest: the model has no such extras.
            ServiceError: as `infer`, or the error of the single image.
        """
        extras.check(model)
        started = time.monotonic()
        deadline = started + timeout_seconds
        decoded = await self.decode(files, model.preprocess, deadline, priority)
        decoded_at = time.monotonic()
        if len(decoded) == 1 and isinstance(decoded[0], ServiceError) and not inline_errors:
            raise decoded[0]
        good = [image for image in decoded if isinstance(image, DecodedFile)]
        result, answers = _NOTHING_COMPUTED, []
        if good:
            outputs = _OUTPUTS | extras.outputs if extras else _OUTPUTS
            pixels = [image.pixels for image in good]
            result = await self.infer(model, pixels, outputs, deadline, priority, decoded_at - started)
        computed_at = time.monotonic()
        if good:
            answers = self._answers(model, good, result, k)
        extras_seconds = 0.0
        if answers and extras:
            extras_at = time.monotonic()
            sources = [data for data, image in zip(files, decoded, strict=True) if isinstance(image, DecodedFile)]
            answers = await extras.add(model, answers, result.outputs, sources, deadline)
            extras_seconds = time.monotonic() - extras_at
            request_context.current().stage("extras", extras_at, extras_seconds)

        following = iter(answers)
        results = [
            ImageResult(error=image) if isinstance(image, ServiceError) else next(following) for image in decoded
        ]
        finished = time.monotonic()
        context = request_context.current()
        context.stage("postprocess", computed_at, finished - computed_at - extras_seconds)
        context.images += len(good)
        return Classification(
            model=model.name,
            version=model.version,
            results=results,
            timing=Timing(
                decode_ms=_milliseconds(decoded_at - started),
                queue_ms=_milliseconds(result.queue_seconds),
                inference_ms=_milliseconds(result.inference_seconds),
                extras_ms=_milliseconds(extras_seconds) if extras_seconds else None,
                batch_size=result.batch_size,
                total_ms=_milliseconds(finished - started),
            ),
        )

    def _answers(
        self, model: ServedModel, images: Sequence[DecodedFile], result: InferenceResult, k: int
    ) -> list[ImageResult]:
        best = top_k(result.outputs["probabilities"], model.labels, k)
        metrics = self._metrics.model(model.name)
        for predictions in best:
            metrics.prediction(predictions[0].index, predictions[0].label, predictions[0].probability)
        return [
            ImageResult(
                predictions=predictions, image=ImageInfo(width=image.width, height=image.height, format=image.format)
            )
            for image, predictions in zip(images, best, strict=True)
        ]

    async def classify_each(
        self,
        model: ServedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        extras: OptionalOutputs = NONE,
        priority: Priority = Priority.interactive,
    ) -> AsyncGenerator[tuple[int, ImageResult]]:
        """Classify image files one by one; arguments are those of `classify`.

        Yields:
            (position, result) of each image as soon as it is done; a failure, or the time limit, is the `error` of its
            result.
        """

        async def one(position: int, file: bytes) -> tuple[int, ImageResult]:
            try:
                answer = await self.classify(model, [file], k, timeout_seconds, extras, priority)
            except ServiceError as error:
                return position, ImageResult(error=error)
            return position, answer.results[0]

        tasks = [asyncio.create_task(one(position, file)) for position, file in enumerate(files)]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()


def _record_stages(result: InferenceResult, submitted: float) -> None:
    """Put the stages of inference into the context of the request."""
    context = request_context.current()
    context.batch_size = max(context.batch_size, result.batch_size)
    start = submitted
    for stage, seconds in (
        ("queue", result.queue_seconds),
        ("assembly", result.assembly_seconds),
        ("inference", result.inference_seconds),
    ):
        context.stage(stage, start, seconds)
        start += seconds


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e6) / 1e3  # to round to digits takes three times as long
