"""Whether this machine has a GPU, for tests that need one."""

from __future__ import annotations

import pytest

from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice


def why_not() -> str | None:
    """Why there is no GPU; None where there is one."""
    try:
        cuda_driver.devices()
    except NoDevice as error:
        return str(error)
    return None


def needs_gpu() -> tuple[pytest.MarkDecorator, ...]:
    """Marks of a test that is skipped without a GPU, and says why."""
    reason = why_not()
    return pytest.mark.needs_gpu, pytest.mark.skipif(reason is not None, reason=f"needs a GPU: {reason}")
