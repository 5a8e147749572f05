"""Former name of `service.cli.healthcheck`; goes with the next release."""  # words: allow

from __future__ import annotations

import sys

from service.cli.healthcheck import main

if __name__ == "__main__":
    print("warning: python -m service.probe is now python -m service.cli.healthcheck", file=sys.stderr)
    main()
