"""All settings: defaults, environment variables and command-line flags come from this definition."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from models.artifact.manifest import MODEL_NAME, Precision
from models.runtime.engine_cache import default_folder
from service.core import platforms
from service.core.choices import DecodeMode, LogFormat, LogLevel, Watch
from service.core.cpus import available_cpus
from service.core.settings.consistency import check_consistent
from service.core.settings.environment import ServiceEnvironment
from service.core.settings.former_names import FormerEnvironment
from service.core.settings.values import (
    check_compat,
    check_folder,
    check_names,
    check_proxies,
    check_repository,
    check_versions,
    parse_bytes,
)

_MIB = 1024 * 1024


def shipped_repository() -> Path:
    """The model repository that ships with the project."""
    return Path(str(resources.files("models"))) / "pretrained" / "repository"


class Settings(BaseSettings):
    """Serve the models of a repository over HTTP and gRPC.

    Each option can also be set as an environment variable: RESNET_SERVE_ and its name in capitals.
    """

    model_config = SettingsConfigDict(
        env_prefix="RESNET_SERVE_",
        env_ignore_empty=True,
        frozen=True,
        cli_prog_name="resnet-serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    repository: Annotated[Path | str, BeforeValidator(check_repository)] = Field(default_factory=shipped_repository)
    """Folder of models, as resnet-export writes it, or its URL in object storage, such as s3://bucket/models, gs://…,
    az://… or hf://… (extra `storage`), which is copied into `cache`. Default: the model that ships with the project."""

    model: str | None = None
    """Model of /v1/classify, if the repository has several. Default: the first by name."""

    only_model: Annotated[str, Field(pattern=MODEL_NAME)] | None = None
    """Name of the only model, if `repository` is the folder of one model with its versions, or of one version, as
    KServe mounts them. The name in the manifests does not matter then. Default: `repository` is a folder of models."""

    versions: Annotated[str, AfterValidator(check_versions)] = "latest"
    """Versions to serve: latest, all, or numbers such as 1,3. With a default and single models, separated by blanks:
    `latest tiny=all resnet50=1,3`. Without a version, a request goes to the newest served version."""

    traffic: Path | None = None
    """TOML file of traffic policies: the shares of the requests that versions of a model get. A change of the file
    applies within a second; requests to /v1/models/MODEL/rollout change it, with `admin`. Default: no policies."""

    memory_limit: Annotated[PositiveInt, BeforeValidator(parse_bytes)] | None = None
    """Resident memory of all processes of the service together, such as 4GB or 512MiB. Models are then loaded at their
    first request, and the least recently used ones leave. Linux only. Default: no limit, and all models are loaded."""

    pin: Annotated[str, AfterValidator(check_names)] = ""
    """Models, separated by commas or blanks, that are loaded at the start and stay in memory. Needs memory_limit."""

    min_residence_seconds: NonNegativeFloat = 10.0
    """Time that a model stays in memory before another one may take its place, with memory_limit. A larger value
    wastes less time on loads, and refuses requests for longer, if more models are in use than there is room for."""

    response_cache: Annotated[PositiveInt, BeforeValidator(parse_bytes)] | None = None
    """Memory for responses of /v1/classify, such as 256MB: the same image, version and parameters get the same answer
    without being computed again. With `workers`, each has its part. Default: no cache."""

    cache: Path = Field(default_factory=default_folder)
    """Folder of engines and profiles of this machine, as resnet-export engines and resnet-serve tune write
    them. Default: ~/.cache/resnet-serve, or resnet-serve in XDG_CACHE_HOME; /var/cache/resnet-serve for a user without
    a home folder."""

    watch: Watch = "auto"
    """When the service looks for new and removed versions. auto: once per second; poll: the same, as before version
    0.2; off: only at start, or if an admin loads the model."""

    storage_poll_seconds: PositiveFloat = 30.0
    """Seconds between two looks at a repository in object storage. Each look is a few requests to the provider."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 makes the service reachable from other machines."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 selects a free port."""

    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the Open Inference Protocol over gRPC, such as 8001; 0 selects a free port. Needs the extra `grpc`.
    Default: no gRPC."""

    root_path: Annotated[str, Field(pattern=r"^(/[^/?#\s]+)*$")] = ""
    """Path prefix, such as /vision, that a proxy in front of the service removes. Links of the API begin with it."""

    ssl_certfile: Path | None = None
    """Certificate chain, PEM. The service then uses TLS."""

    ssl_keyfile: Path | None = None
    """Private key of the certificate, PEM, unless it is in the same file."""

    trusted_proxies: Annotated[str, AfterValidator(check_proxies)] = ""
    """Addresses or networks of proxies, such as `10.0.0.7 172.16.0.0/12`, separated by blanks; * for all. The address
    of a client, for the rate limit and the log, is then taken from their header X-Forwarded-For. Default: from none."""

    api_keys: Path | None = None
    """TOML file of API keys; `python -P -m service.cli.api_key NAME` makes a key. A change of the file applies at once.
    Default: requests need no key."""

    admin: bool = False
    """Accept load and unload requests under /v2/repository, with keys that have the scope admin. Needs api_keys."""

    cors_origins: str = ""
    """Origins such as https://example.org, separated by blanks, whose pages may use the service from a browser; * for
    all. Default: only pages of the service itself."""

    compat: Annotated[str, AfterValidator(check_compat)] = ""
    """Platforms whose routes the service also answers, separated by commas: kserve-v1, sagemaker, torchserve, vertex.
    Default: none. With vertex and sagemaker, AIP_HTTP_PORT and SAGEMAKER_BIND_TO_PORT are used instead of port."""

    executor: str = "onnxruntime-cpu"
    """Runtime that computes: onnxruntime-cpu or, if installed, openvino; on NVIDIA GPUs cuda, tensorrt and
    onnxruntime-cuda, with GPU numbers as in cuda:0,1. `simulated:MS` answers after MS milliseconds per batch, to try
    out a deployment. On a GPU the default is cuda if an engine of the model is in the cache, otherwise onnxruntime-cuda
    if it is installed. If resnet-serve tune has written a profile, it gives the default of this setting, of precision,
    threads, instances and max_batch."""

    precision: Precision = "float32"
    """Precision of the computation: float32, or with less accuracy and more speed float16, bfloat16 or int8, if the
    executor supports it and the model was exported with it."""

    threads: PositiveInt | None = None
    """Threads of each instance, which compute a batch together. Default: half of the CPUs; 1 for a network of up to 100
    million multiply-adds, whose threads would wait for each other."""

    instances: PositiveInt | None = None
    """Instances of the model that compute different batches at the same time, each with `threads` threads. Default: 2,
    on GPUs 1 per GPU; for a network of up to 100 million multiply-adds one per CPU, at most 8."""

    single_image_threads: NonNegativeInt | None = None
    """Threads of one more instance, for a single image while no other request is in flight; 0 for no such instance.
    Lowers the latency of single requests and takes the memory of one more instance. Default: all CPUs, for a network
    of up to 100 million multiply-adds at most 8; 0 on a GPU, or if `instances` is 1."""

    workers: PositiveInt | None = None
    """Processes that receive, decode and answer; with more than 1, one more process computes. Linux only. Default: 1,
    all in one process; on a GPU half of the CPUs, at most 8."""

    decode: DecodeMode = "exact"
    """exact: the pixels of Pillow, bit by bit, as in training. fast: nearly the same pixels in less time; photographs
    much larger than the input of the network are decoded at a fraction of their size."""

    decode_threads: PositiveInt = Field(default_factory=available_cpus)
    """Images decoded at the same time. Default: the number of CPUs."""

    decode_gpu: NonNegativeInt | None = None
    """Number of the GPU that decodes and resizes JPEG files, with nvImageCodec. Frees CPUs: sixteen CPUs decode an
    eighth of the images of an H100. Pixels may differ by one level of 255. Default: none."""

    max_batch: PositiveInt | None = None
    """Most images in one batch. A larger value raises latency, and throughput up to a limit. Default on a CPU: 8, and
    less for a network of more than 2.5 billion multiply-adds; on a GPU the largest bucket, at most 128."""

    max_delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """Milliseconds that an image may wait for others to share its batch. Without a delay, batches form while the
    executor is busy; a delay only helps executors that gain much from full batches."""

    max_in_flight_images: PositiveInt = 512
    """Images accepted and not yet answered. A larger value absorbs longer bursts; requests above it are refused at
    once."""

    timeout_ms: PositiveFloat = 10_000.0
    """Default time limit of a request, from its last byte to its response. A request can set another limit; a request
    that cannot be answered in time is refused at once."""

    rate_limit: Annotated[float, Field(ge=0)] = 0.0
    """Requests per second of each client address, or with API keys of each key; 0 for no limit. Keeps one client from
    taking the capacity of the others."""

    rate_burst: PositiveInt = 20
    """Requests that a client may send at once after a pause, if there is a rate limit."""

    max_connections: PositiveInt = 4096
    """Clients connected at the same time; each takes a file descriptor. Further connections get one response, with
    status 503 except for probes, and are closed."""

    client_timeout_seconds: PositiveFloat = 30.0
    """Time limit for a client to send a request, and to read its response. A larger value serves slower networks; a
    smaller one frees the resources of slow clients sooner."""

    keep_alive_seconds: PositiveInt = 75
    """Time that a connection may be idle. Must be above the idle time of a load balancer in front of the service, which
    otherwise sends requests on connections that are being closed."""

    max_body_bytes: PositiveInt = 32 * _MIB
    """Largest request body, and largest message over gRPC."""

    max_decompressed_bytes: PositiveInt = 64 * _MIB
    """Largest request body after its Content-Encoding (gzip, deflate) is undone."""

    max_json_bytes: PositiveInt = _MIB
    """Largest JSON in a request. Counts what is slow to parse: numbers, brackets and names, and for base64 nothing. A
    parse of the default takes up to 50 ms, in which the service does nothing else. Over gRPC, the largest message
    without raw tensors."""

    max_buffered_body_bytes: PositiveInt = 1024 * _MIB
    """Memory for the bodies of all requests in flight. Further requests are refused."""

    max_pixels: PositiveInt = 64_000_000
    """Largest image, width times height."""

    max_decode_bytes: PositiveInt = 1024 * _MIB
    """Memory for all images of more than 16 MB that are decoded at the same time. Decoding takes 4 to 16 bytes per
    pixel, by format. Images wait for memory until their time limit; an image that needs more is refused."""

    max_images: PositiveInt = 128
    """Most images in one request."""

    examples: Annotated[Path, AfterValidator(check_folder)] | None = None
    """Folder of images that the page offers as examples. Default: the examples of the model that ships with the
    project, if it is served."""

    shutdown_seconds: PositiveFloat = 30.0
    """Time limit for requests in flight after SIGTERM."""

    log_format: LogFormat | None = None
    """json: one object per line, for programs; text: for people. Default: text on a terminal, otherwise json."""

    log_level: LogLevel = LogLevel.info
    """Least important lines to write. warning leaves out the line of each request."""

    tracing: bool = False
    """Send OpenTelemetry traces to the collector that the OTEL_EXPORTER_OTLP_* variables set. Needs the extra
    `tracing`."""

    traces_per_second: NonNegativeFloat = 10.0
    """Requests per second that are traced, beside all requests with a `traceparent` header; 0 traces every request. A
    trace costs half as much as the inference of a small network."""

    @property
    def repository_folder(self) -> Path:
        """Folder of the models on this machine: `repository`, or the copy of that URL in `cache`."""
        if isinstance(self.repository, Path):
            return self.repository
        return self.cache / "repositories" / hashlib.sha256(self.repository.encode()).hexdigest()[:16]

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
        return init_settings, ServiceEnvironment(settings_cls), FormerEnvironment(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _use_port_of_platform(cls, values: dict[str, Any]) -> dict[str, Any]:
        return platforms.use_port(values)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        check_consistent(self)
        return self
