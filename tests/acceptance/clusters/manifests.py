"""Line 5: the manifests are rendered and valid, and checkov finds nothing in them without an explanation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.acceptance.clusters import rollover
from tests.support import kubernetes
from tests.support.kubernetes import OVERLAYS, ROOT

CUSTOM = sorted(path for name in ("kserve", "ray") for path in (ROOT / "deploy" / name).glob("*.yaml"))
CHECKOV_FILE = ROOT / "deploy" / "kubernetes" / "checkov.yaml"


def check() -> tuple[bool, str]:
    """Render each overlay, compare it with the schemas of three versions, and have checkov look at it."""
    checkov = os.environ.get("CHECKOV") or shutil.which("checkov")
    if checkov is None:
        return False, "checkov is not on the PATH: set CHECKOV"
    manifests, problems, findings = 0, [], []
    for overlay in sorted(OVERLAYS.iterdir()):
        rendered = kubernetes.render(overlay)
        manifests += len(rendered)
        problems += [
            f"{overlay.name}, Kubernetes {version}: {problem}"
            for version in kubernetes.versions()
            for manifest in rendered
            if (problem := kubernetes.problems(manifest, version)) is not None
        ]
        findings += _findings(checkov, yaml.safe_dump_all(rendered))
    for path in CUSTOM:
        read = [each for each in kubernetes.read(path.read_text()) if "kind" in each]
        # The pods of a custom resource are checked as pods: checkov does not know the resource.
        pods = [pod for each in read if each["kind"] == "RayService" for pod in kubernetes.ray_pods(each)]
        manifests += len(read)
        problems += [
            f"{path.name}, Kubernetes {version}: {problem}"
            for version in kubernetes.versions()
            for manifest in [*read, *pods]
            if (problem := kubernetes.problems(manifest, version)) is not None
        ]
        findings += _findings(checkov, yaml.safe_dump_all([*read, *pods])) if pods else []
    print(*problems, *findings, sep="\n")
    rolled, rollover_figure = rollover.check()
    return not problems and not findings and rolled, (
        f"{manifests} manifests, Kubernetes {', '.join(kubernetes.versions())}: {len(problems)} problems; checkov: "
        f"{len(findings)} findings beside the {len(yaml.safe_load(CHECKOV_FILE.read_text())['skip-check'])} explained; "
        f"{rollover_figure}"
    )


def _findings(checkov: str, text: str) -> list[str]:
    with TemporaryDirectory(prefix="clusters-") as folder:
        path = Path(folder) / "rendered.yaml"
        path.write_text(text)
        done = subprocess.run(
            [checkov, "--config-file", str(CHECKOV_FILE), "-f", str(path)], capture_output=True, text=True
        )
    found = [line.strip() for line in done.stdout.splitlines() if line.startswith("Check: ")]
    if done.returncode and not found:
        raise RuntimeError(f"checkov ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return found
