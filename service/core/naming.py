"""Names of models."""

from __future__ import annotations

ENCODED = "-encoded"
"""Suffix of the second name of a model under /v2; the input of this name is image files."""
