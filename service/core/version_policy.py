"""Version policies: which versions of a model are served."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from models.artifact.manifest import MODEL_NAME
from models.artifact.traffic import TrafficPolicy


@dataclass(frozen=True)
class Policy:
    """Selects versions of a model in the repository."""

    text: str
    """The policy as it is set: `latest`, `all`, or numbers separated by commas."""
    numbers: frozenset[int] | None = None
    """The versions that may be served; None for all."""
    traffic: TrafficPolicy | None = None
    """How requests are shared among the versions; None: the newest one gets those that name none."""

    def with_traffic(self, traffic: TrafficPolicy) -> Policy:
        """A policy that also serves the versions of a traffic policy: instead of the latest one, or besides others."""
        if self.numbers is None and not self.serves_one:
            return Policy(self.text, None, traffic)
        named = traffic.versions | (self.numbers or frozenset())
        return Policy(",".join(map(str, sorted(named))), named, traffic)

    @property
    def weights(self) -> Mapping[int, float]:
        """Weight of each version in the traffic policy, by number; empty without one."""
        return {} if self.traffic is None else self.traffic.weights

    @property
    def serves_one(self) -> bool:
        """Whether only the first candidate that can be loaded is served."""
        return self.text == "latest"

    def candidates(self, found: Iterable[int]) -> list[int]:
        """The versions in `found` that may be served, in the order of their loads: those with a weight first, each
        part newest first."""
        chosen = [number for number in found if self.numbers is None or number in self.numbers]
        return sorted(chosen, key=lambda number: (self.weights.get(number, 0.0) > 0, number), reverse=True)


class VersionPolicies:
    """The policy of each model, read from a text such as `latest resnet50=all tiny=1,3`.

    Raises:
        ValueError: the text is not valid.
    """

    def __init__(self, text: str) -> None:
        self._default = Policy("latest")
        self._of: dict[str, Policy] = {}
        for word in text.split():
            name, equals, choice = word.rpartition("=")
            if not equals:
                self._default = _parse(choice)
            elif re.fullmatch(MODEL_NAME, name):
                self._of[name] = _parse(choice)
            else:
                raise ValueError(f"{name!r} is not a valid model name")

    def of(self, model: str) -> Policy:
        """The policy of a model."""
        return self._of.get(model, self._default)


def _parse(choice: str) -> Policy:
    if choice in ("latest", "all"):
        return Policy(choice)
    if re.fullmatch(r"[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*", choice):
        return Policy(choice, frozenset(int(number) for number in choice.split(",")))
    raise ValueError(f"{choice!r} is not latest, all, or version numbers separated by commas")
