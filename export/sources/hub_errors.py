"""Errors of huggingface_hub, each in one sentence that says what to do."""

from __future__ import annotations

import errno

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_STATUS = {
    401: "the hub does not know the token: set HF_TOKEN to a valid one, or remove it",
    403: "the token may not read it: set HF_TOKEN to one that may",
    404: "the hub has no such model or file: check the name",
    416: "the file changed during the download: try again",
    429: "the hub gets too many requests: wait, or set HF_TOKEN",
}


def is_unreachable(error: Exception) -> bool:
    """Whether the hub is out of reach now, so that the cache is used alone."""
    down = isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
    return down or isinstance(error, httpx2.TransportError | OfflineModeIsEnabled)


def explain(error: Exception, model: str, revision: str) -> str:
    """The reason why a model cannot be fetched, and what to do."""
    if isinstance(error, GatedRepoError):
        return f"it is gated: ask for access at {constants.ENDPOINT}/{model}, and set HF_TOKEN to your token"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}: {constants.ENDPOINT}/{model}/tree/main lists them"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private: check the name, or set HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return _STATUS.get(status, f"the hub answers {status}: try again later")
    if isinstance(error, HFValidationError):
        return "this is no name of a model"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, FileMetadataError):
        return f"{constants.ENDPOINT} does not answer as a hub: check HF_ENDPOINT and the proxy"
    if isinstance(error, httpx2.TooManyRedirects):
        return "the hub redirects in a circle"
    if isinstance(error, httpx2.TransportError):
        return f"{constants.ENDPOINT} cannot be reached, or the connection broke again and again ({error})"
    if isinstance(error, OSError):
        return _explain_file(error)
    return f"cannot be fetched: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _explain_file(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {constants.HF_HUB_CACHE} is full: free some space"
    if error.errno is None:  # the library's own check of the length
        return f"a file has another length than the hub announces: try again ({str(error).splitlines()[0]})"
    return f"{error.filename or constants.HF_HUB_CACHE}: {error.strerror}"
