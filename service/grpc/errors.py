"""Errors that keep the gRPC server from starting."""

from __future__ import annotations


class GrpcError(Exception):
    """The gRPC server cannot run; the message says how to fix it."""
