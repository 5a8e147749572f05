"""The studies that compute in the browser, and the studies at full strength.

    python -m tests.acceptance.studies_live [LINE ...]

Needs an environment with the `cpu`, `train` and `dev` extras, and Debian's Chromium. Line 1 is timed: nothing else may
run on the machine; it draws its settings from STUDIES_LIVE_SEED (an integer, 31 by default).
"""

from tests.acceptance.report import run
from tests.acceptance.studies_live import full_strength, lesions, notebook_11_1, pages, widgets

if __name__ == "__main__":
    run({1: widgets.check, 2: lesions.check, 3: notebook_11_1.check, 4: full_strength.check, 5: pages.check})
