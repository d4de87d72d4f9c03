"""Two sites on a WAN emulator with guests at site A, for benchmarks of prestaging."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

TOP = Path(__file__).resolve().parent.parent.parent.parent
sys.path[:0] = [str(TOP / "deploy/quickstart"), str(TOP / "tests/guests")]

import guests  # noqa: E402
from guests import Guest, GuestSpec  # noqa: E402
from network import A_PORT, B_PORT, Lab, Link  # noqa: E402
from sites import PARTIAL, Site, SiteLayout, make_secrets  # noqa: E402

MIB = 1 << 20


def without_section(text: str, section: str) -> str:
    """A TOML text without one section: what it sets gets the product's defaults."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.strip() == f"[{section}]"
        if not inside:
            kept.append(line)
    return "\n".join(kept) + "\n"


def end_on_sigterm() -> None:
    """SIGTERM unwinds like an exception, so that guests, daemons and namespaces are taken down."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


class ReduceLab:
    """A context manager: everything that it starts it also stops."""

    def __init__(
        self, tag: str, link: Link, default_budget: bool, binaries: Path = TOP / "build/release/bin"
    ) -> None:
        self._link, self._default_budget = link, default_budget
        self.work = Path(tempfile.mkdtemp(prefix=f"evacgw-{tag}-"))
        shm = Path("/dev/shm")
        self.ram_dir = Path(tempfile.mkdtemp(prefix=f"evacgw-{tag}-", dir=shm if shm.is_dir() else None))
        self._binaries = binaries
        self.lab = Lab(f"{os.getpid()}-{tag[:1]}")
        self.layout_a, self.layout_b = SiteLayout(self.work, "site-a"), SiteLayout(self.work, "site-b")
        self.a = Site(self.layout_a, self.lab.site_a, self._binaries)
        self.b = Site(self.layout_b, self.lab.site_b, self._binaries)
        self.guests: list[Guest] = []

    def __enter__(self) -> ReduceLab:
        end_on_sigterm()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self.lab.create()
        self.lab.start_emulator(self._binaries / "wan-emulator", self._link, self.work)
        make_secrets(self.work / "keys")
        for site, peer, port in ((self.a, self.layout_b, A_PORT), (self.b, self.layout_a, B_PORT)):
            site.prepare(peer, self.ram_dir, port, self._link.rate_mbit)
            if self._default_budget:
                config = site.layout.config
                config.write_text(without_section(config.read_text(), "prestage"))
            site.start()
        for site in (self.a, self.b):
            site.wait_connected()

    def start_guests(self, specs: list[GuestSpec]) -> None:
        image = guests.build_image()
        for spec in specs:
            (self.layout_b.vms / spec.name).mkdir(parents=True)
            self.guests.append(
                guests.start_guest(spec, image, self.layout_a.vms / spec.name, self.lab.site_a)
            )
        guests.wait_ready(self.guests)

    def enrol(self, guest: Guest) -> None:
        add = ("vm", "add", guest.spec.name, "--qmp", str(guest.paths.qmp))
        self.a.text(*add, accept=(0, PARTIAL))

    def remove(self, guest: Guest) -> None:
        deadline = time.monotonic() + 60
        while True:
            done = self.a.evacctl_result("vm", "remove", guest.spec.name)
            if done.returncode == 0:
                return
            if "being captured" not in done.stderr or time.monotonic() > deadline:
                raise RuntimeError(f"vm remove {guest.spec.name}: {done.stderr.strip()}")
            time.sleep(0.1)

    def vms(self) -> list[dict[str, Any]]:
        return list(self.a.evacctl("status")["vms"])

    def wait_protected(self, count: int, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            vms = self.vms()
            if sum(vm["sealed_epoch"] > 0 for vm in vms) >= count:
                return
            refused = [f"{vm['name']}: {vm['detail']}" for vm in vms if vm["state"] == "refused"]
            if refused:
                raise RuntimeError(f"refused: {'; '.join(refused)}")
            if time.monotonic() > deadline:
                states = [f"{vm['name']} {vm['state']} {vm['detail']}" for vm in vms]
                raise RuntimeError(f"no recovery point within {limit_s:.0f} s: {states}")
            time.sleep(0.25)

    def close(self) -> None:
        for site in (self.a, self.b):
            site.stop()
        guests.stop_guests(self.guests)
        self.lab.destroy()
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.ram_dir, ignore_errors=True)


def write_figures(path: Path | None, figures: dict[str, dict[str, Any]]) -> None:
    for name, figure in figures.items():
        verdict = {True: "met", False: "MISSED", None: "information"}[figure["met"]]
        beside = f", beside it {figure['baseline']}" if "baseline" in figure else ""
        print(f"{name}: {figure['value']} {figure['unit']} (target {figure['target']}: {verdict}{beside})")
    if path:
        path.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
