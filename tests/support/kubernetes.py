"""Kubernetes manifests: rendered by kubectl, and checked against the schemas of Kubernetes and of custom resources."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
CRDS = ROOT / "tests" / "data" / "crds"

Manifest = dict[str, Any]


def kubectl_problem() -> str | None:
    """Why manifests cannot be rendered here; None if they can."""
    return None if shutil.which("kubectl") else "kubectl is not installed"


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def read(text: str) -> list[Manifest]:
    """The manifests in a file."""
    return [each for each in yaml.safe_load_all(text) if each is not None]


def versions() -> list[str]:
    """The last three minor versions of Kubernetes whose schemas are installed, oldest first."""
    minors = {tuple(map(int, version.split(".")[:2])) for version in utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(minors)[-3:]]


def problems(manifest: Manifest, version: str) -> str | None:
    """Why a version of Kubernetes would refuse a manifest; None if it takes it. Unknown fields are refused."""
    schema = _custom().get((manifest["apiVersion"], manifest["kind"]))
    try:
        if schema is None:
            kubernetes_validate.validate(manifest, version, strict=True)
        else:
            jsonschema.Draft202012Validator(schema).validate(manifest)
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        return f"{manifest['kind']}: {error.message}"
    return None


def _custom() -> dict[tuple[str, str], Manifest]:
    """The schemas of custom resources by apiVersion and kind."""
    found = {}
    for path in sorted(CRDS.glob("*.json.gz")):
        document = json.loads(gzip.decompress(path.read_bytes()))
        found[f"{document['group']}/{document['version']}", document["kind"]] = _closed(document["schema"])
    return found


def _closed(schema: Any) -> Any:
    """A schema that refuses unknown fields, as the API server does; and without values that JSON Schema has not."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


def ray_pods(service: Manifest) -> list[Manifest]:
    """The pods of a RayService, head first, as manifests of their own."""
    cluster = service["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": template["spec"]["containers"][0]["name"]},
            "spec": template["spec"],
        }
        for template in templates
    ]
