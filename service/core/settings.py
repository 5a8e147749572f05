"""Every setting, once: defaults, environment variables and command-line flags all come from this definition."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    DirectoryPath,
    Field,
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from models.artifact.manifest import Precision
from models.runtime.engine_cache import default_folder
from service.core.choices import DecodeMode, LogFormat, LogLevel, Watch
from service.core.former_names import FormerEnvironment
from service.core.version_policy import Policies

_MIB = 1024 * 1024


def shipped_repository() -> Path:
    """The model repository that comes with the project."""
    return Path(str(resources.files("models"))) / "pretrained" / "repository"


def available_cpus() -> int:
    """Processors that this process may use: the affinity mask, and the CPU quota of its container."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def _check_versions(text: str) -> str:
    Policies(text)
    return text


class Settings(BaseSettings):
    """Serve the models of a repository over HTTP.

    Each option can also be set as an environment variable: RESNET_SERVE_ and its name in capitals.
    """

    model_config = SettingsConfigDict(
        env_prefix="RESNET_SERVE_",
        frozen=True,
        cli_prog_name="resnet-serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    repository: Path = Field(default_factory=shipped_repository)
    """Folder of models, as resnet-export writes it. Default: the model that ships with the project."""

    model: str | None = None
    """The model that /v1/classify answers with, where the repository holds several. Default: the first by name."""

    versions: Annotated[str, AfterValidator(_check_versions)] = "latest"
    """Versions to serve: latest, all, or numbers such as 1,3. For single models after blanks: `latest tiny=all
    resnet50=1,3`. Those who name no version are answered by the newest that is served."""

    cache: Path = Field(default_factory=default_folder)
    """Folder of engines and measurements that fit this machine only, as resnet-export writes them. Default:
    ~/.cache/resnet-serve, or what XDG_CACHE_HOME says."""

    watch: Watch = "auto"
    """How new and removed versions are noticed: auto by file events, or once a second on network file systems,
    which give none; poll once a second in any case; off only at start, or when an admin loads the model."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 makes the service reachable from other machines."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""

    root_path: Annotated[str, Field(pattern=r"^(/[^/?#\s]+)*$")] = ""
    """Prefix of the path, such as /vision, that a proxy in front takes away: the API's own links then begin with it."""

    ssl_certfile: FilePath | None = None
    """Certificate chain, PEM. With it the service speaks TLS."""

    ssl_keyfile: FilePath | None = None
    """Private key of the certificate, PEM, where it is not in the same file."""

    api_keys: Path | None = None
    """TOML file with the API keys that may use the service; `python -m service.auth NAME` makes one. Changes count at
    once. Default: nobody needs a key."""

    admin: bool = False
    """Take load and unload requests under /v2/repository, from keys with the scope admin. Needs api_keys."""

    cors_origins: str = ""
    """Origins such as https://example.org, with blanks between them, whose pages may use the service from a browser;
    * for all. Default: only pages that the service itself gives."""

    executor: str = "onnxruntime-cpu"
    """Runtime that computes: onnxruntime-cpu, or where they are installed openvino and torch; on NVIDIA GPUs tensorrt,
    onnxruntime-cuda and torch, with the numbers of the GPUs behind it, as in tensorrt:0,1. `simulated:MS` answers
    after MS milliseconds a batch, to try out a deployment. Default for this, precision, threads and max_batch: what
    resnet-export tune found best on this machine, where it was run."""

    precision: Precision = "float32"
    """What it computes in: float32, or with less accuracy and more speed float16, bfloat16 or int8, where the executor
    has it and the model was exported with it."""

    threads: PositiveInt | None = None
    """Processors that compute a batch together. Default: all available, or one where an image takes so little that
    several would wait for one another."""

    instances: PositiveInt | None = None
    """Instances of the model that compute different batches at the same time, each with `threads` threads. Default: as
    many as the CPUs allow; on a GPU one."""

    single_image_threads: NonNegativeInt | None = None
    """Threads of one more instance, for a single image while no other request is in flight. With threads 1 and several
    instances it lowers the latency of a single request, and takes the memory of one more instance; 0 makes none.
    Default: all CPUs if an image takes so little memory that one more instance costs next to none; otherwise 0."""

    isolate: bool = False
    """Run each executor in a process of its own, about 70 MB each. A runtime that crashes is then started again, and
    nobody notices."""

    decode: DecodeMode = "exact"
    """exact: the pixels that Pillow gives, bit by bit, as in training. fast: nearly those, in less time; photographs
    much larger than the network takes are decoded at a fraction of their size."""

    decode_threads: PositiveInt = Field(default_factory=available_cpus)
    """Images decoded at the same time. Default: one for each processor."""

    decode_gpu: NonNegativeInt | None = None
    """Number of the GPU that decodes and resizes JPEG files, with nvImageCodec. Frees the processors, of which sixteen
    decode an eighth of what an H100 does; pixels may differ by one level of 255. Default: none."""

    max_batch: PositiveInt | None = None
    """Most images in one inference. More raise latency, and throughput up to a point. Default: measured at start,
    the smallest that is within 5 % of the best throughput."""

    max_delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """Milliseconds that an image may wait for others to share its batch. Batches form without it while the executor
    is busy; it only helps executors that gain much from full batches."""

    max_in_flight_images: PositiveInt = 512
    """Images accepted and not yet answered. More ride out longer bursts; those who come when it is full are refused
    at once."""

    timeout_ms: PositiveFloat = 10_000.0
    """Default time limit of a request, from its last byte to its answer. A request can ask for less or more; one that
    cannot be answered in time is refused at once."""

    rate_limit: Annotated[float, Field(ge=0)] = 0.0
    """Requests a second that each caller may send; 0 sets no limit. Keeps one caller from crowding out the others."""

    rate_burst: PositiveInt = 20
    """Requests that a caller may send at once after a pause, where there is a rate limit."""

    max_connections: PositiveInt = 4096
    """Clients connected at the same time; each takes a file descriptor. Those beyond get 503 and are disconnected."""

    client_timeout_seconds: PositiveFloat = 30.0
    """Time that a client has to send a request, and to read its answer. More serves slower networks; less frees what
    slow clients hold sooner."""

    keep_alive_seconds: PositiveInt = 75
    """Time that a connection may be idle. Must be more than that of a load balancer in front, or its requests meet
    connections that are being closed."""

    max_body_bytes: PositiveInt = 32 * _MIB
    """Largest request body."""

    max_decompressed_bytes: PositiveInt = 64 * _MIB
    """Largest request body after its Content-Encoding (gzip, deflate) is undone."""

    max_buffered_body_bytes: PositiveInt = 1024 * _MIB
    """Request bodies in memory at the same time, all together. Requests beyond are refused."""

    max_pixels: PositiveInt = 64_000_000
    """Largest image, width times height; decoding takes about 4 bytes of memory a pixel."""

    max_images: PositiveInt = 128
    """Most images in one request."""

    examples: DirectoryPath | None = None
    """Folder of images that the page offers to try. Default: those of the model that ships with the project, where it
    is served."""

    shutdown_seconds: PositiveFloat = 30.0
    """Time that accepted requests have to finish after SIGTERM."""

    log_format: LogFormat | None = None
    """json: an object a line, for programs; text: for people. Default: text on a terminal, otherwise json."""

    log_level: LogLevel = LogLevel.info
    """The least important lines to write. warning leaves out the line of each request."""

    tracing: bool = False
    """Send OpenTelemetry traces to the collector that the OTEL_EXPORTER_OTLP_* variables set. Needs the extra
    `tracing`."""

    traces_per_second: NonNegativeFloat = 10.0
    """Requests per second that are traced, beside all requests with a `traceparent` header; 0 traces every request. A
    trace costs half as much as the inference of a small network."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then environment variables, then those with former names."""
        return init_settings, env_settings, FormerEnvironment(settings_cls)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.max_images > self.max_in_flight_images:
            raise ValueError(
                f"max_images ({self.max_images}) must not be above max_in_flight_images "
                f"({self.max_in_flight_images}): raise max_in_flight_images"
            )
        if self.admin and self.api_keys is None:
            raise ValueError("admin needs api_keys: without keys anyone could unload models")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile needs ssl_certfile")
        return self
