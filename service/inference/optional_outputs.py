"""Optional outputs of a request, from the same forward pass as the labels: embeddings and class activation maps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from enum import StrEnum

from models.artifact.manifest import LAYER_OUTPUTS
from models.artifact.parity import Float32Array
from models.imaging import images
from models.imaging.allowance import Allowance
from models.imaging.errors import DeadlinePassed, TooMuchMemory
from service.core.errors import BadRequest, DeadlineExceeded, PayloadTooLarge
from service.inference import activation_maps
from service.inference.results import ImageResult
from service.messages.model import ServedModel


class Cam(StrEnum):
    """Form of class activation maps."""

    values = "values"
    """Numbers."""
    overlay = "overlay"
    """A transparent PNG to lay over the image."""
    picture = "picture"
    """A PNG of the image with the map over it."""


_MAX_MAPS = {Cam.values: 1280, Cam.overlay: 1280, Cam.picture: 64}
"""Most maps in one response: a picture can take 3 MB."""
_SMALL = {None: 1024, Cam.values: 32, Cam.overlay: 16, Cam.picture: 0}
"""Most predictions in a response that is written on the event loop, in about 2 ms."""
_SMALL_EMBEDDINGS = 4


_WITHOUT_OUTPUT = (
    "it is an ensemble, or was imported from an ONNX file without that output. Request no {}, or import the weights "
    "instead of the ONNX file"
)


def embedding_output(layer: int | None) -> str:
    """Output of the graph with the pooled features of a stage; without one, those before the classifier."""
    return "embedding" if layer is None else f"layer{layer}"


def check_embedding(model: ServedModel, layer: int | None) -> None:
    """Check that a model has the pooled features of a stage, or those before the classifier.

    Raises:
        BadRequest: it has not.
    """
    name = embedding_output(layer)
    if name in model.outputs:
        return
    version = f"{model.name} version {model.version} has no {name}"
    if layer is None:
        raise BadRequest(f"embedding: {version}: {_WITHOUT_OUTPUT.format('embedding')}")
    layers = ", ".join(output for output in model.outputs if output in LAYER_OUTPUTS)
    raise BadRequest(
        f"layer: {version}: "
        + (f"it has {layers}" if layers else "export its checkpoint again with resnet-export build --layers")
    )


@dataclass(frozen=True, slots=True)
class OptionalOutputs:
    """The optional outputs of one request."""

    embedding: bool = False
    cam: Cam | None = None
    layer: int | None = None
    """Stage whose pooled features are the embedding; None for those before the classifier."""

    def __bool__(self) -> bool:
        """Whether there is any output."""
        return self.embedding or self.cam is not None

    @property
    def outputs(self) -> frozenset[str]:
        """Outputs of the graph that they are made from."""
        names = {embedding_output(self.layer): self.embedding, "feature_map": self.cam is not None}
        return frozenset(name for name, needed in names.items() if needed)

    def check(self, model: ServedModel) -> None:
        """Check that a model has the outputs.

        Raises:
            BadRequest: it has not.
        """
        if not self:
            return
        if self.embedding:
            check_embedding(model, self.layer)
        if self.cam is not None and "feature_map" not in model.outputs:
            raise BadRequest(
                f"cam: {model.name} version {model.version} has no feature_map: {_WITHOUT_OUTPUT.format('maps')}"
            )
        if self.cam is not None and model.classifier is None:
            raise BadRequest(
                f"cam: {model.name} version {model.version} has no activation maps: it was exported without "
                "classifier.npz (export it again), or its last layer was not found in the ONNX file that it was "
                f"imported from, or the executor {model.executor!r} computes nothing"
            )

    def check_size(self, model: ServedModel, files: int, k: int) -> None:
        """Check the size of the response to `files` images with `k` classes each.

        Raises:
            BadRequest: there would be too many maps.
        """
        maps = 0 if self.cam is None else files * min(k, len(model.labels))
        if self.cam is not None and maps > _MAX_MAPS[self.cam]:
            raise BadRequest(
                f"cam: {maps:,} maps in one response, at most {_MAX_MAPS[self.cam]:,} of the kind {self.cam.value!r}: "
                "lower top_k, or send the images in several requests"
            )

    def is_large(self, model: ServedModel, files: int, k: int) -> bool:
        """Whether the response to `files` images with `k` classes each takes long to write."""
        return files * min(k, len(model.labels)) > _SMALL[self.cam] or (self.embedding and files > _SMALL_EMBEDDINGS)

    async def add(
        self,
        model: ServedModel,
        answers: Sequence[ImageResult],
        outputs: Mapping[str, Float32Array],
        files: Sequence[bytes],
        deadline: float,
        threads: Executor,
        allowance: Allowance,
    ) -> list[ImageResult]:
        """Add the outputs to results, in a thread: takes milliseconds per image, for pictures tens of them per class.

        Args:
            model: the version that computed the outputs.
            answers: results with predictions, one per row of the outputs.
            outputs: outputs of the engine, float32 [n, ...] each.
            files: the encoded images.
            deadline: `time.monotonic` seconds.
            threads: threads that draw.
            allowance: limits for decoding the files again, until the deadline.

        Raises:
            DeadlineExceeded: the deadline passed.
            PayloadTooLarge: an image takes too much memory in colour.
            MemoryError: there is no memory.
        """
        drawing = _Drawing(self, model, outputs, allowance)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(threads, drawing.add, answers, files)
        except TooMuchMemory as error:
            raise PayloadTooLarge(str(error)) from error
        except (TimeoutError, DeadlinePassed):
            raise DeadlineExceeded("the time limit passed while maps were drawn: raise timeout_ms") from None
        finally:
            drawing.abandoned = True
            allowance.end()


NONE = OptionalOutputs()


class _Drawing:
    """Makes the optional outputs of one request, in a thread.

    Args:
        optional: the outputs.
        model: the version that computed the images.
        outputs: outputs of the engine.
        allowance: limits for decoding.
    """

    def __init__(
        self,
        optional: OptionalOutputs,
        model: ServedModel,
        outputs: Mapping[str, Float32Array],
        allowance: Allowance,
    ) -> None:
        self.abandoned = False
        """Whether the request has ended; the drawing then ends after the current map."""
        self._optional, self._model, self._outputs = optional, model, outputs
        self._allowance = allowance

    def add(self, answers: Sequence[ImageResult], files: Sequence[bytes]) -> list[ImageResult]:
        """Add the outputs to results."""
        extended = []
        for row, (answer, data) in enumerate(zip(answers, files, strict=True)):
            if answer.error is not None:
                extended.append(answer)
                continue
            if self._optional.embedding:
                values = self._outputs[embedding_output(self._optional.layer)][row]
                answer = replace(answer, embedding=values.tolist())
            if self._optional.cam is not None:
                answer = self._with_maps(self._optional.cam, answer, self._outputs["feature_map"][row], data)
            extended.append(answer)
        return extended

    def _with_maps(self, kind: Cam, answer: ImageResult, feature_map: Float32Array, data: bytes) -> ImageResult:
        model, image = self._model, answer.image
        assert image is not None and model.classifier is not None
        geometry, size = model.preprocess, (image.width, image.height)
        classes = [item.index for item in answer.predictions]
        maps = activation_maps.activation_maps(feature_map, model.classifier, classes)
        below = None
        if kind is Cam.picture:  # over the image in its own colours, although the network may take grey pixels
            self._check()
            try:
                below = activation_maps.canvas(images.decode(data, "RGB", self._allowance))
            finally:
                self._allowance.release()
        predictions = []
        for item, values in zip(answer.predictions, maps, strict=True):
            self._check()
            if kind is Cam.values:
                predictions.append(replace(item, cam=values.tolist()))
            elif below is None:
                predictions.append(replace(item, cam_png=activation_maps.overlay(values, geometry, *size)))
            else:
                predictions.append(replace(item, cam_png=activation_maps.picture(values, geometry, size, below)))
        return replace(answer, predictions=predictions, image=replace(image, region=geometry.region(*size)))

    def _check(self) -> None:
        if self.abandoned:
            raise DeadlineExceeded("the request has ended while maps were drawn")
