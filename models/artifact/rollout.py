"""Steps of a rollout: a version gets a share of the requests of its model, or none any more."""

from __future__ import annotations

from models.artifact.traffic import TrafficPolicy


class RolloutError(ValueError):
    """A step that is not possible; the message says what to do."""


def promote(policy: TrafficPolicy | None, version: int, share: float, stable: int | None) -> TrafficPolicy:
    """Give a version a share of the requests. The others share the rest as before.

    Args:
        policy: the policy up to now; None without one.
        version: number of the version.
        share: percent of the requests, above 0 and at most 100.
        stable: the version that gets the rest if no other version has a weight.

    Raises:
        RolloutError: no other version has a weight, and `stable` is None.
    """
    rest = _others(policy, version)
    if share < 100 and not any(rest.values()):
        if stable is None or stable == version:
            raise RolloutError(f"no version gets the other {100 - share:g} %: name it with --stable VERSION")
        rest = rest | {stable: 1.0}
    total = sum(rest.values())
    weights = {number: (100 - share) * weight / total if total else 0.0 for number, weight in rest.items()}
    return _with_weights(policy, weights | {version: share})


def rollback(policy: TrafficPolicy | None, version: int, stable: int | None) -> TrafficPolicy:
    """Take all requests from a version. The others share them as before, or `stable` gets them.

    Raises:
        RolloutError: no other version has a weight, and `stable` is None.
    """
    rest = _others(policy, version)
    if stable is not None and stable != version:
        rest = dict.fromkeys(rest, 0.0) | {stable: 100.0}
    if not any(rest.values()):
        raise RolloutError(f"no version gets the requests of version {version}: name it with --stable VERSION")
    total = sum(rest.values())
    return _with_weights(policy, {number: 100 * weight / total for number, weight in rest.items()} | {version: 0.0})


def _others(policy: TrafficPolicy | None, version: int) -> dict[int, float]:
    return {} if policy is None else {number: weight for number, weight in policy.weights.items() if number != version}


def _with_weights(policy: TrafficPolicy | None, weights: dict[int, float]) -> TrafficPolicy:
    """A policy with other weights. Its rules end: they were for the step before."""
    rounded = {number: round(weight, 6) for number, weight in weights.items()}
    kept = {} if policy is None else dict(policy)
    return TrafficPolicy(**kept | {"weights": rounded, "rules": None})


def end(policy: TrafficPolicy, candidate: int, *, promoted: bool) -> TrafficPolicy:
    """The policy after a candidate was promoted or rolled back: it is no shadow any more."""
    step = promote(policy, candidate, 100.0, None) if promoted else rollback(policy, candidate, None)
    shadow = {number: share for number, share in policy.shadow.items() if number != candidate}
    return step.model_copy(update={"shadow": shadow})
