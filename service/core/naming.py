"""Names of models and versions."""

from __future__ import annotations

ENCODED = "-encoded"
"""Suffix of the second name of a model under /v2, whose input is image files."""
