"""The stages of the main job: sites, guests, prestaging, alert, evacuation, proof."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path[:0] = [str(HERE), *(str(TOP / "tests" / folder) for folder in ("guests", "proof", "peer"))]

import alert  # noqa: E402
import guests  # noqa: E402
import peer as stock  # noqa: E402
from display import Display  # noqa: E402
from guests import Guest, GuestImage, GuestSpec  # noqa: E402
from network import A_PORT, B_PORT, Lab, Link, destroy_netns, in_netns  # noqa: E402
from progress import evacuation_lines, prestage_lines  # noqa: E402
from prove import Prover, Subject  # noqa: E402
from report import Outcome, VmOutcome  # noqa: E402
from sites import (
    INFEASIBLE,
    PARTIAL,
    WEBHOOK,
    CommandError,
    Site,
    SiteLayout,
    make_secrets,
)  # noqa: E402

MIB = 1 << 20
CLEANUP_FILE = "cleanup.json"


class Quickstart:
    """One run. Everything it makes is in its work folder, its RAM folder or its namespaces."""

    def __init__(self, options: argparse.Namespace, display: Display) -> None:
        self._options, self._display = options, display
        self._link = Link(options.rate_mbit, options.rtt_ms, options.loss, options.seed)
        self._specs = guests.six_guests(options.seed)[: options.vms]
        self._tag = str(os.getpid())
        self.work = Path(tempfile.mkdtemp(prefix="evacgw-quickstart-"))
        self._ram_dir = self._choose_ram_dir()
        self._lab = Lab(self._tag)
        self._peer_lab = Lab(f"{self._tag}-p")
        (self.work / CLEANUP_FILE).write_text(json.dumps({
            "netns": self._lab.netns + self._peer_lab.netns,
            "folders": [str(self._ram_dir), str(self.work)],
        }))  # fmt: skip
        root_a, root_b = SiteLayout(self.work, "site-a"), SiteLayout(self.work, "site-b")
        self._a = Site(root_a, self._lab.site_a, options.bin)
        self._b = Site(root_b, self._lab.site_b, options.bin)
        self._guests: list[Guest] = []
        self._prover: Prover | None = None
        self._before: dict[str, dict[str, Any]] = {}  # status just before the alert

    def _choose_ram_dir(self) -> Path:
        """Staged RAM lies on tmpfs where there is room for all of it, else in the work folder."""
        needed = sum(spec.ram_mib for spec in self._specs) * MIB * 5 // 4
        shm = Path("/dev/shm")
        if (
            shm.is_dir()
            and shutil.disk_usage(shm).free > needed
            and _memory_available() > 3 * needed
        ):
            return Path(tempfile.mkdtemp(prefix="evacgw-quickstart-", dir=shm))
        folder = self.work / "ram"
        folder.mkdir()
        return folder

    def run(self) -> Outcome:
        self._check_machine()
        image = guests.build_image()
        peer = self._compare(image) if self._options.compare else None
        self._start_sites()
        self._start_guests(image)
        self._prestage()
        plan = self._show_status_and_plan()
        bytes_before = self._lab.a_to_b_bytes()
        if self._options.verify:
            alerted_s = self._evacuate_held()
        else:
            alerted_s = self._alert()
            self._follow_evacuation()
        wire_mib = (self._lab.a_to_b_bytes() - bytes_before) / MIB
        if lost := self._lab.lost_by_emulator():
            self._display.say(f"distrust the times: the emulator itself lost {lost} packets")
        return self._prove(plan, alerted_s, wire_mib, peer)

    def _check_machine(self) -> None:
        for name in ("evacgwd", "evacctl", "wan-emulator"):
            if not os.access(self._options.bin / name, os.X_OK):
                raise RuntimeError(
                    f"{self._options.bin / name} is missing: run ./deploy/build.sh release"
                )
        needed = sum(spec.ram_mib for spec in self._specs) * MIB * 2 + 1024 * MIB
        if _memory_available() < needed:
            self._display.say(
                f"warning: {_memory_available() // MIB} MiB of memory are free, "
                f"{needed // MIB} would be comfortable; try --vms 3"
            )

    # ---------------------------------------------------------------------------- stages

    def _compare(self, image: GuestImage) -> dict[str, Any]:
        self._display.heading("stock QEMU on the same guests and link")
        folder = self.work / "peer"
        folder.mkdir()
        try:
            self._peer_lab.create()
            self._peer_lab.start_emulator(self._options.bin / "wan-emulator", self._link, folder)
            link = stock.PeerLink(
                self._peer_lab.site_a,
                A_PORT,
                self._peer_lab.site_b,
                B_PORT,
                self._peer_lab.a_to_b_bytes,
            )
            result = stock.run_peer(link, self._specs, image, folder, self._display.say)
        finally:
            self._peer_lab.destroy()
            shutil.rmtree(folder, ignore_errors=True)
        self._display.say(f"{result.method}: {result.total_s} s, {result.wire_mib} MiB")
        return result.report()

    def _start_sites(self) -> None:
        link = self._link
        self._display.heading(
            f"two sites, {link.rate_mbit:g} Mbit/s, {link.rtt_ms:g} ms, {link.loss_pct:g} % loss"
        )
        self._lab.create()
        self._lab.start_emulator(self._options.bin / "wan-emulator", link, self.work)
        make_secrets(self.work / "keys")
        self._a.prepare(self._b.layout, self._ram_dir, A_PORT, link.rate_mbit)
        self._b.prepare(self._a.layout, self._ram_dir, B_PORT, link.rate_mbit)
        for site in (self._b, self._a):
            site.start()
        self._a.wait_connected()
        self._display.say("both gateways run and have authenticated each other")

    def _start_guests(self, image: GuestImage) -> None:
        self._display.heading(f"{len(self._specs)} guests at site A")
        for spec in self._specs:
            (self._b.layout.vms / spec.name).mkdir(parents=True)
            folder = self._a.layout.vms / spec.name
            self._guests.append(guests.start_guest(spec, image, folder, self._lab.site_a))
        self._prover = self._start_prover(image)
        guests.wait_ready(self._guests)
        for guest in self._guests:
            spec = guest.spec
            # "Partial": known, and accepted by the peer a little later; prestaging waits for that.
            add = ("vm", "add", spec.name, "--qmp", str(guest.paths.qmp))
            self._a.text(*add, accept=(0, PARTIAL))
            self._display.say(f"enrolled {describe(spec)}")

    def _start_prover(self, image: GuestImage) -> Prover:
        subjects: list[Subject] = []
        logs: dict[str, Path] = {}
        for guest in self._guests:
            spec, away = guest.spec, guests.GuestPaths(self._b.layout.vms / guest.spec.name)
            subjects.append(
                Subject(
                    name=spec.name,
                    ram_mib=spec.ram_mib,
                    has_fill=spec.fill_mib > 0,
                    has_disk=spec.disk_mib > 0,
                    home_qmp=guest.paths.prover,
                    away_qmp=away.prover,
                    home_pid=guest.pid,
                    base_sha256=image.base_sha256 if spec.disk_mib else None,
                )
            )
            logs |= {f"{spec.name}@home": guest.paths.serial, f"{spec.name}@away": away.serial}
        folder = self.work / "proof"
        folder.mkdir()
        return Prover(subjects, logs, folder)

    def _prestage(self) -> None:
        self._display.heading("prestaging")
        # All of it uncompressed, three times over, plus half a minute a VM for capturing.
        total_mib = sum(spec.ram_mib + spec.disk_mib for spec in self._specs)
        limit_s = 3 * total_mib * 8.4 / self._link.rate_mbit + 30 * len(self._specs)
        deadline = time.monotonic() + limit_s
        while True:
            self._check_alive()
            vms = self._a.evacctl("status")["vms"]
            for vm in vms:
                if vm["state"] == "refused":
                    raise RuntimeError(f"{vm['name']} was refused: {vm.get('detail')}")
            protected = sum(vm["state"] == "protected" for vm in vms)
            done = protected == len(self._specs)
            self._display.block(*prestage_lines(vms), done)
            if done:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {protected} VMs are protected after {limit_s:.0f} s")
            time.sleep(0.5)

    def _show_status_and_plan(self) -> dict[str, float]:
        """Prints both, and returns when the plan says that each VM is away."""
        self._display.heading("evacctl status")
        self._display.say(self._a.text("status").rstrip())
        self._display.heading("evacctl plan --dry-run")
        self._display.say(self._a.text("plan", "--dry-run", accept=(0, INFEASIBLE)).rstrip())
        self._before = {vm["name"]: vm for vm in self._a.evacctl("status")["vms"]}
        plan = self._a.evacctl("plan", "--dry-run", accept=(0, INFEASIBLE))
        return {
            vm["name"]: float(vm["away_s"]) for vm in plan["vms"] if vm.get("away_s") is not None
        }

    def _alert(self) -> float:
        """Posts it, and returns the monotonic time at which it was sent."""
        self._display.heading("a signed earthquake alert reaches site A")
        keys = self.work / "keys"
        command = [
            sys.executable, str(HERE / "alert.py"), "--url", f"https://{WEBHOOK}{alert.PATH}",
            "--ca", str(keys / "ca.pem"), "--secret-file", str(keys / "webhook.secret"),
        ]  # fmt: skip
        body = json.dumps(alert.alert_body(f"quickstart-{self._tag}")).encode()
        done = subprocess.run(
            in_netns(self._lab.site_a, command),
            input=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        answer = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0:
            raise RuntimeError(f"the webhook did not accept the alert: {answer}")
        self._display.say(answer)
        told = json.loads(answer)
        if json.loads(told["answer"]).get("action") != "evacuate":
            raise RuntimeError("the alert did not lead to an evacuation")
        return float(told["sent_s"])

    def _follow_evacuation(self) -> None:
        assert self._prover
        deadline = time.monotonic() + self._evacuation_limit_s()
        landed: list[str] = []
        while len(landed) < len(self._specs):
            self._check_alive()
            landed = [
                spec.name for spec in self._specs if self._prover.landed_s(spec.name) is not None
            ]
            done, total = len(landed), len(self._specs)
            evacuation = self._evacuation()
            told = evacuation["vms"]
            self._display.block(*evacuation_lines(told, done, total), done == total)
            if evacuation.get("finished") and done < total:
                self._check_none_left(told)
            if time.monotonic() > deadline:
                waiting = [spec.name for spec in self._specs if spec.name not in landed]
                raise RuntimeError(f"not away in time: {', '.join(waiting)}")
            time.sleep(0.25)

    def _check_none_left(self, told: list[dict[str, Any]]) -> None:
        left = [vm for vm in told if vm.get("outcome") in ("returned", "stuck")]
        if left:
            details = "; ".join(f"{vm['name']} {vm['outcome']}: {vm.get('detail')}" for vm in left)
            raise RuntimeError(f"the evacuation ended without all VMs: {details}")

    def _evacuation(self) -> dict[str, Any]:
        try:
            answer = self._a.evacctl("evacuation")
        except CommandError:  # it has not begun yet
            answer = None
        return answer if isinstance(answer, dict) and "vms" in answer else {"vms": []}

    def _evacuate_held(self) -> float:
        assert self._prover
        self._display.heading("evacuation; each landing is held until its memory was compared")
        began_s = time.monotonic()
        self._a.text("evacuate", "--hold-landing", "--no-wait")
        deadline = time.monotonic() + self._evacuation_limit_s() + 20 * len(self._specs)
        waiting = [spec.name for spec in self._specs]
        while waiting:
            self._check_alive()
            for name in [name for name in waiting if self._prover.is_held(name)]:
                pages = self._prover.compare_memory(name)
                where = f": {', '.join(f'{page:#x}' for page in pages[:8])}" if pages else ""
                self._display.say(f"{name}: {len(pages)} pages differ{where}")
                self._b.text("vm", "release", name)
                waiting.remove(name)
            if time.monotonic() > deadline:
                raise RuntimeError(f"no held landing in time: {', '.join(waiting)}")
            time.sleep(0.1)
        self._follow_evacuation()
        return began_s

    def _prove(
        self, plan: dict[str, float], alerted_s: float, wire_mib: float, peer: dict[str, Any] | None
    ) -> Outcome:
        assert self._prover
        self._display.heading("proof")
        self._display.say("waiting for each guest to verify all of its memory twice")
        self._prover.wait_for_evidence()
        told = {vm["name"]: vm for vm in self._final_evacuation()["vms"]}
        downtime = {
            spec.name: None if self._options.verify else told.get(spec.name, {}).get("downtime_ms")
            for spec in self._specs
        }
        outcomes = []
        for name, proofs in self._prover.prove(downtime).items():
            vm, landed = told.get(name, {}), self._prover.landed_s(name)
            problems = list(proofs.problems)
            if not self._options.verify and downtime[name] is None:
                problems.append("the gateway reported no downtime")
            for problem in problems:
                self._display.say(f"FAILED {name}: {problem}")
            facts = {**proofs.counter.facts, **proofs.memory_checksum.facts, **proofs.disk.facts}
            self._display.say(
                f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items())
            )
            outcomes.append(
                VmOutcome(
                    name=name,
                    staged_mib=self._before[name].get("staged_mib"),
                    backlog_mib=self._before[name].get("backlog_mib"),
                    wire_mib=vm.get("wire_mib"),
                    downtime_ms=vm.get("downtime_ms"),
                    predicted_away_s=plan.get(name, vm.get("predicted_away_s")),
                    away_s=round(landed - alerted_s, 3) if landed is not None else None,
                    proofs=proofs.report(),
                    passed=not problems,
                )
            )
        last_s = max(self._prover.landed_s(spec.name) or time.monotonic() for spec in self._specs)
        return Outcome(outcomes, last_s - alerted_s, wire_mib, self._link, peer, self._stored_report())

    def _final_evacuation(self) -> dict[str, Any]:
        """The gateway's own account, once it calls the evacuation finished (or after 10 s)."""
        deadline = time.monotonic() + 10
        while True:
            answer = self._evacuation()
            if answer.get("finished") or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)

    def _stored_report(self) -> dict[str, Any] | None:
        """Prediction against reality as the gateway keeps it; it is written just after the evacuation ends."""
        deadline = time.monotonic() + 5
        while True:
            try:
                answer = self._a.evacctl("report")
                return answer if isinstance(answer, dict) else None
            except CommandError:
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.2)

    def _evacuation_limit_s(self) -> float:
        total_mib = sum(spec.ram_mib + spec.disk_mib for spec in self._specs)
        return 60 + total_mib * 8.4 / self._link.rate_mbit

    def _check_alive(self) -> None:
        self._a.check_alive()
        self._b.check_alive()

    # --------------------------------------------------------------------------- clean-up

    def close(self) -> None:
        if self._prover:
            self._prover.close()
        for site in (self._a, self._b):
            site.stop()
        guests.stop_guests(self._guests)
        destroy_netns(self._lab.netns + self._peer_lab.netns)
        for folder in (self._ram_dir, self.work):
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self) -> None:
        if self._prover:
            self._prover.close()
        a, b = self._a.evacctl_command("status"), self._b.evacctl_command("status")
        self._display.say(f"\nkept: {self.work}\n  site A: {' '.join(a)}\n  site B: {' '.join(b)}")
        self._display.say(f"  clean up: {TOP / 'deploy/quickstart.sh'} --cleanup {self.work}")

    def save_logs(self) -> None:
        """Copies the logs of a failed run to where cleaning up leaves them."""
        patterns = ("*.log", "site-*/*.log", "site-*/*.toml", "site-*/vms/*/*.log")
        logs = [source for pattern in patterns for source in self.work.glob(pattern)]
        if not logs:
            return
        target = Path(tempfile.mkdtemp(prefix="evacgw-quickstart-failed-"))
        for source in logs:
            shutil.copy(source, target / "-".join(source.relative_to(self.work).parts))
        self._display.say(f"logs: {target}")


def describe(spec: GuestSpec) -> str:
    text = f"{spec.name}: {spec.ram_mib} MiB"
    if spec.rate_mib:
        text += f", writes {spec.rate_mib} MiB/s over {spec.ws_mib} MiB"
    if spec.disk_mib:
        text += f", a disk of {spec.disk_mib} MiB written at {spec.disk_kib_s} KiB/s"
    return text


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
