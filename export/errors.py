"""What can go wrong while a version is written."""

from __future__ import annotations


class BuildError(ValueError):
    """The version cannot be written; the message is one line that says why."""
