"""`/v1`: images in, labels out."""

from __future__ import annotations
