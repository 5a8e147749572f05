"""Former name of `service.cli.api_key`; goes with the next release."""

from __future__ import annotations

import sys

from service.cli.api_key import main

if __name__ == "__main__":
    print("warning: python -m service.auth is now python -m service.cli.api_key", file=sys.stderr)
    main()
