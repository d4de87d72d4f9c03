"""Watches through QEMU's second QMP socket when a guest runs, at both sites at once.

QEMU stamps STOP and RESUME itself, so intervals of running are exact even where a sample came late;
the samples find what no event told. All times are the host's wall clock.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "guests"))

from qmp import Qmp, QmpError  # noqa: E402

PERIOD_S = 0.008
GAP_LIMIT_S = 0.020  # between samples; longer ones are counted


@dataclass
class Interval:
    """The guest ran at least from begin_s to end_s."""

    begin_s: float
    end_s: float


@dataclass
class Watched:
    """What is known of one socket. Written by its thread, read after `stop`."""

    path: Path
    intervals: list[Interval] = field(default_factory=list)
    samples: int = 0
    late: int = 0  # samples that came more than GAP_LIMIT_S after the one before
    longest_gap_s: float = 0.0
    state: str | None = None
    _open: Interval | None = None
    _sampled_s: float = 0.0

    def began(self, at_s: float) -> None:
        if self._open is None:
            self._open = Interval(at_s, at_s)
            self.intervals.append(self._open)

    def stopped(self, at_s: float) -> None:
        if self._open is not None:
            self._open.end_s = max(at_s, self._open.begin_s)
            self._open = None

    def sampled(self, at_s: float, state: str) -> None:
        if self._sampled_s:
            gap = at_s - self._sampled_s
            self.late += gap > GAP_LIMIT_S
            self.longest_gap_s = max(self.longest_gap_s, gap)
        self.samples += 1
        self._sampled_s, self.state = at_s, state
        if state == "running":
            self.began(at_s)
            if self._open:
                self._open.end_s = at_s
        elif self._open is not None:
            self.stopped(self._open.end_s)

    def gone(self) -> None:
        self.state, self._sampled_s = None, 0.0
        if self._open is not None:
            self.stopped(self._open.end_s)


class RunStates:
    """Samples home's and away's QEMU from `start` to `stop`."""

    def __init__(self, home: Path, away: Path) -> None:
        self.home, self.away = Watched(home), Watched(away)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(watched,), daemon=True)
            for watched in (self.home, self.away)
        ]

    def start(self) -> RunStates:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Also frees the sockets: QEMU serves one client at a time."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def overlaps(self) -> list[str]:
        """When both ran."""
        found = []
        for here in self.home.intervals:
            for there in self.away.intervals:
                both_s = min(here.end_s, there.end_s) - max(here.begin_s, there.begin_s)
                if both_s > 0:
                    found.append(f"both ran for {both_s * 1000:.1f} ms")
        return found

    def _watch(self, watched: Watched) -> None:
        while not self._stop.is_set():
            try:
                with Qmp(watched.path, timeout_s=5.0) as qmp:
                    self._sample(qmp, watched)
            except (OSError, QmpError, ValueError):
                pass
            watched.gone()
            self._stop.wait(PERIOD_S)

    def _sample(self, qmp: Qmp, watched: Watched) -> None:
        while not self._stop.is_set():
            asked_s = time.time()
            state = qmp.run_state()
            for event in qmp.events:
                stamp = event["timestamp"]
                at_s = stamp["seconds"] + stamp["microseconds"] / 1e6
                if event["event"] == "RESUME":
                    watched.began(at_s)
                elif event["event"] == "STOP":
                    watched.stopped(at_s)
            qmp.events.clear()
            watched.sampled(time.time(), state)
            self._stop.wait(max(0.0, PERIOD_S - (time.time() - asked_s)))
