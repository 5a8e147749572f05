"""Shadows: versions that compute again, while nothing else waits, what other versions have answered.

Both are compared. The answers, and the time to give them, do not depend on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from service.core.threads import run_in_background
from service.engine.shadow_queue import ShadowQueue
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.messages.status import DifferingImage, ShadowStatus
from service.registry import health
from service.registry.model_versions import ModelVersions
from service.registry.rollout.comparison import ComparedImage, Comparison, describe_all
from service.registry.rollout.policies import Policies
from service.registry.version import Version
from service.telemetry.agreement import Agreement
from service.telemetry.metrics import Metrics

_MAX_BYTES = 64 * 1024 * 1024
"""Memory for images that wait: 400 of 224 x 224 pixels in colour."""

_PREPROCESSING = "its preprocessing is another one than that of version {}"


class Shadows:
    """All shadows of a registry. Used on the event loop only.

    Args:
        models: all models, by name.
        policies: the traffic policies.
        metrics: counts compared images.
    """

    def __init__(self, models: Mapping[str, ModelVersions], policies: Policies, metrics: Metrics) -> None:
        self.models, self.policies, self.metrics = models, policies, metrics
        self._queue = ShadowQueue(_MAX_BYTES, partial(health.engines, models))
        self._comparisons: dict[tuple[int, int], Comparison] = {}
        """By the keys of the version and the shadow."""
        policies.observe(self._drop_removed)

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
        overloaded = version.engine.waiting > version.engine.max_batch
        for shadow in shadows:
            if not shadow.ready:
                continue
            comparison = self._comparison(version, shadow)
            for each in (shadow, version):
                each.engine.observe(self._queue.work)
            for pixels, row in zip(request.images, result.outputs["probabilities"], strict=True):
                if overloaded or not self._queue.has_room(pixels.nbytes):
                    comparison.drop()
                    continue
                comparison.waiting += 1
                self._queue.put(shadow.engine, ComparedImage(version, shadow, comparison, pixels, row, result))

    def _drop_removed(self) -> None:
        """Drop the waiting images of versions that are no longer shadows."""
        self._queue.keep_only(
            {
                version.engine
                for version in self._all_ready()
                if (policy := self.policies.traffic.get(version.served.name)) and policy.shadow.get(version.number)
            }
        )

    def _keeps(self, name: str) -> int:
        """How many images on which shadows of a model differ are kept."""
        policy = self.policies.traffic.get(name)
        return 0 if policy is None else policy.keep_images

    async def differing(self, name: str) -> list[DifferingImage]:
        """The images on which shadows differed last, newest first."""
        kept = [
            (version, shadow, image)
            for version, shadow, comparison in self._pairs(name)
            for image in reversed(comparison.differing)
        ]
        return await run_in_background(describe_all, kept)

    def _pairs(self, name: str) -> list[tuple[str, str, Comparison]]:
        """Versions and shadows of a model that are compared."""
        keys = {version.served.key: version.served.version for version in self.models[name].ready}
        return [
            (keys[first], keys[second], comparison)
            for (first, second), comparison in self._comparisons.items()
            if first in keys and second in keys
        ]

    def _comparison(self, version: Version, shadow: Version) -> Comparison:
        key = version.served.key, shadow.served.key
        if key not in self._comparisons:
            known = {each.served.key for each in self._all_ready()}
            self._comparisons = {pair: value for pair, value in self._comparisons.items() if known.issuperset(pair)}
            self._comparisons[key] = self._new_comparison(version, shadow)
        return self._comparisons[key]

    def _new_comparison(self, version: Version, shadow: Version) -> Comparison:
        names = version.served.name, version.served.version, shadow.served.version
        counted = partial(self.metrics.shadow_images.labels, *names)
        agreement = Agreement(version.served.labels, shadow.served.labels)
        return Comparison(agreement, counted, partial(self._keeps, version.served.name))

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
            comparison = self._new_comparison(version, shadow)
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
