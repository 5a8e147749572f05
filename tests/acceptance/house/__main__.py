"""The layout, the names, the tests, the speed and the documentation of the project.

    python -m tests.acceptance.house [LINE ...]

Needs git, make and an environment with the `cpu`, `train` and `dev` extras (`make test` makes one). Lines 4 and 6 are
timed: nothing else should run on the machine. Each line takes at most 25 minutes, except line 3, which runs the whole
suite five times.
"""

from tests.acceptance.house import middleware, newcomer, speed, structure, suite, words
from tests.acceptance.report import run

if __name__ == "__main__":
    run(
        {
            1: structure.check,
            2: words.check,
            3: suite.check,
            4: speed.check,
            5: newcomer.check,
            6: middleware.check,
        }
    )
