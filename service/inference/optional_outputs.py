"""What a request may ask for beside labels, from the same forward pass: embeddings and class activation maps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from models.artifact.parity import Float32Array
from models.imaging import images
from service.core.errors import BadRequest, DeadlineExceeded
from service.inference import activation_maps
from service.inference.results import ImageResult, Prediction
from service.messages.model import ServedModel


class Cam(StrEnum):
    """How class activation maps are given."""

    values = "values"
    """Numbers."""
    overlay = "overlay"
    """A transparent PNG to lay over the image."""
    picture = "picture"
    """A PNG of the image with the map over it."""


_MOST_MAPS = {Cam.values: 1280, Cam.overlay: 1280, Cam.picture: 64}
"""In one answer, which is held in memory as a whole: a picture can take a megabyte."""


@dataclass(frozen=True, slots=True)
class OptionalOutputs:
    embedding: bool = False
    cam: Cam | None = None

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return self.embedding or self.cam is not None

    @property
    def outputs(self) -> frozenset[str]:
        """What the engine has to give for them."""
        names = {"embedding": self.embedding, "feature_map": self.cam is not None}
        return frozenset(name for name, asked in names.items() if asked)

    def check(self, model: ServedModel) -> None:
        """Raises BadRequest where the model cannot give them."""
        if not self:
            return
        if absent := self.outputs - set(model.outputs):
            raise BadRequest(
                f"{model.name} version {model.version} gives no {' and no '.join(sorted(absent))}, which "
                f"{'cam' if 'feature_map' in absent else 'embedding'} needs: it was made of an ONNX file in which that "
                "is not found. Ask without, or import the weights instead of the ONNX file"
            )
        if self.cam is not None and model.classifier is None:
            raise BadRequest(
                f"cam: {model.name} version {model.version} gives no activation maps: either it was exported without "
                "classifier.npz (export it again), or its last layer was not found in the ONNX file that it was made "
                f"of, or executor {model.executor!r} computes nothing"
            )

    def check_size(self, model: ServedModel, files: int, k: int) -> None:
        """Raises BadRequest where the answer to so many images and classes would be too large."""
        maps = 0 if self.cam is None else files * min(k, len(model.labels))
        if self.cam is not None and maps > _MOST_MAPS[self.cam]:
            raise BadRequest(
                f"cam: {maps:,} maps in one answer, at most {_MOST_MAPS[self.cam]:,} of the kind {self.cam.value!r}: "
                "lower top_k, or send the images in several requests"
            )

    async def add(
        self,
        model: ServedModel,
        answers: Sequence[ImageResult],
        outputs: Mapping[str, Float32Array],
        files: Sequence[bytes],
        deadline: float,
    ) -> list[ImageResult]:
        """The answers with the extras, made in a thread: milliseconds an image, for pictures tens a class.

        Args:
            answers: with predictions, one for each row of the outputs.
            outputs: of the engine.
            files: what the images were decoded from.
            deadline: `time.monotonic` seconds.

        Raises:
            DeadlineExceeded: the deadline passed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.to_thread(self._add, model, answers, outputs, files)
        except TimeoutError:
            raise DeadlineExceeded("the time limit passed while maps were drawn: raise timeout_ms") from None

    def _add(
        self,
        model: ServedModel,
        answers: Sequence[ImageResult],
        outputs: Mapping[str, Float32Array],
        files: Sequence[bytes],
    ) -> list[ImageResult]:
        extended = []
        for row, (answer, data) in enumerate(zip(answers, files, strict=True)):
            if self.embedding:
                answer = replace(answer, embedding=outputs["embedding"][row].tolist())
            if self.cam is not None:
                answer = _with_maps(self.cam, model, answer, outputs["feature_map"][row], data)
            extended.append(answer)
        return extended


NONE = OptionalOutputs()


def _with_maps(
    kind: Cam, model: ServedModel, answer: ImageResult, feature_map: Float32Array, data: bytes
) -> ImageResult:
    assert answer.image is not None and model.classifier is not None
    geometry, size = model.preprocess, (answer.image.width, answer.image.height)
    maps = activation_maps.activation_maps(feature_map, model.classifier, [item.index for item in answer.predictions])
    if kind is Cam.values:
        predictions = [
            replace(item, cam=values.tolist()) for item, values in zip(answer.predictions, maps, strict=True)
        ]
    elif kind is Cam.overlay:
        predictions = [
            _drawn(item, activation_maps.overlay(values, geometry, *size))
            for item, values in zip(answer.predictions, maps, strict=True)
        ]
    else:  # over the image in its own colours, which the network may have taken in grey
        image = images.decode(data, "RGB", max_pixels=size[0] * size[1])
        predictions = [
            _drawn(item, activation_maps.picture(values, geometry, image))
            for item, values in zip(answer.predictions, maps, strict=True)
        ]
    region = replace(answer.image, region=geometry.region(*size))
    return replace(answer, predictions=predictions, image=region)


def _drawn(prediction: Prediction, png: bytes) -> Prediction:
    return replace(prediction, cam_png=png)
