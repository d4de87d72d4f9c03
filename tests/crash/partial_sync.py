#!/usr/bin/env python3
"""What two gateways ask each other after one of them, both, or the line between them was lost: only
what was in flight. Counts the pages told and the bytes of fingerprints, and at the end evacuates
the guest and proves that nothing is missing: what was believed without asking was right."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from crash_lab import TOP, CommandError, CrashLab, Pair  # noqa: E402
from kill_each_state import interrupt  # noqa: E402

from display import table  # noqa: E402
from guests import GuestSpec  # noqa: E402
from network import Link  # noqa: E402

CASES = ("home", "away", "both", "line")
# Of the VM's pages. The guest writes to a few hundred between two rounds; asking for everything
# would be 100 %.
TOLD_SHARE_MAX = 0.10
PAGE = 4096
TRAFFIC_BYTES = 100_000
LINE_DOWN_S = 8.0  # a session outlives this: nothing is asked at all; a longer one might not


class SyncLab:
    def __init__(self, lab: CrashLab) -> None:
        spec = GuestSpec("sync-1", "disk", 256, 8, 64, 921, disk_mib=128, disk_kib_s=512)
        self.pair = Pair(lab, "sync", spec)
        self.rows: list[list[str]] = []
        self.problems: list[str] = []
        self._vm: dict[str, object] = {}

    def stage(self) -> int:
        self.pair.start()
        self.pair.enrol()
        epoch = self.pair.wait_protected()
        first = self._sync()
        if not first["all"]:
            self.problems.append("the first synchronisation did not ask for everything")
        self._note("first", first)
        return self.pair.wait_protected(epoch)

    def disturb(self, case: str, epoch: int) -> int:
        before = int(self._sync()["count"])
        self._wait_traffic()
        if case == "line":
            self.pair.cut_line()
            time.sleep(LINE_DOWN_S)
            self.pair.mend_line()
        else:
            sides = ("home", "away") if case == "both" else (case,)
            for side in sides:
                self.pair.sites[side].kill()
            for side in sides:
                self.pair.sites[side].reap()
            for side in sides:
                self.pair.sites[side].start()
            before = 0 if "home" in sides else before
        if case != "line":
            self._wait_sync(case, before)
        epoch = self.pair.wait_protected(epoch)
        told = self._sync()
        self._note(case, told)
        if told["all"]:
            self.problems.append(f"{case}: asked for everything")
        if int(told["pages"]) > TOLD_SHARE_MAX * self._pages():
            self.problems.append(f"{case}: {told['pages']} pages told, of {self._pages():.0f}")
        return epoch

    def prove(self) -> None:
        self.pair.evacuate()
        if (end := self.pair.wait_end()) != "B":
            self.problems.append(f"the guest ends at {end}")
            return
        self.pair.prover.wait_for_evidence()
        self.problems += self.pair.stop_sampling().overlaps()
        name = self.pair.spec.name
        self.problems += self.pair.prover.prove({name: None})[name].problems

    def _sync(self) -> dict[str, object]:
        self._vm = self.pair.vm_status()
        return self._vm["sync"]  # type: ignore[return-value]

    def _wait_traffic(self) -> None:
        """Into a round: some of it has been sent."""
        base, deadline = self.pair.wire_bytes(), time.monotonic() + 20
        while self.pair.wire_bytes() < base + TRAFFIC_BYTES and time.monotonic() < deadline:
            self.pair.check_alive()
            time.sleep(0.005)

    def _wait_sync(self, case: str, before: int) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                if int(self._sync()["count"]) > before and self._vm["phase"] == "active":
                    return
            except (CommandError, ValueError, StopIteration, subprocess.TimeoutExpired):
                pass
            time.sleep(0.2)
        raise RuntimeError(f"{case}: not synchronised again in 90 s: {self._vm}")

    def _pages(self) -> float:
        disks = sum(disk["mib"] for disk in self._vm["disks"])  # type: ignore[attr-defined]
        return (float(str(self._vm["memory_mib"])) + disks) * (1 << 20) / PAGE

    def _note(self, case: str, sync: dict[str, object]) -> None:
        asked = "all" if sync["all"] else str(sync["ranges"])
        self.rows.append([case, asked, str(sync["pages"]), f"{self._pages():.0f}",
                          str(sync["bytes"]), str(sync["reread_pages"])])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"--cases {sorted(unknown)}: {', '.join(CASES)} are accepted")
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, interrupt)
    lab = CrashLab(f"sync-{os.getpid()}", options.bin, Link(100, 20, 0.1, 1))
    run: SyncLab | None = None
    logs = Path(tempfile.mkdtemp(prefix="evacgw-sync-failed-"))
    try:
        lab.start()
        run = SyncLab(lab)
        epoch = run.stage()
        for case in cases:
            epoch = run.disturb(case, epoch)
        run.prove()
    except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        if run is None:
            raise
        run.problems.append(f"{type(error).__name__}: {error}")
    finally:
        if run is not None:
            if run.problems:
                run.pair.save_logs(logs)
            run.pair.close()
        lab.close()
    titles = ["lost", "ranges asked", "pages told", "of", "bytes", "disk pages read again"]
    print("\n".join(table(titles, run.rows)))
    for problem in run.problems:
        print(f"FAILED {problem}")
    if run.problems:
        print(f"logs: {logs}")
        return 1
    shutil.rmtree(logs, ignore_errors=True)
    print(json.dumps({"cases": len(cases), "problems": 0}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
