"""A service of several processes: its answers, its cost, and the end of each of its processes.

    python -m tests.acceptance.workers [LINE ...]

Needs Linux, wrk, and an environment with the `cpu` and `dev` extras. Executors of fixed service time stand for a GPU.
Lines 2 and 7 are timed: nothing else should run on the machine. Line 3 needs a host with a GPU, and line 7 the other
servers; `tests.acceptance.peers` says where.
"""

from tests.acceptance.report import run
from tests.acceptance.workers import answers, cost, counts, elsewhere, lives, reload

if __name__ == "__main__":
    run(
        {
            1: answers.check,
            2: cost.check,
            3: elsewhere.check_gpu,
            4: lives.check,
            5: reload.check,
            6: counts.check,
            7: elsewhere.check_peers,
        }
    )
