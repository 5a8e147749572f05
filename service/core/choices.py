"""Values of settings that take one of a few."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

DecodeMode = Literal["exact", "fast"]
Watch = Literal["auto", "poll", "off"]


class LogFormat(StrEnum):
    """Format of log lines."""

    json = "json"
    text = "text"


class LogLevel(StrEnum):
    """Level of the least important log lines."""

    info = "info"
    warning = "warning"
    error = "error"
