"""Three network namespaces (site A, WAN, site B) joined by veth, the WAN emulator in the middle.

    site A: a0 -- wa : WAN : wb -- b0 :site B

a0 and b0 belong to the gateways: no kernel addresses, no offloads. Everything made here has this
run's own names, and `destroy` removes exactly that.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

A_PORT, B_PORT = "a0", "b0"
CONTROL_SOCKET = "wan.sock"
QUEUE_MS = 50  # of the link's rate, drop-tail: a router of an ordinary provider


@dataclass(frozen=True)
class Link:
    """Between the sites. Loss and rate hold for each direction, rtt_ms for both together."""

    rate_mbit: float
    rtt_ms: float
    loss_pct: float
    seed: int

    @property
    def queue_kib(self) -> int:
        return max(64, round(self.rate_mbit * 1e6 / 8 * QUEUE_MS / 1000 / 1024))


def parse_rate(text: str) -> float:
    """Mbit/s of `100mbit`, `1gbit`, `512kbit`. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|m|g)bit", text.strip().lower())
    if not match:
        raise ValueError(
            f"rate {text!r}: expected a number with kbit, mbit or gbit, such as 100mbit"
        )
    rate = float(match.group(1)) * {"k": 0.001, "m": 1.0, "g": 1000.0}[match.group(2)]
    if not 1 <= rate <= 3000:
        raise ValueError(f"rate {text!r}: the emulator does 1mbit to 3gbit")
    return rate


def run(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout


def in_netns(netns: str, command: list[str]) -> list[str]:
    """`ip netns exec` replaces itself by the command, so the pid is the command's."""
    return ["ip", "netns", "exec", netns, *command]


class Lab:
    """The namespaces of one run."""

    def __init__(self, tag: str) -> None:
        self.site_a, self.wan, self.site_b = f"evac-{tag}-a", f"evac-{tag}-wan", f"evac-{tag}-b"
        self._emulator: subprocess.Popen[bytes] | None = None
        self._control: Path | None = None

    @property
    def netns(self) -> list[str]:
        return [self.site_a, self.wan, self.site_b]

    def create(self) -> None:
        for name in self.netns:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            knobs = "/proc/sys/net/ipv6/conf/*/disable_ipv6"
            no_ipv6 = f"for f in {knobs}; do [ ! -e $f ] || echo 1 > $f; done"
            run("ip", "netns", "exec", name, "sh", "-c", no_ipv6)
        for site, port, middle in ((self.site_a, A_PORT, "wa"), (self.site_b, B_PORT, "wb")):
            run(
                "ip",
                "-n",
                site,
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                middle,
                "netns",
                self.wan,
            )
            for netns, device in ((site, port), (self.wan, middle)):
                off = [
                    word
                    for what in ("rx", "tx", "sg", "tso", "gso", "gro")
                    for word in (what, "off")
                ]
                run("ip", "netns", "exec", netns, "ethtool", "-K", device, *off)
                run(
                    "ip",
                    "-n",
                    netns,
                    "link",
                    "set",
                    device,
                    "arp",
                    "off" if netns == self.wan else "on",
                )
                run("ip", "-n", netns, "link", "set", device, "up")

    def start_emulator(self, binary: Path, link: Link, work: Path) -> None:
        log = open(work / "wan-emulator.log", "wb")
        with log:
            self._emulator = subprocess.Popen(
                in_netns(self.wan, emulator_command(binary, link, work)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._control = work / CONTROL_SOCKET
        time.sleep(0.5)
        if self._emulator.poll() is not None:
            raise RuntimeError(
                f"wan-emulator ended: {(work / 'wan-emulator.log').read_text()[-2000:]}"
            )

    def a_to_b_bytes(self) -> int:
        """Bytes that site A has put on the link, counted by the kernel."""
        shown = json.loads(run("ip", "-n", self.site_a, "-s", "-j", "link", "show", "dev", A_PORT))
        return int(shown[0]["stats64"]["tx"]["bytes"])

    def tell_emulator(self, line: str) -> str:
        """One line to the emulator's control socket, and its answer."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._control))
            control.sendall(line.encode() + b"\n")
            return control.makefile().readline().strip()

    def lost_by_emulator(self) -> int:
        """Packets that the emulator lost for want of CPU or memory: such a run says little."""
        if self._control is None:
            return 0
        stats = json.loads(self.tell_emulator("stats"))
        ways = (stats["a_to_b"], stats["b_to_a"])
        return sum(int(way["ring_drops"]) + int(way["dropped_memory"]) for way in ways)

    def destroy(self) -> None:
        """Ends the processes inside our namespaces, then removes the namespaces."""
        self._emulator = None
        destroy_netns(self.netns)


def emulator_command(binary: Path, link: Link, work: Path) -> list[str]:
    return [
        str(binary), "--a", "wa", "--b", "wb", "--rate", f"{link.rate_mbit:g}mbit",
        "--rtt-ms", f"{link.rtt_ms:g}", "--loss", f"{link.loss_pct:g}",
        "--queue-kib", str(link.queue_kib), "--seed", str(link.seed),
        "--control", str(work / CONTROL_SOCKET),
    ]  # fmt: skip


def destroy_netns(names: list[str]) -> None:
    existing = {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()}
    names = [name for name in names if name in existing]
    for kind, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience_s
        for pid in _pids_in(names):
            _kill(pid, kind)
        while _pids_in(names) and time.monotonic() < deadline:
            time.sleep(0.05)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def _pids_in(names: list[str]) -> list[int]:
    pids: list[int] = []
    for name in names:
        shown = subprocess.run(
            ["ip", "netns", "pids", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        pids += [int(pid) for pid in shown.stdout.split() if int(pid) != os.getpid()]
    return pids


def _kill(pid: int, kind: signal.Signals) -> None:
    try:
        os.kill(pid, kind)
    except ProcessLookupError:
        pass
