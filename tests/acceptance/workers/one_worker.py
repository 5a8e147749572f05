"""A service of one worker and an engine process: `python -m tests.acceptance.workers.one_worker [OPTION...]`.

`resnet-serve --workers 1` is a single process.
"""

from __future__ import annotations

import sys

from pydantic_settings import CliApp

from service import processes
from service.core.settings import Settings
from service.telemetry import log_config

if __name__ == "__main__":
    settings = CliApp.run(Settings, cli_args=sys.argv[1:])
    log_config.configure_without_thread(settings.log_format, settings.log_level)
    sys.exit(processes.serve(settings, 1))
