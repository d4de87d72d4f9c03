#!/usr/bin/python3
"""CPU of a gateway pair with nothing to do: two sites on DPDK's af_packet, connected, no VM. Prints % of one core.

    tests/bench/idle.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(TOP / "deploy/quickstart")]

from network import A_PORT, B_PORT, Lab, Link  # noqa: E402
from sites import Site, SiteLayout, make_secrets  # noqa: E402


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    binaries = TOP / "build/release/bin"
    with tempfile.TemporaryDirectory(prefix="evacgw-idle-") as folder:
        work = Path(folder)
        lab = Lab(f"{os.getpid()}-i")
        layouts = [SiteLayout(work, "site-a"), SiteLayout(work, "site-b")]
        sites = [Site(layouts[0], lab.site_a, binaries), Site(layouts[1], lab.site_b, binaries)]
        try:
            lab.create()
            lab.start_emulator(binaries / "wan-emulator", Link(100, 20, 0.1, 1), work)
            make_secrets(work / "keys")
            for site, peer, port in zip(sites, reversed(layouts), (A_PORT, B_PORT)):
                site.prepare(peer, work / "ram", port, 100)
                site.start()
            for site in sites:
                site.wait_connected()
            time.sleep(2)
            before = [cpu_s(site.pid) for site in sites]
            time.sleep(seconds)
            for site, start in zip(sites, before):
                share = 100 * (cpu_s(site.pid) - start) / seconds
                print(f"{site.layout.name}: {share:.2f} % of a core over {seconds:.0f} s (target: under 2 %)")
        finally:
            for site in sites:
                site.stop()
            lab.destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
