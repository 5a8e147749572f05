"""Line 6: docs/clusters.md lists all that was not run on a real cluster."""

from __future__ import annotations

import re

from tests.support.kubernetes import ROOT

FOLDERS = ("kubernetes", "kserve", "ray")
HEADING = "## Not run on a real cluster\n"
_GENERATED = {"configMapGenerator": "ConfigMap", "secretGenerator": "Secret"}
_OF_KUSTOMIZE = {"Kustomization", "Component"}


def check() -> tuple[bool, str]:
    """Look for each kind of resource, each overlay, component and file, and each other line, and print the list."""
    document = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    section = document.partition(HEADING)[2].partition("\n## ")[0]
    print(section.strip())
    kinds, names = _kinds(), _names()
    lines = {f"line {number}" for number in range(1, 6)}
    missing = [each for each in sorted(kinds | names | lines) if not re.search(rf"\b{re.escape(each)}\b", section)]
    return not missing, (
        f"{len(kinds)} kinds of resources, {len(names)} overlays, components and files, and lines 1 to 5: "
        f"{'not listed: ' + ', '.join(missing) if missing else 'all listed'}"
    )


def _kinds() -> set[str]:
    """Kinds of resources in deploy, with those that kustomize makes."""
    kinds = set()
    for folder in FOLDERS:
        for path in (ROOT / "deploy" / folder).rglob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            kinds |= set(re.findall(r"^kind: (\w+)$", text, re.MULTILINE)) - _OF_KUSTOMIZE
            kinds |= {kind for generator, kind in _GENERATED.items() if f"{generator}:" in text}
    return kinds


def _names() -> set[str]:
    """Names of overlays and components, and of the files for KServe and Ray."""
    kubernetes = ROOT / "deploy" / "kubernetes"
    names = {path.name for kind in ("overlays", "components") for path in (kubernetes / kind).iterdir()}
    return names | {path.name for folder in FOLDERS[1:] for path in (ROOT / "deploy" / folder).glob("*.yaml")}
