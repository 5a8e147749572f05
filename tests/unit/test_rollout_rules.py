"""The rules of a rollout: verdicts by measured agreement and times."""

from __future__ import annotations

import numpy as np
import pytest

from models.artifact.traffic import Rules
from service.messages.status import ShadowStatus
from service.registry.rollout.rules import judge
from service.telemetry.agreement import Agreement

BOTH = np.eye(2, dtype=np.float32)


def measured(images: int, differ: int, slowdown: float = 1.0) -> ShadowStatus:
    """A shadow that differs on some images."""
    agreement = Agreement(["cat", "dog"], ["cat", "dog"])
    for index in range(images):
        agreement.add(BOTH[0], BOTH[(index < differ and 1) or 0])
        agreement.add_times((0.01, 1), (0.01 * slowdown, 1))
    return ShadowStatus(
        version="1", shadow="2", share=1.0, reason=None, waiting=0, dropped=0, failed=0, agreement=agreement.report()
    )


RULES = Rules(candidate=2, min_images=200, min_agreement=0.95, max_slowdown=1.5)


@pytest.mark.parametrize(
    ("images", "differ", "slowdown", "promoted", "reason"),
    [
        (0, 0, 1.0, None, ""),
        (199, 0, 1.0, None, ""),
        (200, 0, 1.0, True, "200 of 200 images have the same label first"),
        (200, 10, 1.4, True, "95.00%"),
        (200, 11, 1.0, False, "the bound is 95.00%"),
        (19, 19, 1.0, None, ""),  # too few to tell
        (20, 4, 1.0, False, "16 of 20"),
        (20, 2, 1.0, None, ""),  # the bound is within the confidence interval
        (99, 0, 3.0, None, ""),
        (100, 0, 3.0, False, "times that of version 1"),
    ],
)
def test_verdicts(images: int, differ: int, slowdown: float, promoted: bool | None, reason: str) -> None:
    verdict = judge(RULES, measured(images, differ, slowdown))
    if promoted is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.promoted is promoted
        assert reason in verdict.reason
