"""Makes an API key and prints the entry for the file of keys.

    python -P -m service.cli.api_key NAME [SCOPE...] >> keys.toml

The entry goes to standard output, the key to standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from typing import get_args

from service.core.api_keys import KeyScope


def make_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Make a key, and its entry in TOML."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, f'[[key]]\nname = {json.dumps(name)}\nscopes = {json.dumps(scopes)}\nsha256 = "{digest}"\n'


def main() -> None:
    """Parse the command line and print the key."""
    parser = argparse.ArgumentParser("python -P -m service.cli.api_key", description="Make an API key.")
    parser.add_argument("name", metavar="NAME", help="name of the key in the log")
    scopes = get_args(KeyScope)
    parser.add_argument("scopes", metavar="SCOPE", nargs="*", help=f"{', '.join(scopes)}; default: classify")
    options = parser.parse_args()
    if unknown := set(options.scopes) - set(scopes):
        parser.error(f"there is no scope {min(unknown)!r}; there are: {', '.join(scopes)}")
    secret, entry = make_key(options.name, options.scopes or ["classify"])
    print(f"the key, which is shown only here: {secret}", file=sys.stderr)
    print(entry, end="")


if __name__ == "__main__":
    main()
