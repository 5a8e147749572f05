"""Prints .env.example: `make .env.example`. The texts are the docstrings of service/core/settings/__init__.py."""

from __future__ import annotations

import textwrap

from pydantic.fields import FieldInfo

from service.core.settings import Settings

COMPOSE = """\
# Settings for docker-compose.yml: copy this file to .env, and uncomment the lines that you change.
# After a change: docker compose up -d


# ---- The containers ----

# Address and port at which the service is published. 0.0.0.0 makes it reachable from other machines: with keys, and
# behind TLS, see docs/deployment.md.
# ADDRESS=127.0.0.1
# PORT=8000

# The port of gRPC.
# GRPC_PORT=8001

# The ports of the service on GPUs (--profile gpu or gpu-slim).
# GPU_PORT=8010
# GPU_GRPC_PORT=8011

# GPUs to build CUDA engines for (--profile engines): 9.0 is an H100 or H200, 8.9 an L4, 8.6 an A10, 8.0 an A100.
# COMPUTE_CAPABILITY=9.0

# Runtime on the CPU: cpu is ONNX Runtime, openvino is faster for large networks in int8. After a change:
# docker compose up --build
# TARGET=cpu

# CPUs that the service may use; 0 for all.
# CPUS=0

# Memory limit, above which the service is killed and restarted; docs/deployment.md has the requirements.
# MEMORY=4g
# GPU_MEMORY=16g

# File of API keys on this machine. RESNET_SERVE_API_KEYS=/run/secrets/api-keys makes the service require them.
# API_KEYS=./deploy/no-keys.toml

# Folder with checkpoints, mounted as /runs in the export CLI.
# RUNS=./runs

# Ports of Prometheus and Grafana on this machine (--profile monitoring), and the retention of measurements.
# PROMETHEUS_PORT=9090
# GRAFANA_PORT=3000
# RETENTION=15d


# ---- The service ----

"""

FIXED = {"repository": "/repository", "cache": "/cache", "host": "0.0.0.0", "port": "8000", "grpc_port": "8001"}
"""Set by docker-compose.yml; a value in .env applies only without Compose."""


IMAGES = {"executor": "In the images openvino, gpu and gpu-slim it is openvino, tensorrt and cuda."}
"""Defaults that differ between images."""


def render() -> str:
    """The whole file."""
    return COMPOSE + "\n".join(_setting(name, field) for name, field in Settings.model_fields.items())


def _setting(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if name in FIXED:
        text += f" In a container it is always {FIXED[name]}."
    if name in IMAGES:
        text += f" {IMAGES[name]}"
    lines = textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines) + f"# RESNET_SERVE_{name.upper()}={_default(field)}\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default is None:
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


if __name__ == "__main__":
    print(render(), end="")
