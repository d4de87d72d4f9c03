"""Two sites and three guests for `kill_rounds.py`: sampled, killed, and compared page by page."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable

from crash_lab import CrashLab, CrashSite

import checks
import guests
from guests import Guest, GuestPaths, GuestSpec
from network import A_PORT, B_PORT, run
from prove import Prover, Subject
from qmp import Qmp, QmpError
from resent import Ledger, Sample
from sites import PARTIAL, SiteLayout

MIB = 1 << 20
POLL_S = 0.05
BLOCK = 4096
BESIDE_RAM = 1 << 40  # compare_dumps leaves the VGA window out, which a disk does not have
SPECS = (
    GuestSpec("idle", "idle", 256, 16, 64, 911),
    GuestSpec("writer", "writer", 256, 32, 64, 912, rate_mib=1),
    GuestSpec("disk", "disk", 256, 8, 64, 913, disk_mib=96, disk_kib_s=256),
)


class _ApiConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(self._path))


def api_status(path: Path) -> dict[str, Any]:
    """GET /v1/status without starting a process. Raises OSError, HTTPException or ValueError."""
    connection = _ApiConnection(path)
    try:
        connection.request("GET", "/v1/status")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def sample_of(vm: dict[str, Any], at_s: float) -> Sample:
    rpo_s = vm.get("rpo_s")
    return Sample(
        at_s, vm["phase"] == "active", int(vm["sealed_epoch"]),
        at_s - float(rpo_s) if rpo_s is not None else 0.0, int(float(vm["sent_mib"]) * MIB),
    )  # fmt: skip


class Watcher:
    """Samples home's status into a ledger for each VM, in a thread of its own."""

    def __init__(self, socket_path: Path, names: list[str]) -> None:
        self.ledgers = {name: Ledger() for name in names}
        self.lock = threading.Lock()  # around the ledgers
        self._path, self._stop = socket_path, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Watcher:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Also when it was never started, or stopped before."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                asked_s = time.monotonic()
                vms = api_status(self._path)["vms"]
                with self.lock:
                    for vm in vms:
                        self.ledgers[vm["name"]].add(sample_of(vm, asked_s))
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                continue  # its daemon is dead, or is starting


def differing_blocks(home: Path, away: Path) -> list[int]:
    """Offsets of 4 KiB blocks that differ between two images; a missing end is a difference."""
    return [at - BESIDE_RAM for at in checks.compare_dumps(home, away, BESIDE_RAM)]


def plant(ram_file: Path, settle_s: float = 5.0) -> int:
    """Changes one byte of a page that nobody writes. Its offset."""
    pages = ram_file.stat().st_size // BLOCK
    with open(ram_file, "r+b") as file:

        def page(number: int) -> bytes:
            file.seek(number * BLOCK)
            return file.read(BLOCK)

        candidates = [n for n in range(pages // 3, pages, 97) if page(n).strip(b"\0")]
        first = {n: page(n) for n in candidates}
        time.sleep(settle_s)
        still = [n for n in candidates if page(n) == first[n]]
        if not still:
            raise RuntimeError(f"{ram_file}: no page stands still")
        chosen = still[len(still) // 2]
        file.seek(chosen * BLOCK)
        file.write(bytes([first[chosen][0] ^ 1]))
    return chosen * BLOCK


class Fleet:
    """Both sites with the guests of SPECS."""

    def __init__(self, lab: CrashLab, name: str) -> None:
        self._lab = lab
        self.root = lab.work / name
        self.root.mkdir()
        (self.root / "keys").symlink_to(lab.work / "keys")
        self._ram = lab.ram / name
        layout_a, layout_b = SiteLayout(self.root, "site-a"), SiteLayout(self.root, "site-b")
        self.a = CrashSite(layout_a, lab.lab.site_a, lab.binaries)
        self.b = CrashSite(layout_b, lab.lab.site_b, lab.binaries)
        self.a.prepare(layout_b, self._ram, A_PORT, lab.link.rate_mbit)
        self.b.prepare(layout_a, self._ram, B_PORT, lab.link.rate_mbit)
        for spec in SPECS:
            (layout_b.vms / spec.name).mkdir(parents=True)
        self.guests: dict[str, Guest] = {}
        self._prover: Prover | None = None
        self.watcher = Watcher(layout_a.socket, [spec.name for spec in SPECS])

    @property
    def sites(self) -> dict[str, CrashSite]:
        return {"home": self.a, "away": self.b}

    @property
    def prover(self) -> Prover:
        assert self._prover
        return self._prover

    def away_paths(self, name: str) -> GuestPaths:
        return GuestPaths(self.b.layout.vms / name)

    def start(self) -> None:
        for spec in SPECS:
            folder = self.a.layout.vms / spec.name
            self.guests[spec.name] = guests.start_guest(
                spec, self._lab.image, folder, self._lab.lab.site_a
            )
        for site in (self.b, self.a):
            site.start()
        subjects, logs = [], {}
        for name, guest in self.guests.items():
            away = self.away_paths(name)
            subjects.append(Subject(
                name=name, ram_mib=guest.spec.ram_mib, has_fill=True,
                has_disk=guest.spec.disk_mib > 0, home_qmp=guest.paths.prover,
                away_qmp=away.prover, home_pid=guest.pid,
            ))  # fmt: skip
            logs |= {f"{name}@home": guest.paths.serial, f"{name}@away": away.serial}
        (self.root / "proof").mkdir()
        self._prover = Prover(subjects, logs, self.root / "proof")
        self.a.wait_connected()
        guests.wait_ready(list(self.guests.values()))
        self.watcher.start()

    def enrol(self, name: str) -> None:
        qmp = str(self.guests[name].paths.qmp)
        self.a.text("vm", "add", name, "--qmp", qmp, accept=(0, PARTIAL))

    def check_alive(self) -> None:
        self.a.check_alive()
        self.b.check_alive()
        for name, guest in self.guests.items():
            if not guest.alive():
                raise RuntimeError(f"guest {name} ended: {guest.paths.log.read_text()[-500:]}")

    def wait(self, what: str, done: Callable[[dict[str, Ledger]], bool], timeout_s: float) -> None:
        """Until `done(ledgers)`; raises with the newest status after the time-out."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_alive()
            with self.watcher.lock:
                if done(self.watcher.ledgers):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not after {timeout_s:.0f} s: {self._told()}")
            time.sleep(POLL_S / 2)

    def _told(self) -> str:
        try:
            vms = api_status(self.a.layout.socket)["vms"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            return f"home does not answer: {error}"
        keys = ("name", "phase", "state", "detail", "sealed_epoch", "rounds")
        return "; ".join(str({key: vm[key] for key in keys}) for vm in vms)

    def in_round(self, name: str) -> bool:
        return (self.a.layout.folder / "state" / "home" / f"{name}.in-round").exists()

    def link_bytes(self) -> tuple[int, int]:
        """That home and away have put on the link, by the kernel's count."""
        shown = run("ip", "-n", self._lab.lab.site_b, "-s", "-j", "link", "show", "dev", B_PORT)
        from_away = int(json.loads(shown)[0]["stats64"]["tx"]["bytes"])
        return self._lab.lab.a_to_b_bytes(), from_away

    def read_by_qemu(self, name: str) -> int:
        """Bytes that a guest's QEMU has read from files, its disk above all."""
        for line in Path(f"/proc/{self.guests[name].pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
        return 0

    def staged_ram_file(self, name: str) -> Path:
        """The largest staged file of a guest's memory at away; guests are enrolled in order."""
        number = [spec.name for spec in SPECS].index(name)
        folders = sorted(p for p in (self._ram / "site-b").rglob("*") if p.is_dir())
        files = [[f for f in folder.iterdir() if f.is_file()] for folder in folders]
        files = [found for found in files if found]
        return max(files[number], key=lambda f: f.stat().st_size)

    def compare(self, timeout_s: float = 180.0) -> dict[str, int]:
        """Moves the guests, holds each landing and compares it: differing pages, disks included."""
        self.watcher.stop()
        self.a.text("evacuate", "--hold-landing", "--no-wait", "--reason", "compare")
        differing: dict[str, int] = {}
        deadline = time.monotonic() + timeout_s
        while len(differing) < len(self.guests):
            self.check_alive_sites()
            for name, guest in self.guests.items():
                if name in differing or not self.prover.is_held(name):
                    continue
                pages = self.prover.compare_memory(name)
                blocks: list[int] = []
                if guest.spec.disk_mib:
                    disk = checks.disk_file_of(self.away_paths(name).prover)
                    blocks = differing_blocks(guest.paths.disk, disk)
                differing[name] = len(pages) + len(blocks)
                self.b.text("vm", "release", name)
            if time.monotonic() > deadline:
                missing = sorted(set(self.guests) - set(differing))
                raise RuntimeError(f"no held landing of {', '.join(missing)} in {timeout_s:.0f} s")
            time.sleep(0.1)
        return differing

    def check_alive_sites(self) -> None:
        self.a.check_alive()
        self.b.check_alive()

    def save_logs(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("site-*/*.log", "site-*/vms/*/*.log"):
            for source in self.root.glob(pattern):
                shutil.copy(source, target / "-".join(source.relative_to(self.root).parts))

    def close(self) -> None:
        self.watcher.stop()
        if self._prover:
            self._prover.close()
        for site in (self.a, self.b):
            site.stop()
        for name, guest in self.guests.items():
            guest.stop()
            try:
                with Qmp(self.away_paths(name).prover) as qmp:
                    qmp.command("quit")
            except (OSError, QmpError):
                pass
        for folder in (self._ram, self.root):
            shutil.rmtree(folder, ignore_errors=True)
