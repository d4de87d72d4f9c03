"""Two sites, one guest and the prover, new for each case, on namespaces that all cases share."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
QUICKSTART = TOP / "deploy" / "quickstart"
sys.path[:0] = [str(QUICKSTART), *(str(TOP / "tests" / name) for name in ("guests", "proof"))]

import alert  # noqa: E402
import guests  # noqa: E402
from guests import GuestImage, GuestPaths, GuestSpec  # noqa: E402
from journal_reader import AWAY, HOME, ORDER, JournalReader, last_state  # noqa: E402
from network import A_PORT, B_PORT, Lab, Link, in_netns  # noqa: E402
from prove import Prover, Subject  # noqa: E402
from qmp import Qmp, QmpError  # noqa: E402
from run_states import RunStates  # noqa: E402
from sites import PARTIAL, WEBHOOK, CommandError, Site, SiteLayout, make_secrets  # noqa: E402

ROLES = {"home": HOME, "away": AWAY}
POLL_S = 0.001


class CrashSite(Site):
    """A site whose daemon can be killed, and only that."""

    @property
    def journal(self) -> Path:
        return self.layout.folder / "state" / "handover.journal"

    def kill(self) -> None:
        assert self._daemon
        self._daemon.send_signal(signal.SIGKILL)

    def reap(self) -> None:
        assert self._daemon
        self._daemon.wait(30)


@dataclass
class Kill:
    """What the watcher saw and did."""

    seen: str  # the state whose record made it kill
    at_death: str = ""  # the newest state in the watched journal once the daemon was dead


class Killer:
    """Follows `journal` and kills `victim` as soon as `state`, or a later one, is in it."""

    def __init__(self, journal: Path, role: int, state: str, victim: CrashSite) -> None:
        self._reader = JournalReader(journal)
        self._journal, self._role, self._victim = journal, role, victim
        self._wanted = set(ORDER[ORDER.index(state) :]) | {"aborted", "lost"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done: Kill | None = None
        self._reader.poll()

    def start(self) -> Killer:
        self._thread.start()
        return self

    def wait(self, timeout_s: float) -> Kill:
        self._thread.join(timeout_s)
        self._stop.set()
        self._thread.join()
        self._reader.close()
        if self.done is None:
            raise RuntimeError("the state did not come: nothing was killed")
        self._victim.reap()
        newest = last_state(self._journal, self._role)
        self.done.at_death = newest.state if newest else "nothing"
        return self.done

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            for entry in self._reader.poll():
                if entry.role == self._role and entry.state in self._wanted:
                    self._victim.kill()
                    self.done = Kill(entry.state)
                    return


class CrashLab:
    """The namespaces, the WAN and the secrets. One run of the program has one."""

    def __init__(self, tag: str, binaries: Path, link: Link) -> None:
        self.binaries, self.link = binaries, link
        self.work = Path(tempfile.mkdtemp(prefix="evacgw-crash-"))
        shm = Path("/dev/shm")
        self.ram = Path(
            tempfile.mkdtemp(prefix="evacgw-crash-", dir=shm if shm.is_dir() else self.work)
        )
        self.lab = Lab(f"crash-{tag}")
        self.image: GuestImage = guests.build_image()

    def start(self) -> None:
        self.lab.create()
        self.lab.start_emulator(self.binaries / "wan-emulator", self.link, self.work)
        make_secrets(self.work / "keys")

    def close(self) -> None:
        self.lab.destroy()
        for folder in (self.ram, self.work):
            shutil.rmtree(folder, ignore_errors=True)


class Pair:
    """Both sites and one guest, for one case."""

    def __init__(self, lab: CrashLab, name: str, spec: GuestSpec) -> None:
        self._lab, self.spec = lab, spec
        self.root = lab.work / name
        self.root.mkdir()
        (self.root / "keys").symlink_to(lab.work / "keys")
        self._ram = lab.ram / name
        layout_a, layout_b = SiteLayout(self.root, "site-a"), SiteLayout(self.root, "site-b")
        self.a = CrashSite(layout_a, lab.lab.site_a, lab.binaries)
        self.b = CrashSite(layout_b, lab.lab.site_b, lab.binaries)
        self.a.prepare(layout_b, self._ram, A_PORT, lab.link.rate_mbit)
        self.b.prepare(layout_a, self._ram, B_PORT, lab.link.rate_mbit)
        arm = '[[alert.rule]]\nsource = "json"\nmin_intensity = "3"\naction = "arm"\n\n[prestage]'
        config = layout_a.config.read_text()
        layout_a.config.write_text(config.replace("[prestage]", arm))
        (layout_b.vms / spec.name).mkdir(parents=True)
        self.away_paths = GuestPaths(layout_b.vms / spec.name)
        self._prover: Prover | None = None
        self._states: RunStates | None = None
        self.last_answer = ""  # of arm and evacuate
        self.guest = guests.start_guest(
            spec, lab.image, layout_a.vms / spec.name, lab.lab.site_a
        )

    @property
    def sites(self) -> dict[str, CrashSite]:
        return {"home": self.a, "away": self.b}

    @property
    def prover(self) -> Prover:
        assert self._prover
        return self._prover

    def start(self) -> None:
        for site in (self.b, self.a):
            site.start()
        self.a.wait_connected()
        subject = Subject(
            name=self.spec.name, ram_mib=self.spec.ram_mib, has_fill=self.spec.fill_mib > 0,
            has_disk=self.spec.disk_mib > 0, home_qmp=self.guest.paths.prover, away_qmp=self.away_paths.prover,
            home_pid=self.guest.pid,
            base_sha256=self._lab.image.base_sha256 if self.spec.disk_mib else None,
        )  # fmt: skip
        name = self.spec.name
        logs = {f"{name}@home": self.guest.paths.serial, f"{name}@away": self.away_paths.serial}
        (self.root / "proof").mkdir()
        self._prover = Prover([subject], logs, self.root / "proof")
        self._states = RunStates(self.guest.paths.prover, self.away_paths.prover).start()
        guests.wait_ready([self.guest])

    def enrol(self) -> None:
        add = ("vm", "add", self.spec.name, "--qmp", str(self.guest.paths.qmp))
        self.a.text(*add, accept=(0, PARTIAL))

    def wire_bytes(self) -> int:
        """That site A has put on the link, by the kernel's count, so restarts do not matter."""
        return self._lab.lab.a_to_b_bytes()

    def cut_line(self) -> None:
        self._emulator("loss 100")

    def mend_line(self) -> None:
        self._emulator(f"loss {self._lab.link.loss_pct:g}")

    def _emulator(self, line: str) -> None:
        if (answer := self._lab.lab.tell_emulator(line)) != "ok":
            raise RuntimeError(f"wan-emulator, {line}: {answer}")

    def vm_status(self) -> dict[str, object]:
        return next(vm for vm in self.a.evacctl("status")["vms"] if vm["name"] == self.spec.name)

    def wait_protected(self, epoch_above: int = 0, stalled_s: float = 60.0) -> int:
        """Synchronised, with a recovery point newer than `epoch_above`. Returns its epoch. Waits as
        long as it gets on, at most 5 minutes."""
        began_s = time.monotonic()
        deadline = began_s + stalled_s
        last: object = "no answer"
        progress: tuple[object, ...] = ()
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                vm = self.vm_status()
                if vm["phase"] == "active" and int(str(vm["sealed_epoch"])) > epoch_above:
                    return int(str(vm["sealed_epoch"]))
                last = {key: vm[key] for key in ("phase", "state", "detail", "sealed_epoch")}
                now = (vm["phase"], vm["sent_mib"], vm["rounds"], vm["sealed_epoch"])
                if now != progress:
                    progress = now
                    deadline = min(time.monotonic() + stalled_s, began_s + 300)
            except (CommandError, ValueError, StopIteration, subprocess.TimeoutExpired) as error:
                last = error
            time.sleep(0.2)
        raise RuntimeError(f"not protected, and no progress for {stalled_s:.0f} s: {last}")

    def arm(self) -> None:
        """An alert too weak to evacuate, strong enough to arm."""
        keys = self.root / "keys"
        # Some 76 km away: the gateway estimates intensity 4 or so at site A.
        body = alert.alert_body(self.spec.name) | {"magnitude": 5.5, "max_intensity": "4"}
        command = [
            sys.executable, str(QUICKSTART / "alert.py"), "--url",
            f"https://{WEBHOOK}{alert.PATH}", "--ca", str(keys / "ca.pem"),
            "--secret-file", str(keys / "webhook.secret"),
        ]  # fmt: skip
        done = subprocess.run(
            in_netns(self.a.netns, command), input=json.dumps(body).encode(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        self.last_answer = done.stdout.decode(errors="replace").strip()  # the daemon may be dead

    def evacuate(self) -> None:
        """Posts it. The daemon may be killed before it answers."""
        try:
            self.last_answer = self.a.text("evacuate", "--no-wait", "--reason", "crash test")
        except CommandError as error:
            self.last_answer = str(error)

    def states(self) -> tuple[str, str]:
        home, away = last_state(self.a.journal, HOME), last_state(self.b.journal, AWAY)
        return (home.state if home else "protected", away.state if away else "protected")

    def wait_end(self, timeout_s: float = 150.0) -> str:
        """`B` or `A`, by both journals; raises when neither comes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check_alive()
            home, away = self.states()
            if home == "released" and away == "released":
                return "B"
            if "lost" in (home, away):
                raise RuntimeError(f"home is {home}, away is {away}")
            if home in ("protected", "armed") and self._nothing_under_way():
                return "A"
            time.sleep(0.1)
        home, away = self.states()
        raise RuntimeError(f"no end after {timeout_s:.0f} s: home is {home}, away is {away}")

    def _nothing_under_way(self) -> bool:
        try:
            told = self.a.evacctl("evacuation")
        except (CommandError, ValueError, subprocess.TimeoutExpired):
            return False
        return not (isinstance(told, dict) and "stage" in told and not told.get("finished"))

    def check_alive(self) -> None:
        self.a.check_alive()
        self.b.check_alive()

    def stop_sampling(self) -> RunStates:
        assert self._states
        self._states.stop()
        return self._states

    def save_logs(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("site-*/*.log", "site-*/state/handover.journal", "site-*/vms/*/*.log"):
            for source in self.root.glob(pattern):
                shutil.copy(source, target / "-".join(source.relative_to(self.root).parts))

    def close(self) -> None:
        if self._states:
            self._states.stop()
        if self._prover:
            self._prover.close()
        for site in (self.a, self.b):
            site.stop()
        self.guest.stop()
        self._quit_landing()
        for folder in (self._ram, self.root):
            shutil.rmtree(folder, ignore_errors=True)

    def _quit_landing(self) -> None:
        try:
            with Qmp(self.away_paths.prover) as qmp:
                qmp.command("quit")
        except (OSError, QmpError):
            pass
