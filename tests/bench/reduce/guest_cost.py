#!/usr/bin/python3
"""What prestaging costs the guest: its rate of work with and without, counted inside the guest and
timed by the host (a guest's own clock stands still while it is stopped).

    tests/bench/reduce/guest_cost.py [--windows 4] [--seconds 40] [--shared] [--json FILE]

One guest of 384 MiB that saturates its virtual CPU and rewrites 2 MiB/s; both gateways on the same
machine, default budget. Windows without and with protection alternate; the first staging, which has
a budget of its own, is waited for and reported apart.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reduce_lab import TOP, ReduceLab, write_figures  # noqa: E402  (knows where the others are)

from guests import Guest, GuestSpec  # noqa: E402
from network import Link  # noqa: E402

TARGET = 0.97


@dataclass(frozen=True)
class Reading:
    """Units of work that the guest had done when the host read of it."""

    units: int
    host_s: float


def read_work(guest: Guest, timeout_s: float = 10.0) -> Reading:
    """The next report after now: its arrival is the moment that is meant."""
    path = guest.paths.serial
    deadline = time.monotonic() + timeout_s
    with open(path, "rb") as log:
        log.seek(0, 2)
        rest = b""
        while time.monotonic() < deadline:
            rest += log.read()
            found = re.search(rb"^WRK (\d+) \d+\r?\n", rest, re.M)
            if found:
                return Reading(int(found.group(1)), time.monotonic())
            time.sleep(0.002)
    raise RuntimeError(f"{guest.spec.name} reports no work: {path}")


def rate_over(guest: Guest, seconds: float) -> float:
    first = read_work(guest)
    time.sleep(seconds)
    last = read_work(guest)
    return (last.units - first.units) / (last.host_s - first.host_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=4, help="pairs of windows (default 4)")
    parser.add_argument("--seconds", type=float, default=40, help="of a window (default 40)")
    parser.add_argument("--shared", action="store_true", help="guest memory that can be mapped")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    options = parser.parse_args()
    if options.windows < 1 or not 1 <= options.seconds <= 600:
        parser.error("--windows takes 1 or more, --seconds 1 to 600")
    extra = {"memory": "memfd"} if options.shared else {}
    spec = GuestSpec("worker", "writer", 384, 48, 216, 7, rate_mib=2, works=True, **extra)
    without: list[float] = []
    during: list[float] = []
    staging: list[float] = []
    rounds: list[int] = []
    with ReduceLab("cost", Link(100, 20, 0.1, 1), default_budget=True, binaries=options.bin) as lab:
        lab.start_guests([spec])
        guest = lab.guests[0]
        time.sleep(2)
        for window in range(options.windows):
            without.append(rate_over(guest, options.seconds))
            lab.enrol(guest)
            first = read_work(guest)
            lab.wait_protected(1, 300)
            staged = read_work(guest)
            staging.append((staged.units - first.units) / (staged.host_s - first.host_s))
            time.sleep(1)
            before = lab.vms()[0]
            during.append(rate_over(guest, options.seconds))
            after = lab.vms()[0]
            rounds.append(after["rounds"] - before["rounds"])
            print(
                f"window {window + 1}: without {without[-1]:.0f} units/s, first staging {staging[-1]:.0f}, "
                f"protected {during[-1]:.0f}, {rounds[-1]} rounds; pause at most {after['pause_ms_max']} ms", flush=True
            )  # fmt: skip
            lab.remove(guest)
            time.sleep(1)
    ratio = statistics.median(during) / statistics.median(without)
    name = "guest_work_rate_mapped" if options.shared else "guest_work_rate"
    if min(rounds) == 0:
        print(f"rounds in the windows: {rounds}; where none ran nothing was measured", file=sys.stderr)
        return 2
    write_figures(options.json, {
        name: {"value": round(ratio, 4), "unit": "of the rate without", "target": f">= {TARGET}",
               "met": ratio >= TARGET, "baseline": f"{statistics.median(without):.0f} units/s without"},
        # It has a budget of its own, and is over when there is a copy.
        f"{name}_first_staging": {
            "value": round(statistics.median(staging) / statistics.median(without), 4),
            "unit": "of the rate without", "target": None, "met": None},
    })  # fmt: skip
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
