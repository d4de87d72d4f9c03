"""What an operator gets from stock QEMU on the same guests and link: sequential pre-copy with
multifd and zstd, the fairest of the methods measured, an NBD mirror of the disk, over kernel TCP.

The caller owns the two namespaces and the link; this module gives their interfaces addresses,
starts fresh guests, moves them one after the other, and stops them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "guests"))

import guests  # noqa: E402
from guests import Guest, GuestImage, GuestSpec, Qmp, QmpError  # noqa: E402

HOME_IP, AWAY_IP, PREFIX = "10.78.0.1", "10.78.0.2", 24
MIGRATE_PORT, NBD_PORT = 4444, 10809
CHANNELS = 2
MULTIFD = [{"capability": "multifd", "state": True}]
PARAMETERS: dict[str, Any] = {"multifd-channels": CHANNELS, "multifd-compression": "zstd"}
MIB = 1 << 20


@dataclass(frozen=True)
class PeerLink:
    """The two ends, and a count of the bytes that home has sent."""

    home_netns: str
    home_port: str
    away_netns: str
    away_port: str
    sent_bytes: Callable[[], int]


@dataclass(frozen=True)
class PeerResult:
    method: str
    total_s: float
    wire_mib: float

    def report(self) -> dict[str, Any]:
        return asdict(self)


def configure_tcp(link: PeerLink) -> str:
    """Addresses, and BBR where the kernel has it. Returns the congestion control in use."""
    chosen = "cubic"
    for netns, port, address in (
        (link.home_netns, link.home_port, HOME_IP), (link.away_netns, link.away_port, AWAY_IP),
    ):  # fmt: skip
        subprocess.run(
            ["ip", "-n", netns, "addr", "add", f"{address}/{PREFIX}", "dev", port], check=True
        )
        control = "/proc/sys/net/ipv4/tcp_congestion_control"
        script = (
            f"echo bbr > {control} 2>/dev/null || echo cubic > {control} 2>/dev/null; cat {control}"
        )
        shown = subprocess.run(
            ["ip", "netns", "exec", netns, "sh", "-c", script],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        chosen = shown.stdout.strip()
    return chosen


def run_peer(
    link: PeerLink,
    specs: list[GuestSpec],
    image: GuestImage,
    work: Path,
    say: Callable[[str], None],
) -> PeerResult:
    """Moves all guests and returns what it took. Raises RuntimeError when a migration fails."""
    congestion = configure_tcp(link)
    sources: list[Guest] = []
    landings: list[Guest] = []
    try:
        for spec in specs:
            sources.append(guests.start_guest(spec, image, work / "a" / spec.name, link.home_netns))
        guests.wait_ready(sources)
        for spec in specs:  # started before the clock: an operator has them ready too
            landing = guests.start_guest(
                spec, image, work / "b" / spec.name, link.away_netns, incoming=True
            )
            landings.append(landing)
        bytes_before, began = link.sent_bytes(), time.monotonic()
        for index, (source, landing) in enumerate(zip(sources, landings)):
            move(source, landing, index)
            elapsed, sent = time.monotonic() - began, (link.sent_bytes() - bytes_before) / MIB
            say(f"{source.spec.name} runs away after {elapsed:.1f} s, {sent:.0f} MiB on the wire")
            source.stop()
        total_s = time.monotonic() - began
        wire_mib = (link.sent_bytes() - bytes_before) / MIB
    finally:
        guests.stop_guests(sources + landings)
    method = f"stock QEMU, sequential, multifd zstd, TCP {congestion}"
    return PeerResult(method, round(total_s, 2), round(wire_mib, 1))


def move(source: Guest, landing: Guest, index: int, timeout_s: float = 900.0) -> None:
    deadline = time.monotonic() + timeout_s
    with source.qmp() as home, landing.qmp() as away:
        for side in (home, away):
            side.command("migrate-set-capabilities", capabilities=MULTIFD)
            side.command("migrate-set-parameters", **PARAMETERS)
        home.command("migrate-set-parameters", max_bandwidth=1 << 40)
        mirrored = source.spec.disk_mib > 0
        if mirrored:
            start_mirror(home, away, index, deadline)
            pause = [{"capability": "pause-before-switchover", "state": True}]
            home.command("migrate-set-capabilities", capabilities=pause)
        uri = f"tcp:{AWAY_IP}:{MIGRATE_PORT + index}"
        away.command("migrate-incoming", uri=uri)
        home.command("migrate", uri=uri)
        if mirrored:
            wait_migration(home, "pre-switchover", deadline)
            finish_mirror(home, deadline)
            home.command("migrate-continue", state="pre-switchover")
        wait_migration(home, "completed", deadline)
        while away.run_state() != "running":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{source.spec.name} does not run at away: {away.run_state()}")
            time.sleep(0.02)
        if mirrored:
            away.command("nbd-server-stop")


def start_mirror(home: Qmp, away: Qmp, index: int, deadline: float) -> None:
    port = str(NBD_PORT + index)
    away.command("nbd-server-start", addr={"type": "inet", "data": {"host": AWAY_IP, "port": port}})
    away.command("block-export-add", type="nbd", id="disk0", node_name="disk0", writable=True)
    home.command(
        "blockdev-add", node_name="away0", driver="nbd", export="disk0",
        server={"type": "inet", "host": AWAY_IP, "port": port},
    )  # fmt: skip
    # In the default (background) mode the mirror trails a guest that writes 1 MiB/s for ever at
    # 20 ms of round trip: 10 minutes were not enough. Write-blocking slows the guest, and ends.
    home.command(
        "blockdev-mirror", job_id="mirror0", device="disk0", target="away0", sync="full",
        copy_mode="write-blocking",
    )  # fmt: skip
    while not any(job.get("ready") for job in home.command("query-block-jobs")):
        if not home.command("query-block-jobs"):
            raise RuntimeError("the mirror of the disk failed")
        if time.monotonic() > deadline:
            raise RuntimeError("the mirror of the disk does not catch up")
        time.sleep(0.1)


def finish_mirror(home: Qmp, deadline: float) -> None:
    """The guest stands still: both disks become equal, the source keeps its own."""
    home.command("block-job-cancel", device="mirror0")
    while home.command("query-block-jobs"):
        if time.monotonic() > deadline:
            raise RuntimeError("the mirror of the disk does not end")
        time.sleep(0.02)
    home.command("blockdev-del", node_name="away0")


def wait_migration(home: Qmp, wanted: str, deadline: float) -> None:
    while True:
        answer = home.command("query-migrate")
        status = answer.get("status")
        if status == wanted:
            return
        if status in ("failed", "cancelled", "completed"):
            raise RuntimeError(f"migration {status}: {answer.get('error-desc', 'no reason given')}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"migration still {status}: {answer.get('ram')}")
        time.sleep(0.02)


__all__ = ["PeerLink", "PeerResult", "QmpError", "run_peer"]
