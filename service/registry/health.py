"""The health of models: reasons why they are not served, and limits of those that are, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from service.registry.model_versions import ModelVersions
from service.registry.version import Version


def dead(current: Mapping[str, Version]) -> list[str]:
    """A sentence per current version, by the name of its model, whose engine has stopped."""
    return [
        f"{name}: {'; '.join(version.engine.problems) or 'its engine has stopped'}"
        for name, version in current.items()
        if not version.engine.alive
    ]


def failures(models: Mapping[str, ModelVersions]) -> list[str]:
    """A sentence per model with a version that could not be loaded."""
    failed = {name: model.failure() for name, model in models.items()}
    return [f"{name}: {reason}" for name, reason in failed.items() if reason]


def limits(current: Mapping[str, Version]) -> list[str]:
    """A sentence per device that is lost or does not finish its batch, and per TensorRT engine that is missing or
    unusable."""
    sentences = []
    for name, version in current.items():
        sentences += [f"{name}: {problem}" for problem in version.engine.problems]
        if version.loaded is not None and version.loaded.fallback_reason is not None:
            sentences.append(f"{name}: TensorRT does not serve it: {version.loaded.fallback_reason}")
    return sentences
