"""The path of a request: decode, submit, top-k. Served over HTTP and used offline by `resnet-classify` alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.errors import DeadlineExceeded, ServiceError
from service.core.priority import Priority
from service.core.settings import Settings
from service.decoding.decoder import Decoded, Decoder
from service.engine.engine import Result
from service.executors.cuda.gpu_jpeg import open_decoder
from service.http.v1.schemas import Classification, ImageInfo, ImageResult, Problem, Timing
from service.inference.extras import NOTHING, Extras
from service.inference.top_k import top_k
from service.registry.registry import Registry
from service.registry.repository import LoadedModel
from service.telemetry import request_context
from service.telemetry.metrics import Metrics

_OUTPUTS = frozenset({"probabilities"})


class Pipeline:
    """The models of a repository, behind one decoder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.registry = Registry(settings, self.metrics)
        jpeg = open_decoder(settings.decode_gpu, settings.max_pixels)
        self._decoder = Decoder(settings.decode_threads, settings.max_pixels, settings.decode, jpeg)

    async def start(self) -> None:
        """Load and warm up every model; one that fails leaves its reason in the registry."""
        await self.registry.start()

    async def close(self) -> None:
        """Finish what was accepted, then free everything."""
        await self.registry.close()
        self._decoder.close()

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, deadline: float, priority: Priority
    ) -> list[Decoded | ServiceError]:
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
        model: LoadedModel,
        images: Sequence[UInt8Array],
        outputs: frozenset[str],
        deadline: float,
        priority: Priority,
        decode_seconds: float = 0.0,
    ) -> Result:
        """Compute images, uint8 [H, W, C] each, and count the request in the version's statistics.

        Raises:
            ServiceError: as the engine's `submit`.
        """
        started = time.monotonic() - decode_seconds
        try:
            result = await model.engine.submit(images, outputs, deadline, priority)
        except ServiceError:
            model.statistics.failed(time.monotonic() - started)
            raise
        total = time.monotonic() - started
        model.statistics.succeeded(len(images), decode_seconds, result.queue_seconds, result.inference_seconds, total)
        return result

    async def classify(
        self,
        model: LoadedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        extras: Extras = NOTHING,
        priority: Priority = Priority.interactive,
        *,
        inline_errors: bool = False,
    ) -> Classification:
        """Classify image files.

        Args:
            model: held by the caller until the answer, see `Registry.use`.
            files: encoded images.
            k: classes to answer for each.
            timeout_seconds: time for decoding, waiting and inference together.
            extras: what is wanted beside labels.
            priority: interactive images pass the bulk ones.
            inline_errors: give the error of an only image in its place too, as that of one among several.

        Raises:
            BadRequest: the model cannot give the extras.
            ServiceError: as `infer`, or the only image's own error.
        """
        extras.check(model)
        started = time.monotonic()
        deadline = started + timeout_seconds
        decoded = await self.decode(files, model.manifest.preprocess, deadline, priority)
        decoded_at = time.monotonic()
        if len(decoded) == 1 and isinstance(decoded[0], ServiceError) and not inline_errors:
            raise decoded[0]
        good = [image for image in decoded if isinstance(image, Decoded)]
        result = Result({}, 0.0, 0.0, 0.0, 0)
        answers: list[ImageResult] = []
        extras_seconds = 0.0
        if good:
            pixels = [image.pixels for image in good]
            wanted = _OUTPUTS | extras.outputs if extras else _OUTPUTS
            result = await self.infer(model, pixels, wanted, deadline, priority, decoded_at - started)
        noted = request_context.current()
        computed_at = time.monotonic()
        if good:
            best = top_k(result.outputs["probabilities"], model.manifest.labels, k)
            self.metrics.model(model.name).predictions([predictions[0] for predictions in best])
            answers = [
                ImageResult(
                    predictions=predictions,
                    image=ImageInfo(width=image.width, height=image.height, format=image.format),
                )
                for image, predictions in zip(good, best, strict=True)
            ]
        if answers and extras:
            extras_at = time.monotonic()
            sources = [data for data, image in zip(files, decoded, strict=True) if isinstance(image, Decoded)]
            answers = await extras.add(model, answers, result.outputs, sources, deadline)
            extras_seconds = time.monotonic() - extras_at
            noted.stage("extras", extras_at, extras_seconds)

        answered = iter(answers)
        results = [
            ImageResult(error=problem(image)) if isinstance(image, ServiceError) else next(answered)
            for image in decoded
        ]
        finished = time.monotonic()
        noted.stage("postprocess", computed_at, finished - computed_at - extras_seconds)
        noted.images += len(good)
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

    async def classify_each(
        self,
        model: LoadedModel,
        files: Sequence[bytes],
        k: int,
        timeout_seconds: float,
        extras: Extras = NOTHING,
        priority: Priority = Priority.interactive,
    ) -> AsyncGenerator[tuple[int, ImageResult]]:
        """Classify image files one by one; arguments are those of `classify`.

        Gives:
            (position, result) of each as soon as it is done; a failure, or the time limit, is an `error` in its place.
        """

        async def one(position: int, file: bytes) -> tuple[int, ImageResult]:
            try:
                answer = await self.classify(model, [file], k, timeout_seconds, extras, priority)
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
    return round(seconds * 1e6) / 1e3  # to round to digits takes three times as long
