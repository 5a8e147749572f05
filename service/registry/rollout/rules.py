"""Rules of a rollout: a candidate gets all requests, or none, by what is measured."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from models.artifact import rollout
from models.artifact.traffic import MIN_IMAGES, Rules, TrafficPolicy
from service.messages.status import ShadowStatus
from service.registry.model_versions import ModelVersions
from service.registry.rollout.policies import Policies
from service.registry.rollout.shadows import Shadows
from service.registry.version import Version
from service.telemetry.agreement import AgreementReport

log = logging.getLogger(__name__)

_CHECK_SECONDS = 0.25
_FEW_IMAGES = 100
"""Images from which a 99th percentile is used."""


class Verdict(NamedTuple):
    """A decision about a candidate, with its reason."""

    promoted: bool
    reason: str


class Rollouts:
    """Applies the rules of all models. Used on the event loop only.

    Args:
        models: all models, by name.
        policies: the traffic policies, which the rules change.
        shadows: measure the candidates.
        apply: reads the policies and applies them, after a change.
    """

    def __init__(
        self,
        models: Mapping[str, ModelVersions],
        policies: Policies,
        shadows: Shadows,
        apply: Callable[[], Awaitable[None]],
    ) -> None:
        self._models, self._policies, self._shadows, self._apply = models, policies, shadows, apply
        self._announced: dict[str, tuple[TrafficPolicy, Verdict]] = {}
        """Verdicts that were only written to the log, by model."""

    async def check(self) -> float:
        """Decide about all candidates. Returns the seconds until the next check."""
        changed = False
        for name, policy in [*self._policies.traffic.items()]:
            model = self._models.get(name)
            if model is None or policy.rules is None:
                continue
            verdict = self._judge(model, policy.rules)
            if verdict is None or self._announced.get(name) == (policy, verdict):
                continue
            self._log(name, policy.rules, verdict)
            if policy.rules.dry_run:
                self._announced[name] = policy, verdict
                continue
            await self._policies.decide(model, rollout.end(policy, policy.rules.candidate, promoted=verdict.promoted))
            changed = True
        if changed:
            await self._apply()
        return _CHECK_SECONDS

    def _judge(self, model: ModelVersions, rules: Rules) -> Verdict | None:
        failure = model.catalog().failure(rules.candidate)
        if failure is not None:
            return Verdict(False, f"it could not be loaded: {failure}")
        candidate = next((version for version in model.ready if version.number == rules.candidate), None)
        if candidate is None:  # it is being loaded, or not in the repository
            return None
        if reason := _broken(candidate, rules):
            return Verdict(False, reason)
        measured = [each for each in self._shadows.statuses(model.name) if each.shadow == candidate.served.version]
        return judge(rules, max(measured, key=lambda each: each.agreement.images)) if measured else None

    def _log(self, name: str, rules: Rules, verdict: Verdict) -> None:
        step = "all requests" if verdict.promoted else "no requests any more"
        level = logging.INFO if verdict.promoted else logging.WARNING
        gets = "would get" if rules.dry_run else "gets"
        log.log(level, "%s version %d %s %s: %s", name, rules.candidate, gets, step, verdict.reason)


def _broken(candidate: Version, rules: Rules) -> str | None:
    """Why a candidate cannot compute, if it cannot."""
    if not candidate.engine.alive:
        return "; ".join(candidate.engine.problems) or "its engine has stopped"
    errors = candidate.engine.statistics.failed_batches
    if errors > rules.max_errors:
        return f"{errors} of its batches failed, and {rules.max_errors} may"
    return None


def judge(rules: Rules, measured: ShadowStatus) -> Verdict | None:
    """Decide by the agreement and the times; None if there are too few images.

    A candidate is rolled back before `min_images` images if its agreement is below the bound with 95 % confidence.
    """
    report = measured.agreement
    if report.agreement is None:
        return None
    agreement = f"{report.agreed} of {report.images} images have the same label first, {report.agreement.value:.2%}"
    bound = f"the bound is {rules.min_agreement:.2%}"
    if report.images >= MIN_IMAGES and report.agreement.high < rules.min_agreement:
        return Verdict(False, f"{agreement}, {bound}")
    slowdown = _slowdown(report)
    if slowdown is not None and slowdown > rules.max_slowdown and report.images >= min(_FEW_IMAGES, rules.min_images):
        return Verdict(
            False,
            f"its p99 is {slowdown:.2f} times that of version {measured.version}, the bound is {rules.max_slowdown:g}",
        )
    if report.images < rules.min_images:
        return None
    if report.agreement.value < rules.min_agreement:
        return Verdict(False, f"{agreement}, {bound}")
    return Verdict(True, f"{agreement}, its p99 is {slowdown or 0.0:.2f} times that of version {measured.version}")


def _slowdown(report: AgreementReport) -> float | None:
    """The 99th percentile of the candidate's times, in times of that of the other version."""
    return None if report.first is None or report.second is None else report.second.p99 / report.first.p99
