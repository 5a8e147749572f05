"""Shadows: versions that compute again, while nothing else waits, what other versions have answered.

Both are compared. The answers, and the time to give them, do not depend on it.
"""

from __future__ import annotations

import base64
import io
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from PIL import Image

from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.core.threads import run_in_background
from service.engine.shadow_queue import ShadowImage, ShadowQueue
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.messages.status import DifferingImage, ShadowStatus
from service.registry.model_versions import ModelVersions
from service.registry.rollout.policies import Policies
from service.registry.version import Version
from service.telemetry.agreement import Agreement
from service.telemetry.metrics import Metrics

_MAX_BYTES = 64 * 1024 * 1024
"""Memory for images that wait: 400 of 224 x 224 pixels in colour."""

_PREPROCESSING = "its preprocessing is another one than that of version {}"


class _Differing(NamedTuple):
    pixels: UInt8Array
    first: tuple[str, float]
    """Label and probability by the version that has answered."""
    second: tuple[str, float]
    """Those by the shadow."""


@dataclass(slots=True)
class _Comparison:
    """Counts of a version and a shadow, since both are loaded."""

    agreement: Agreement
    differing: deque[_Differing] = field(default_factory=deque)
    """Images with another label first, the last ones."""
    waiting: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(eq=False, slots=True)
class Shadows:
    """All shadows of a registry. Used on the event loop only.

    Args:
        models: all models, by name.
        policies: the traffic policies.
        metrics: counts compared images.
    """

    models: Mapping[str, ModelVersions]
    policies: Policies
    metrics: Metrics
    _queue: ShadowQueue = field(init=False)
    _comparisons: dict[tuple[int, int], _Comparison] = field(init=False, default_factory=dict)
    """By the keys of the version and the shadow."""

    def __post_init__(self) -> None:
        self._queue = ShadowQueue(_MAX_BYTES, lambda: [each.engine for each in self._all_ready()])
        self.policies.changed = self._drop_removed

    def _all_ready(self) -> list[Version]:
        return [version for model in self.models.values() for version in model.ready]

    def watch(self, version: Version, request: InferenceRequest, outcome: ResultReceiver) -> ResultReceiver:
        """An outcome that also has the result compared, if the request is one of those that are."""
        shadows = self._drawn(version, request)
        return _Watched(outcome, partial(self._compare, version, shadows, request)) if shadows else outcome

    def compare(self, version: Version, request: InferenceRequest, result: InferenceResult) -> None:
        """Have a result compared, if the request is one of those that are."""
        if shadows := self._drawn(version, request):
            self._compare(version, shadows, request, result)

    def _drawn(self, version: Version, request: InferenceRequest) -> list[Version]:
        """The shadows that compute the images of a request."""
        policy = self.policies.traffic.get(version.served.name)
        if policy is None or not policy.shadow or "probabilities" not in request.outputs:
            return []
        return [
            shadow
            for shadow in self.models[version.served.name].ready
            if shadow is not version
            and random.random() < policy.shadow.get(shadow.number, 0.0)
            and shadow.served.preprocess == version.served.preprocess
        ]

    def _compare(
        self, version: Version, shadows: Iterable[Version], request: InferenceRequest, result: InferenceResult
    ) -> None:
        probabilities = result.outputs["probabilities"]
        for shadow in shadows:
            if not shadow.ready:
                continue
            comparison = self._comparison(version, shadow)
            shadow.engine.batch_done = version.engine.batch_done = self._queue.work
            for pixels, row in zip(request.images, probabilities, strict=True):
                self._put(version, shadow, comparison, pixels, row, result)

    def _put(
        self,
        version: Version,
        shadow: Version,
        comparison: _Comparison,
        pixels: UInt8Array,
        row: Float32Array,
        result: InferenceResult,
    ) -> None:
        names = version.served.name, version.served.version, shadow.served.version

        def count(outcome: str) -> None:
            self.metrics.shadow_images.labels(*names, outcome).inc()

        def drop() -> None:
            comparison.dropped += 1
            count("dropped")

        if not self._queue.has_room(pixels.nbytes):
            drop()
            return
        first_time = result.inference_seconds, result.batch_size
        row = row.copy()  # of one image, instead of the outputs of the whole batch

        def done(found: InferenceResult | None) -> None:
            comparison.waiting -= 1
            if found is None:
                comparison.failed += 1
                count("failed")
                return
            other = found.outputs["probabilities"][0]
            agrees = comparison.agreement.add(row, other)
            if not agrees:
                self._keep(comparison, version, _Differing(copied, _best(version, row), _best(shadow, other)))
            comparison.agreement.add_times(first_time, (found.inference_seconds, found.batch_size))
            count("agreed" if agrees else "differed")

        def drop_waiting() -> None:
            comparison.waiting -= 1
            drop()

        comparison.waiting += 1
        copied = self._queue.put(shadow.engine, ShadowImage(pixels, done, drop_waiting))

    def _drop_removed(self) -> None:
        """Drop the waiting images of versions that are no longer shadows."""
        self._queue.keep_only(
            {
                version.engine
                for version in self._all_ready()
                if (policy := self.policies.traffic.get(version.served.name)) and policy.shadow.get(version.number)
            }
        )

    def _keep(self, comparison: _Comparison, version: Version, image: _Differing) -> None:
        """Keep an image, as many as the policy says."""
        policy = self.policies.traffic.get(version.served.name)
        comparison.differing.append(image)
        while len(comparison.differing) > (0 if policy is None else policy.keep_images):
            comparison.differing.popleft()

    async def differing(self, name: str) -> list[DifferingImage]:
        """The images on which shadows differed last, newest first."""
        kept = [
            (version, shadow, image)
            for version, shadow, comparison in self._pairs(name)
            for image in reversed(comparison.differing)
        ]
        return await run_in_background(_describe_all, kept)

    def _pairs(self, name: str) -> list[tuple[str, str, _Comparison]]:
        """Versions and shadows of a model that are compared."""
        keys = {version.served.key: version.served.version for version in self.models[name].ready}
        return [
            (keys[first], keys[second], comparison)
            for (first, second), comparison in self._comparisons.items()
            if first in keys and second in keys
        ]

    def _comparison(self, version: Version, shadow: Version) -> _Comparison:
        key = version.served.key, shadow.served.key
        if key not in self._comparisons:
            known = {each.served.key for each in self._all_ready()}
            self._comparisons = {pair: value for pair, value in self._comparisons.items() if known.issuperset(pair)}
            self._comparisons[key] = _Comparison(Agreement(version.served.labels, shadow.served.labels))
        return self._comparisons[key]

    def statuses(self, name: str) -> list[ShadowStatus]:
        """Every pair of a version of a model that answers requests and a shadow."""
        policy = self.policies.traffic.get(name)
        if policy is None:
            return []
        ready = {version.number: version for version in self.models[name].ready}
        return [
            self._status(ready[number], ready[shadow], share)
            for shadow, share in policy.shadow.items()
            for number, weight in policy.weights.items()
            if weight and number != shadow and number in ready and shadow in ready
        ]

    def _status(self, version: Version, shadow: Version, share: float) -> ShadowStatus:
        comparison = self._comparisons.get((version.served.key, shadow.served.key))
        if comparison is None:
            comparison = _Comparison(Agreement(version.served.labels, shadow.served.labels))
        same = shadow.served.preprocess == version.served.preprocess
        return ShadowStatus(
            version=version.served.version,
            shadow=shadow.served.version,
            share=share,
            reason=None if same else _PREPROCESSING.format(version.number),
            waiting=comparison.waiting,
            dropped=comparison.dropped,
            failed=comparison.failed,
            agreement=comparison.agreement.report(),
        )


def _best(version: Version, probabilities: Float32Array) -> tuple[str, float]:
    index = int(probabilities.argmax())
    return version.served.labels[index], float(probabilities[index])


def _png(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _describe_all(kept: list[tuple[str, str, _Differing]]) -> list[DifferingImage]:
    return [
        DifferingImage(
            version=version,
            shadow=shadow,
            label=image.first[0],
            probability=image.first[1],
            shadow_label=image.second[0],
            shadow_probability=image.second[1],
            png=_png(image.pixels),
        )
        for version, shadow, image in kept
    ]


class _Watched:
    """Passes the outcome of a request on, and has its result compared.

    Args:
        outcome: receives the result or the error.
        compare: called with the result.
    """

    __slots__ = ("_compare", "_outcome")

    def __init__(self, outcome: ResultReceiver, compare: Callable[[InferenceResult], None]) -> None:
        self._outcome, self._compare = outcome, compare

    def done(self) -> bool:
        return self._outcome.done()

    def set_result(self, result: InferenceResult) -> None:
        self._compare(result)  # first: the pixels are those of the caller, who may free them with the result
        self._outcome.set_result(result)

    def set_exception(self, error: BaseException) -> None:
        self._outcome.set_exception(error)
