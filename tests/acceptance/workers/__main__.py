"""A service of several processes: its answers, its cost, and the end of each of its processes.

    python -m tests.acceptance.workers [LINE ...]

Needs Linux, wrk, and an environment with the `cpu` and `dev` extras. Executors of fixed service time stand for a GPU.
Lines 2 and 7 are timed: nothing else should run on the machine. Line 3 measures a host with a GPU of the H100 class and
16 CPUs; elsewhere it runs its script with a simulated device. Line 7 needs the other servers; `tests.acceptance.peers`
says where.
"""

from tests.acceptance.report import run
from tests.acceptance.workers import answers, cost, counts, gpu_host, lives, reload, servers

if __name__ == "__main__":
    run(
        {
            1: answers.check,
            2: cost.check,
            3: gpu_host.check,
            4: lives.check,
            5: reload.check,
            6: counts.check,
            7: servers.check,
        }
    )
