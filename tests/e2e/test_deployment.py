"""The Compose file, its settings and what goes into an image. `tests.acceptance.compose` builds and runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.environment import FIXED, render
from service.core.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
VARIABLES = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
PREFIX = "RESNET_SERVE_"


def test_compose_is_valid_under_the_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, ROOT / "docker-compose.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_invalid_compose_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(COMPOSE_TEXT.replace("read_only: true", "readonly: true"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, tmp_path / "docker-compose.yml"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "readonly" in done.stdout


def test_example_names_every_setting_and_no_other() -> None:
    names = {name.removeprefix(PREFIX).lower() for name in VARIABLES if name.startswith(PREFIX)}
    assert names == set(Settings.model_fields)


def test_example_is_generated_from_the_settings() -> None:
    assert render() == EXAMPLE, "run `make .env.example`"


def test_defaults_in_the_example_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    defaults = Settings()
    shown = {name: value for name, value in VARIABLES.items() if name.startswith(PREFIX) and value}
    assert len(shown) > 20
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    assert Settings() == defaults


def test_example_names_every_variable_of_compose_with_its_default() -> None:
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE_TEXT))
    assert len(re.findall(r"\$", COMPOSE_TEXT)) == len(re.findall(r"\$\{[A-Z_]+:-", COMPOSE_TEXT))
    assert used == {name: value for name, value in VARIABLES.items() if not name.startswith(PREFIX)}


def test_values_fixed_by_compose_agree_with_image_and_example() -> None:
    fixed = {PREFIX + name.upper(): value for name, value in FIXED.items()}
    image = dict(re.findall(rf"({PREFIX}[A-Z_]+)=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    for service in ("cpu", "gpu", "gpu-slim"):
        assert COMPOSE["services"][service]["environment"] == fixed
    assert fixed.keys() - image.keys() == {PREFIX + "GRPC_PORT"}  # off in an image alone
    assert image.items() & fixed.items() == {item for item in fixed.items() if item[0] in image}


def test_containers_have_limits_and_few_privileges() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        if name not in ("export", "engines"):  # which run once, with all there is
            assert service["restart"] == "unless-stopped", name
            assert service["deploy"]["resources"]["limits"]["memory"], name
        if "image" in service and "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        if name not in ("grafana",):
            assert service["read_only"], name


def test_stop_grace_period_exceeds_the_shutdown_time() -> None:
    for service in ("cpu", "gpu", "gpu-slim"):
        grace = COMPOSE["services"][service]["stop_grace_period"]
        assert float(grace.removesuffix("s")) > Settings().shutdown_seconds


def test_engines_are_built_into_the_cache_that_is_served() -> None:
    """By a container that needs no GPU and cannot change the models; a service finds them where it looks."""
    services = COMPOSE["services"]
    mounted = {name: set(services[name]["volumes"]) for name in ("cpu", "gpu", "gpu-slim", "engines")}
    assert mounted["engines"] == mounted["cpu"] == mounted["gpu"] == mounted["gpu-slim"]
    assert "repository:/repository:ro" in mounted["engines"]
    assert "deploy" not in services["engines"] and services["engines"]["restart"] == "no"
    assert services["engines"]["command"][:3] == ["/repository", "--runtime", "cuda"]


def test_small_image_for_gpus_has_no_large_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split("[^a-z0-9-]", line)[0] for line in project["optional-dependencies"]["gpu-slim"]}
    assert names == {"cuda-bindings", "onnxruntime"}
