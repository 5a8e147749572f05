"""Tests that take minutes are skipped in the suite; acceptance scripts set the variable and run them."""

from __future__ import annotations

import os

import pytest

VARIABLE = "RESNET_TEST_THOROUGH"

takes_minutes = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"takes minutes: {VARIABLE}=1 runs it")
