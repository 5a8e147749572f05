"""Names of weights lead to files in a folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights as a hub lays them out, the first that is there counts: safetensors before pickles."""
CONFIGURATIONS = ("config.json", "preprocessor_config.json")
CARD, LICENCES = "README.md", ("LICENSE", "LICENSE.md", "LICENSE.txt")


_LICENCE_LINE = re.compile(r"^(license|license_name):[ \t]*[\"']?([\w .+-]+)", re.MULTILINE)
"""In the header of a model card: `license: apache-2.0`, or `license: other` and `license_name: its-name`."""


@dataclass(frozen=True)
class FetchedWeights:
    """Weights on this machine, and what is known of them."""

    path: Path
    """File of the weights, or the index of its parts; the configuration lies beside it."""
    name: str
    """Suggestion for the name of the model; it can have characters that such a name must not have."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Fields for the checkpoint: source, commit, licence."""
    architecture: str | None = None
    """Name in the table of architectures, if the name of the weights tells it."""

    @property
    def licence(self) -> str | None:
        """The licence of the weights, if it is stated."""
        return self.provenance.get("licence")


class Source(Protocol):
    """Interface of the module of a kind of names."""

    def fetch(self, name: str) -> FetchedWeights:
        """Bring weights onto this machine.

        Args:
            name: the name without its prefix.

        Raises:
            FetchError: there are no such weights, or they cannot be fetched.
            OSError: they cannot be written.
        """
        ...


def find_licence(find: Callable[[str], Path | None]) -> str | None:
    """The licence of a folder: from the header of its model card, or the first line of its licence.

    Args:
        find: gives a file of the folder, None if there is none.
    """
    if card := find(CARD):
        header = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        values = dict(_LICENCE_LINE.findall(header[1]) if header else ())
        if licence := values.get("license_name") or values.get("license"):
            return f"{licence.strip()} ({CARD})"
    for name in LICENCES:
        if file := find(name):
            lines = (line.strip("# \t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
            if first := next(filter(None, lines), None):
                return f"{first[:100]} ({name})"
    return None
