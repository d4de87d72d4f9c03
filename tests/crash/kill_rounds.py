#!/usr/bin/env python3
"""Kills either daemon (SIGKILL) at random moments of prestaging rounds, starts it again, and measures
what is sent again of what away had; then moves the guests and compares every page.

The kills are dealt to segments; each has new guests (an idle one, a writer, one with a disk) and ends
with the comparison. From the second segment on, every other one begins with a kill in a first staging.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from crash_lab import TOP, CrashLab  # noqa: E402
from kill_lab import MIB, SPECS, Fleet, plant  # noqa: E402
from resent import share  # noqa: E402

from display import table  # noqa: E402
from network import Link  # noqa: E402
from qmp import QmpError  # noqa: E402

NAMES = [spec.name for spec in SPECS]
PER_SEGMENT = 10
QUIET_ROUNDS = 3  # of each guest before the first kill; one more before each other
ROUND_WAIT_S = 20.0  # for a round to begin; then it is killed between two
CYCLE_S = 4.0  # a round, its sending, its seal, the pause after it
RESENT_MAX_PCT = 1.0
IN_FLIGHT_MIB = 0.5  # of a first staging: on the link when it died; 200 Mbit/s for 20 ms
WAIT_S = 180.0
QUICK_SEED = 7


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""


@dataclass
class KillResult:
    """One row of the table."""

    number: int
    side: str
    moment: str
    down_s: float
    again_s: float = 0.0  # from the restart until all are sealed again
    resent: dict[str, float] = field(default_factory=dict)  # percent of what is staged, by guest
    sent_mib: dict[str, float] = field(default_factory=dict)
    allowed_mib: dict[str, float] = field(default_factory=dict)
    idle_share: float = 0.0  # percent: all that was sent of the idle guest between the two seals
    to_home_mib: float = 0.0  # fingerprints above all
    disk_read_mib: float = 0.0  # by the QEMU of the guest with a disk

    @property
    def worst(self) -> float:
        return max(self.resent.values(), default=0.0)


class Run:
    """All kills of one call."""

    def __init__(self, lab: CrashLab, options: argparse.Namespace) -> None:
        self._lab, self._plant = lab, options.plant
        self._random = random.Random(options.seed)
        self.kills: list[KillResult] = []
        self.differing: dict[str, int] = {}  # by segment and guest
        self._staged: dict[str, int] = {}  # bytes of pages of an undisturbed first staging
        self._idle_link: int | None = None  # bytes on the link for the idle guest's
        self.logs = Path(tempfile.mkdtemp(prefix="evacgw-kills-failed-"))

    def segment(self, index: int, kills: int) -> None:
        fleet = Fleet(self._lab, f"segment-{index}")
        try:
            fleet.start()
            left = kills
            base = fleet.link_bytes()[0]
            fleet.enrol("idle")
            if index % 2 == 1 and left > 0 and self._idle_link is not None:
                self._kill_staging(fleet, base)
                left -= 1
            else:
                self._wait_sealed(fleet, ["idle"])
                self._idle_link = self._idle_link or fleet.link_bytes()[0] - base
            for name in NAMES[1:]:
                fleet.enrol(name)
            self._wait_sealed(fleet, NAMES)
            if not self._staged:
                with fleet.watcher.lock:
                    self._staged = {n: fleet.watcher.ledgers[n].staged for n in NAMES}
            for number in range(left):
                self._wait_quiet(fleet, QUIET_ROUNDS + number)
                self._kill_round(fleet)
            if self._plant:
                at = plant(fleet.staged_ram_file("idle"))
                print(f"planted: one byte of idle's staged memory at {at:#x}", flush=True)
            for name, pages in fleet.compare().items():
                self.differing[f"{index}/{name}"] = pages
                print(f"segment {index}, {name}: {pages} pages differ", flush=True)
        except BaseException:
            fleet.save_logs(self.logs / f"segment-{index}")
            raise
        finally:
            fleet.close()

    def _wait_sealed(self, fleet: Fleet, names: list[str]) -> None:
        what = f"first recovery point of {', '.join(names)}"
        fleet.wait(what, lambda told: all(told[n].sealed for n in names), WAIT_S)

    def _wait_quiet(self, fleet: Fleet, rounds: int) -> None:
        """What a round costs is learned before the first kill, and on a bit before each other."""
        fleet.wait(
            f"{rounds} undisturbed rounds",
            lambda told: all(len(told[n].rounds) >= rounds for n in NAMES), WAIT_S,
        )  # fmt: skip

    def _restart(self, fleet: Fleet, result: KillResult) -> None:
        site = fleet.sites[result.side]
        site.reap()
        time.sleep(result.down_s)
        site.start()

    def _new_result(self, moment: str) -> KillResult:
        side = self._random.choice(("home", "away"))
        down_s = round(self._random.uniform(0.1, 2.0), 2)
        return KillResult(len(self.kills) + 1, side, moment, down_s)

    def _kill_staging(self, fleet: Fleet, base: int) -> None:
        """The idle guest alone, counted on the link: what the killed daemon had in hand counts not."""
        assert self._idle_link is not None
        portion = self._random.uniform(0.1, 0.9)
        result = self._new_result(f"first staging, {portion:.0%} sent")
        deadline = time.monotonic() + WAIT_S
        while fleet.link_bytes()[0] - base < portion * self._idle_link:
            fleet.check_alive()
            if time.monotonic() > deadline:
                raise RuntimeError("the first staging does not get on")
            time.sleep(0.01)
        fleet.sites[result.side].kill()
        self._restart(fleet, result)
        began_s = time.monotonic()
        self._wait_sealed(fleet, ["idle"])
        result.again_s = time.monotonic() - began_s
        sent = fleet.link_bytes()[0] - base
        allowed = self._idle_link + int(IN_FLIGHT_MIB * MIB)
        result.sent_mib["idle"], result.allowed_mib["idle"] = sent / MIB, allowed / MIB
        result.resent["idle"] = share(max(0, sent - allowed), self._idle_link)
        self._done(result)

    def _kill_round(self, fleet: Fleet) -> None:
        of = self._random.choice(NAMES)
        delay_s = self._random.uniform(0.0, self._random.choice((1.0, CYCLE_S)))
        result = self._new_result(f"{delay_s:.2f} s into a round of {of}")
        deadline = time.monotonic() + ROUND_WAIT_S
        while not fleet.in_round(of) and time.monotonic() < deadline:
            time.sleep(0.002)
        if time.monotonic() >= deadline:
            result.moment = f"no round of {of} was seen"
        time.sleep(delay_s)
        disk_base = fleet.read_by_qemu("disk")
        link_base = fleet.link_bytes()[1]
        fleet.sites[result.side].kill()
        with fleet.watcher.lock:
            for ledger in fleet.watcher.ledgers.values():
                ledger.killed(counter_restarts=result.side == "home")
        self._restart(fleet, result)
        with fleet.watcher.lock:
            for ledger in fleet.watcher.ledgers.values():
                ledger.restarted(time.monotonic())
        what = f"kill {result.number} ({result.side}, {result.moment}): sealed again"
        fleet.wait(what, lambda told: all(told[n].again is not None for n in NAMES), WAIT_S)
        result.disk_read_mib = (fleet.read_by_qemu("disk") - disk_base) / MIB
        result.to_home_mib = (fleet.link_bytes()[1] - link_base) / MIB
        with fleet.watcher.lock:
            for name in NAMES:
                again = fleet.watcher.ledgers[name].again
                assert again is not None
                result.again_s = max(result.again_s, again.took_s)
                result.sent_mib[name] = again.sent / MIB
                result.allowed_mib[name] = again.allowed / MIB
                result.resent[name] = share(again.resent, self._staged[name])
                if name == "idle":
                    result.idle_share = share(again.sent, self._staged[name])
        self._done(result)

    def _done(self, result: KillResult) -> None:
        self.kills.append(result)
        told = ", ".join(
            f"{n} {result.resent[n]:.2f} % ({result.sent_mib[n]:.1f} of {result.allowed_mib[n]:.1f})"
            for n in result.resent
        )
        print(f"kill {result.number}: {result.side}, {result.moment}, back after {result.down_s} s, "
              f"sealed again {result.again_s:.1f} s; sent again: {told}", flush=True)  # fmt: skip


def figures(run: Run, asked: int) -> dict[str, dict[str, object]]:
    worst = max((kill.worst for kill in run.kills), default=100.0)
    idle = max((kill.idle_share for kill in run.kills), default=100.0)
    pages = sum(run.differing.values())
    segments = -(-asked // PER_SEGMENT)
    compared = len(run.differing) == segments * len(NAMES)
    return {
        "kills": {"value": len(run.kills), "unit": "kills", "target": f"{asked}",
                  "met": len(run.kills) == asked},
        "resent_share_max": {"value": round(worst, 3), "unit": "% of what is staged",
                             "target": f"< {RESENT_MAX_PCT:g}", "met": worst < RESENT_MAX_PCT},
        # Nothing is subtracted: what it wrote meanwhile is in it.
        "idle_sent_share_max": {"value": round(idle, 3), "unit": "% of what is staged",
                                "target": f"< {RESENT_MAX_PCT:g}", "met": idle < RESENT_MAX_PCT},
        # Killed all the same, but not in a round: none began in time.
        "kills_outside_rounds": {"value": sum(k.moment.startswith("no round") for k in run.kills),
                                 "unit": "kills", "target": None, "met": None},
        "pages_differing": {"value": pages, "unit": "pages", "target": "0",
                            "met": compared and pages == 0},
    }  # fmt: skip


def measured(run: Run) -> dict[str, float]:
    """Without a target."""
    rounds = [kill for kill in run.kills if "disk" in kill.resent]
    if not rounds:
        return {}
    median = statistics.median
    return {
        "sealed_again_s_median": round(median(k.again_s for k in rounds), 2),
        "sealed_again_s_max": round(max(k.again_s for k in rounds), 2),
        "idle_sent_mib_median": round(median(k.sent_mib["idle"] for k in rounds), 3),
        "idle_sent_mib_max": round(max(k.sent_mib["idle"] for k in rounds), 3),
        "away_to_home_mib_median": round(median(k.to_home_mib for k in rounds), 3),
        "disk_read_mib_median": round(median(k.disk_read_mib for k in rounds), 2),
    }


def show(run: Run) -> None:
    rows = [
        [str(k.number), k.side, k.moment, f"{k.down_s:.1f}", f"{k.again_s:.1f}",
         *(f"{k.resent[n]:.2f}" if n in k.resent else "-" for n in NAMES),
         f"{k.sent_mib['idle']:.1f}", f"{k.to_home_mib:.2f}", f"{k.disk_read_mib:.1f}"]
        for k in run.kills
    ]  # fmt: skip
    titles = ["", "killed", "moment", "down s", "sealed again s", *(f"{n} resent %" for n in NAMES),
              "idle sent MiB", "away to home MiB", "disk read MiB"]  # fmt: skip
    print("\n".join(table(titles, rows)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures")
    parser.add_argument("--quick", action="store_true", help=f"4 kills, seed {QUICK_SEED}")
    parser.add_argument("--plant", action="store_true",
                        help="change a staged byte before comparing: must fail")  # fmt: skip
    options = parser.parse_args()
    if options.quick:
        options.kills, options.seed = 4, QUICK_SEED
    if not 1 <= options.kills <= 10_000:
        parser.error(f"--kills {options.kills}: 1 to 10000 are accepted")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def main() -> int:
    options = parse_options()
    print(f"seed {options.seed}, {options.kills} kills", flush=True)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for kind in signals:
        signal.signal(kind, interrupt)
    lab = CrashLab(f"kr{os.getpid()}", options.bin, Link(200, 10, 0.1, 1))
    run = Run(lab, options)
    problem = ""
    try:
        lab.start()
        left, index = options.kills, 0
        while left > 0:
            share_of_it = min(left, PER_SEGMENT)
            run.segment(index, share_of_it)
            left, index = left - share_of_it, index + 1
    except Interrupted as reason:
        problem = f"interrupted ({reason})"
    except (RuntimeError, OSError, ValueError, KeyError, QmpError,
            subprocess.SubprocessError) as error:  # fmt: skip
        problem = f"{type(error).__name__}: {error}"
    finally:
        for kind in signals:
            signal.signal(kind, signal.SIG_IGN)
        lab.close()
    if run.kills:
        show(run)
    result = {"figures": figures(run, options.kills), "measured": measured(run),
              "seed": options.seed, "differing": run.differing, "problem": problem}  # fmt: skip
    if problem:  # what was not compared is not known to be equal
        result["figures"]["pages_differing"]["met"] = False
    words = {True: "met", False: "NOT MET", None: "information"}
    for name, figure in result["figures"].items():
        print(f"{name}: {figure['value']} {figure['unit']} (target {figure['target']}): "
              f"{words[figure['met']]}")  # fmt: skip
    for name, value in result["measured"].items():
        print(f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    good = not problem and all(figure["met"] is not False for figure in result["figures"].values())
    if good:
        shutil.rmtree(run.logs, ignore_errors=True)
    else:
        print(f"FAILED {problem}; logs: {run.logs}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
