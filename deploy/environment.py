"""Prints .env.example: `make .env.example`. What a setting is for is said in service/core/settings.py and nowhere else."""

from __future__ import annotations

import textwrap

from pydantic.fields import FieldInfo

from service.core.settings import Settings

COMPOSE = """\
# Settings for docker-compose.yml: copy this file to .env, and take the sign from those lines that you change.
# After a change: docker compose up -d


# ---- The containers ----

# Address and port at which the service is published. 0.0.0.0 makes it reachable from other machines: with keys, and
# behind TLS, see docs/deployment.md.
# ADDRESS=127.0.0.1
# PORT=8000

# The port of the service on GPUs (--profile gpu).
# GPU_PORT=8001

# What computes on the processor: cpu is ONNX Runtime, openvino is faster for large networks in int8. After a change:
# docker compose up --build
# TARGET=cpu

# Processors that the service may use; 0 for all.
# CPUS=0

# Memory at which the service is ended and started again; docs/deployment.md says how much it needs.
# MEMORY=4g
# GPU_MEMORY=16g

# The file of API keys on this machine. RESNET_SERVE_API_KEYS=/run/secrets/api-keys has the service ask for them.
# API_KEYS=./deploy/no-keys.toml

# Folder with checkpoints, which the export CLI sees as /runs.
# RUNS=./runs

# Ports of Prometheus and Grafana on this machine (--profile monitoring), and how long measurements are kept.
# PROMETHEUS_PORT=9090
# GRAFANA_PORT=3000
# RETENTION=15d


# ---- The service ----

"""

FIXED = {"repository": "/repository", "cache": "/cache", "host": "0.0.0.0", "port": "8000"}
"""docker-compose.yml sets these; a value in .env counts outside of it only."""


IMAGES = {"executor": "The images openvino and gpu have openvino and tensorrt."}
"""Defaults that are not the same in all images."""


def render() -> str:
    """The whole file."""
    return COMPOSE + "\n".join(_setting(name, field) for name, field in Settings.model_fields.items())


def _setting(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if name in FIXED:
        text += f" In a container it is {FIXED[name]}, whatever stands here."
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
