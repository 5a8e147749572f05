"""Which versions of a model are served, and how its requests are shared among them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from models.artifact.traffic import TrafficFileError, TrafficPolicy, change_traffic, read_traffic
from service.core.errors import BadRequest, ServiceError, Unavailable
from service.core.threads import run_in_background
from service.core.version_policy import Policy, VersionPolicies
from service.registry.model_versions import ModelVersions

log = logging.getLogger(__name__)


class Policies:
    """The version policies of the settings, and the traffic policies of a file that is read again after each change.

    If the file becomes invalid, its policies stay as they were.

    Args:
        versions: the setting `versions`.
        path: the traffic file; None for no traffic policies.
    """

    def __init__(self, versions: str, path: Path | None) -> None:
        self._versions = VersionPolicies(versions)
        self._path = path
        self._writing = asyncio.Lock()
        self._problem: str | None = None
        self.traffic: Mapping[str, TrafficPolicy] = {}
        """The traffic policies, by model."""
        self._observers: list[Callable[[], None]] = []
        self._decided: dict[str, tuple[TrafficPolicy | None, TrafficPolicy]] = {}
        """Policies that rules have made, and that could not be written, with those of the file that they replace."""

    def observe(self, callback: Callable[[], None]) -> None:
        """Have a function called after each change of the traffic policies."""
        self._observers.append(callback)

    def of(self, name: str) -> Policy:
        """The policy of a model."""
        policy = self._versions.of(name)
        traffic = self.traffic.get(name)
        return policy if traffic is None else policy.with_traffic(traffic)

    async def refresh(self) -> None:
        """Read the traffic file."""
        if self._path is None:
            return
        try:
            self._take(await run_in_background(read_traffic, self._path))
            self._problem = None
        except TrafficFileError as error:
            if str(error) != self._problem:
                log.error("the traffic policies stay as they were: %s", error)
            self._problem = str(error)

    def _take(self, policies: dict[str, TrafficPolicy]) -> None:
        for name, (replaced, decided) in [*self._decided.items()]:
            if policies.get(name) == replaced:
                policies = policies | {name: decided}
            else:
                del self._decided[name]
        if policies == self.traffic:
            return
        for name in sorted(policies.keys() | self.traffic.keys()):
            new = policies.get(name)
            if new != self.traffic.get(name):
                log.info("%s: %s", name, "no traffic policy" if new is None else describe(new))
        self.traffic = policies
        for callback in self._observers:
            callback()

    async def set_traffic(self, model: ModelVersions, policy: TrafficPolicy | None) -> None:
        """Write the traffic policy of a model, or that it has none, to the file, and apply it.

        Raises:
            BadRequest: the repository does not have a version with a weight.
            Unavailable: there is no traffic file, or it cannot be read or written.
        """
        if missing := [number for number in (sorted(policy.versions) if policy else ()) if number not in model.found]:
            raise BadRequest(f"weights: model {model.name} has no version {missing[0]} in the repository")
        if self._path is None:
            raise Unavailable("there is no traffic file: start the service with --traffic FILE")
        try:
            async with self._writing:
                policies = await run_in_background(change_traffic, self._path, model.name, policy)
        except TrafficFileError as error:
            raise Unavailable(f"the traffic policy was not changed: {error}") from error
        self._take(policies)

    async def decide(self, model: ModelVersions, policy: TrafficPolicy) -> None:
        """Apply a policy that rules have made. If the file cannot be written, it holds until the file changes."""
        replaced = self.traffic.get(model.name)
        try:
            await self.set_traffic(model, policy)
        except ServiceError as error:
            log.error("%s: %s; what was decided holds until the file changes, or the service ends", model.name, error)
            self._decided[model.name] = replaced, policy
            self._take(dict(self.traffic))

    def problems(self, models: Mapping[str, ModelVersions]) -> list[str]:
        """Why the file cannot be used, and versions with a weight that are not served."""
        sentences = [] if self._problem is None else [f"the traffic policies stay as they were: {self._problem}"]
        for name, policy in self.traffic.items():
            model = models.get(name)
            ready = set() if model is None else {version.number for version in model.ready}
            sentences += [
                f"{name}: version {number} has a weight and is not served; the other versions get its requests"
                for number, weight in policy.weights.items()
                if weight and number not in ready
            ]
        return sentences


def describe(policy: TrafficPolicy) -> str:
    """A policy in a few words."""
    total = sum(policy.weights.values())
    shares = ", ".join(f"version {number}: {weight / total:.4g}" for number, weight in policy.weights.items())
    by = "request id" if policy.sticky_header is None else policy.sticky_header
    return f"traffic by {by}: {shares}"
