"""Two sites joined by the emulator, as the quickstart builds them, and processes inside them.

Ours has 10.77.0.1 and 10.77.0.2, which no kernel knows; TCP has 10.77.0.11 and 10.77.0.12 on the
same interfaces, set only while TCP takes part.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(TOP / "deploy/quickstart"))

import network  # noqa: E402
from network import A_PORT, B_PORT, CONTROL_SOCKET, Lab, in_netns  # noqa: E402

KERNEL_A, KERNEL_B = "10.77.0.11", "10.77.0.12"
TCP_BUFFER_BYTES = 64 << 20  # never the limit: 100 Mbit/s times 200 ms is 2.5 MB
FAULTS = ("ring_drops", "dropped_memory", "send_failed", "oversize", "vlan_tagged")
# Beyond these the machine, not the link, made the figure. Alone a flow takes about a third of two
# cores, and packets leave the emulator 300 to 500 us late.
LATE_MEAN_US = 1000.0
BUSY_PCT = 85.0


@dataclass(frozen=True)
class Wan:
    """The emulated link. `loss` in percent each way; `burst` 0 = independent losses."""

    rtt_ms: float
    loss: float = 0.0
    burst: float = 0.0
    rate_mbit: float = 100.0
    queue_ms: float = 50.0
    seed: int = 1

    def options(self) -> list[str]:
        queue_kib = round(self.rate_mbit * 1e6 / 8 * self.queue_ms / 1000 / 1024)
        loss = ["--ge", f"{self.loss:g}:{self.burst:g}"] if self.burst else ["--loss", f"{self.loss:g}"]
        return [
            "--rate", f"{self.rate_mbit:g}mbit", "--rtt-ms", f"{self.rtt_ms:g}",
            "--queue-kib", str(queue_kib), "--seed", str(self.seed), *loss,
        ]  # fmt: skip

    def text(self) -> str:
        kind = f"bursts of {self.burst:g}" if self.burst else "random"
        return f"{self.rate_mbit:g} Mbit/s, RTT {self.rtt_ms:g} ms, {self.loss:g} % {kind} loss"


def child_command(command: list[str]) -> list[str]:
    """Ends the process when this one dies, however it dies."""
    return ["setpriv", "--pdeathsig", "TERM", *command]


class Child:
    """A process of ours inside a site, and the lines that it prints."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log, self._rest = log, b""
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                bufsize=0, start_new_session=True,
            )  # fmt: skip

    def line(self, deadline_s: float) -> str | None:
        """The next line; None when it ends or says nothing until then (monotonic seconds)."""
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self.process.stdout], [], [], left_s)[0]:
                return None
            if not (more := os.read(self.process.stdout.fileno(), 1 << 16)):
                return None
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\n")
        return text.decode()

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-1000:].strip()

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def reap(self) -> None:
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class WanLab(Lab):
    """The namespaces of this run and the emulator of the present flow."""

    def __init__(self, tag: str, binary: Path, work: Path) -> None:
        super().__init__(tag)
        self._binary, self._work = binary, work
        self._children: list[Child] = []
        self._cpu_before = machine_cpu()

    def create(self) -> None:
        super().create()
        for site in (self.site_a, self.site_b):
            knobs = {
                "tcp_rmem": f"4096 131072 {TCP_BUFFER_BYTES}",
                "tcp_wmem": f"4096 131072 {TCP_BUFFER_BYTES}",
                "tcp_no_metrics_save": "1",  # each flow starts without the last one's memory
            }
            for name, value in knobs.items():
                network.run("ip", "netns", "exec", site, "sysctl", "-qw", f"net.ipv4.{name}={value}")

    def set_kernel_addresses(self, wanted: bool) -> None:
        for site, port, ip in ((self.site_a, A_PORT, KERNEL_A), (self.site_b, B_PORT, KERNEL_B)):
            network.run("ip", "-n", site, "addr", "flush", "dev", port)
            if wanted:
                network.run("ip", "-n", site, "addr", "add", f"{ip}/24", "dev", port)

    def spawn(self, netns: str, command: list[str], log: str) -> Child:
        child = Child(in_netns(netns, child_command(command)), self._work / log)
        self._children.append(child)
        return child

    def begin(self, path: Wan) -> None:
        """A fresh emulator with the same seed for each flow: all meet the same link."""
        self._control = self._work / CONTROL_SOCKET
        self._control.unlink(missing_ok=True)
        # The line must not wait for the flows nor for anything else: a real-time process.
        command = ["chrt", "-f", "1", str(self._binary), "--a", "wa", "--b", "wb", *path.options()]
        child = self.spawn(self.wan, [*command, "--control", str(self._control)], "emulator.log")
        deadline = time.monotonic() + 5
        while not self._answers():
            if child.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"wan-emulator did not start: {child.log_tail()}")
            time.sleep(0.01)
        self._cpu_before = machine_cpu()

    def _answers(self) -> bool:
        try:
            return self.tell_emulator("stats").startswith("{")
        except OSError:
            return False

    def outage(self, seconds: float) -> int:
        """Starts one; the monotonic time in ns at which the line returns."""
        if (answer := self.tell_emulator(f"outage {seconds:g}s")) != "ok":
            raise RuntimeError(f"wan-emulator: {answer}")
        return time.monotonic_ns() + round(seconds * 1e9)

    def end(self) -> dict[str, Any]:
        """Ends everything of the present flow. The emulator's account of it, and how busy the
        machine was with anything."""
        try:
            stats: dict[str, Any] = json.loads(self.tell_emulator("stats"))
            busy, total = (now - then for now, then in zip(machine_cpu(), self._cpu_before))
            stats["machine_busy_pct"] = round(100 * busy / max(total, 1), 1)
        finally:
            self.end_children()
        return stats

    def end_children(self) -> None:
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.reap()
        self._children.clear()


def machine_cpu() -> tuple[int, int]:
    """Ticks of all cores since the start: busy, and all. What is niced (builds) steps back for the
    flows and does not count as busy; what the host took away does."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    niced, idle, waiting = ticks[1], ticks[3], ticks[4]
    return sum(ticks) - niced - idle - waiting, sum(ticks)


def faults_of(stats: dict[str, Any]) -> list[str]:
    """Why a flow's figure is not the link's: losses that the model did not make, or a machine that
    was late or busy with something else."""
    found = []
    if stats["machine_busy_pct"] > BUSY_PCT:
        found.append(f"machine {stats['machine_busy_pct']:.0f} % busy")
    for way in ("a_to_b", "b_to_a"):
        found += [f"{way} {name} {stats[way][name]}" for name in FAULTS if stats[way][name]]
        if stats[way]["late_us_mean"] > LATE_MEAN_US:
            found.append(f"{way} late by {stats[way]['late_us_mean']:.0f} us on average")
    return found
