"""Line 7: the other servers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import date

from models.runtime.tuning import Host
from service.core.cpus import available_cpus
from tests.acceptance import peers


def check() -> tuple[bool, str]:
    """The defaults, beside the other servers; Ray Serve behind HAProxy. Writes docs/servers.json.

    Takes 20 minutes. Nothing else should run on the machine.
    """
    if "PEERS_BENCH" not in os.environ:
        return False, "not measured: set PEERS_BENCH to the folder of the other servers' benchmark"
    holds, figures, networks = True, [], {}
    for network, least in (("resnet20", 1.2), ("resnet50", 1.05)):
        beside = peers.compare(network, {"ours": ()}, (1, 32), {"ray": "ray-ha"})
        networks[network] = asdict(beside)
        rate, latency = beside.rate_over_best("ours"), beside.latency_over_best("ours")
        holds = holds and rate >= least and latency <= 1.03
        figures.append(
            f"{network}: 32 connections {rate:.3f} x the best ({least}), one connection {latency:.3f} x the best "
            f"latency (1.03): {beside}"
        )
    here = Host.here(available_cpus())
    document = {"machine": f"{here.cpus} CPUs, {here.cpu}", "date": f"{date.today():%Y-%m-%d}", "networks": networks}
    (peers.ROOT / "docs" / "servers.json").write_text(json.dumps(document, indent=2) + "\n")
    return holds, "; ".join(figures)
