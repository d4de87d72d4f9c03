"""The WAN transport beside TCP cubic and TCP BBR on the same emulated links, in one run.

Exit codes: 0 run whole, whatever the figures; 1 a run broke; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import Board
from flows import BenchError, Runner
from lab import TOP, WanLab
from points import BBR, CUBIC, FULL, QUICK, Plan, Point, all_points
from sites import make_secrets

NICE = -10  # of all flows, ours and TCP alike, and the emulator: other work should not be measured
SECONDS_MIN = 7.0  # 4 of warm-up, then windows of at least 1
NEEDED = ("wan-flow", "wan-emulator")
MEANING = (
    "Goodput is payload delivered to the application as a share of the link's rate, which the "
    "emulator counts in Ethernet frames (of 1514 bytes, 1448 are payload for TCP); loss comes after "
    "the link, so a lost share is lost capacity, and no flow can exceed 95.6 % of the rest."
)


def say(line: str) -> None:
    print(line, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/wan.sh", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures and all counters")
    parser.add_argument("--quick", action="store_true", help="a few points, about two minutes")
    parser.add_argument("--only", metavar="TEXT", help="points whose name is or contains it; several with commas")
    parser.add_argument("--seconds", type=float, help="of a goodput run (18, quick 9); at least 7")
    parser.add_argument("--list", action="store_true", help="name the points and end")
    default = os.environ.get("EVAC_BIN", str(TOP / "build/release/bin"))
    parser.add_argument("--bin", type=Path, default=Path(default), help=f"programs ({default})")
    arguments = parser.parse_args()
    if arguments.seconds is not None and not SECONDS_MIN <= arguments.seconds <= 600:
        parser.error(f"--seconds {arguments.seconds:g}: expected {SECONDS_MIN:g} to 600")
    arguments.points = chosen(arguments)
    if not arguments.points:
        parser.error(f"--only {arguments.only}: no point has such a name; see --list")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[Point]:
    points = all_points()
    if arguments.only:
        return [point for point in points if wanted(point.name, arguments.only.split(","))]
    return [point for point in points if point.quick or not arguments.quick]


def wanted(name: str, words: list[str]) -> bool:
    """A word that is a point's whole name means that one only."""
    names = {point.name for point in all_points()}
    return any(name == word if word in names else word in name for word in words)


def plan_of(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    return replace(plan, goodput_s=arguments.seconds) if arguments.seconds else plan


def prepare_machine(binaries: Path) -> bool:
    """Says at once what is missing, rather than after minutes; whether TCP BBR is there."""
    if os.geteuid() != 0:
        raise BenchError("needs root: it makes network namespaces")
    for name in NEEDED:
        if not (binaries / name).exists():
            raise BenchError(f"--bin {binaries}: no {name} there; build first (deploy/build.sh)")
    subprocess.run(["modprobe", "-q", "tcp_bbr"], check=False, stderr=subprocess.DEVNULL)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    if CUBIC not in known:
        raise BenchError(f"this kernel has no TCP {CUBIC} (it has {' '.join(known)})")
    if BBR not in known:
        say(f"NO BASELINE: this kernel has no TCP {BBR} (it has {' '.join(known)})")
    return BBR in known


def run_points(points: list[Point], plan: Plan, runner: Runner, board: Board) -> list[str]:
    """The points that broke."""
    broken = []
    begun = time.monotonic()
    for number, point in enumerate(points, 1):
        minutes = (time.monotonic() - begun) / 60
        say(f"[{number}/{len(points)}, {minutes:.1f} min] {point.name}")
        try:
            point.measure(point.name, runner, board, plan)
        except (BenchError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            broken.append(f"{point.name}: {error}")
            say(f"  {point.name}: BROKEN: {error}")
    return broken


def report(plan: Plan, runner: Runner, board: Board, broken: list[str]) -> dict[str, Any]:
    return {
        "figures": board.to_json(), "broken": broken, "meaning": MEANING,
        "interval": "goodput: mean over all windows of "
                    f"{plan.goodput_s - plan.warm_up_s - plan.edge_s:g} s within seconds "
                    f"{plan.warm_up_s:g} to {plan.goodput_s:g} of the load, for ours and TCP alike; "
                    "first_N_s counts all of the first N seconds, start-up included",
        "machine": {"cores": os.cpu_count(), "nice": NICE, "load": os.getloadavg(), "kernel": os.uname().release},
        "runs": runner.account,
    }  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    plan = replace(plan_of(arguments), has_bbr=prepare_machine(arguments.bin))
    board = Board(say)
    with tempfile.TemporaryDirectory(prefix="evacgw-wan-bench-") as folder:
        work = Path(folder)
        lab = WanLab(f"w{os.getpid()}", arguments.bin / "wan-emulator", work)
        try:
            make_secrets(work / "keys")
            lab.create()
            runner = Runner(lab, arguments.bin, work / "keys", say)
            broken = run_points(arguments.points, plan, runner, board)
        finally:
            ignore_signals()
            lab.end_children()
            lab.destroy()
    say(f"\n{board.summary()}" + "".join(f"\nBROKEN {text}" for text in broken))
    if arguments.json:
        text = json.dumps(report(plan, runner, board, broken), indent=1)
        arguments.json.write_text(text + "\n")
    return 1 if broken else 0


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def ignore_signals() -> None:
    """A second Ctrl-C must not leave namespaces behind."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse()
    if arguments.list:
        say("\n".join(f"{point.name}{' (quick)' if point.quick else ''}" for point in all_points()))
        return 0
    for number in STOPPING:
        signal.signal(number, interrupt)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        say("interrupted; everything is removed")
        return 130
    except BenchError as error:
        print(f"wan.sh: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
