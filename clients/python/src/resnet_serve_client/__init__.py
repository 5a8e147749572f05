"""A client of resnet-serve.

from resnet_serve_client import Client

with Client("http://localhost:8000") as client:
    print(client.classify("photograph.jpg").best.label)
"""

from resnet_serve_client.answers import Classification, ImageInfo, ModelInfo, Prediction, Readiness, VersionInfo
from resnet_serve_client.async_client import AsyncClient
from resnet_serve_client.client import Client
from resnet_serve_client.errors import (
    ApiError,
    BadRequest,
    ClientError,
    DeadlineExceeded,
    Forbidden,
    InvalidAnswer,
    NoAnswer,
    NotFound,
    PayloadTooLarge,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnprocessableImage,
    UnreadableImage,
)
from resnet_serve_client.images import Image
from resnet_serve_client.requests import Options

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Classification",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Forbidden",
    "Image",
    "ImageInfo",
    "InvalidAnswer",
    "ModelInfo",
    "NoAnswer",
    "NotFound",
    "Options",
    "PayloadTooLarge",
    "Prediction",
    "Readiness",
    "TimedOut",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnprocessableImage",
    "UnreadableImage",
    "VersionInfo",
]
