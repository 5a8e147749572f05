"""Settings that take one of a few values."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

DecodeMode = Literal["exact", "fast"]
Watch = Literal["auto", "poll", "off"]


class LogFormat(StrEnum):
    json = "json"
    text = "text"


class LogLevel(StrEnum):
    info = "info"
    warning = "warning"
    error = "error"
