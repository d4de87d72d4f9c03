#!/usr/bin/env python3
"""Proves that guests moved and lost nothing. Shares no code with the gateway.

As a program it reads a manifest and prints the proofs as JSON; exit code 1 when one fails:

    prove.py --manifest FILE [--work DIR]

    {"timeline": FILE written by SerialWatch.save, logs named "<vm>@home" and "<vm>@away",
     "vms": [{"name", "ram_mib", "has_fill", "has_disk", "home_qmp", "away_qmp", "home_pid",
              "away_log": FILE, the landing's serial log, with a disk only,
              "downtime_ms": number or null, "base_sha256": text or null,
              "differing_pages": number or null}]}

deploy/quickstart and the integration tests use `Prover` directly.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]

import checks  # noqa: E402
from checks import Verdict  # noqa: E402
from qmp import run_state_of  # noqa: E402
from serial_watch import Chunk, SerialWatch, load_timeline  # noqa: E402


@dataclass(frozen=True)
class Subject:
    """One VM as the prover sees it. Both QMP sockets are the prover's own."""

    name: str
    ram_mib: int
    has_fill: bool
    has_disk: bool
    home_qmp: Path
    away_qmp: Path
    home_pid: int | None = None
    base_sha256: str | None = None


@dataclass
class Proofs:
    """The outcome for one VM; `passed` is what the report's booleans say."""

    name: str
    runs_only_at_away: Verdict
    counter: Verdict
    memory_checksum: Verdict
    disk: Verdict  # holds trivially without a disk
    differing_pages: int | None = None

    @property
    def problems(self) -> list[str]:
        found = [
            f"{what}: {problem}"
            for what in ("runs_only_at_away", "counter", "memory_checksum", "disk")
            for problem in getattr(self, what).problems
        ]
        if self.differing_pages:
            found.append(f"{self.differing_pages} pages of memory differ")
        return found

    @property
    def passed(self) -> bool:
        return not self.problems

    def report(self) -> dict[str, Any]:
        """Exactly the fields of `proofs` in the quickstart's report."""
        return {
            "runs_only_at_away": self.runs_only_at_away.ok, "counter": self.counter.ok,
            "memory_checksum": self.memory_checksum.ok, "disk": self.disk.ok,
            "differing_pages": self.differing_pages,
        }  # fmt: skip


class Prover:
    """Watches the serial logs of both sites from the start; proves at the end."""

    def __init__(self, subjects: list[Subject], logs: dict[str, Path], work: Path) -> None:
        self._subjects = {subject.name: subject for subject in subjects}
        self._work = work
        self._differing: dict[str, int] = {}
        self.watch = SerialWatch(logs).start()

    def close(self) -> None:
        self.watch.stop()

    def home(self, name: str) -> list[Chunk]:
        return self.watch.chunks(f"{name}@home")

    def away(self, name: str) -> list[Chunk]:
        return self.watch.chunks(f"{name}@away")

    def landed_s(self, name: str) -> float | None:
        """Host monotonic time of the landing's first output; None before it."""
        chunks = self.away(name)
        return chunks[0].time_s if chunks else None

    def is_held(self, name: str) -> bool:
        """The source stands still and the landing is complete but paused."""
        subject = self._subjects[name]
        return run_state_of(subject.home_qmp) not in (None, "running") and run_state_of(
            subject.away_qmp
        ) in ("paused", "prelaunch")

    def compare_memory(self, name: str) -> list[int]:
        """Page by page, while the landing is held; the result goes into the proofs."""
        subject = self._subjects[name]
        pages = checks.differing_pages(
            subject.home_qmp, subject.away_qmp, subject.ram_mib, self._work
        )
        self._differing[name] = len(pages)
        return pages

    def wait_for_evidence(self, timeout_s: float = 40.0) -> None:
        """Two passes over both kinds of memory at away for every VM, or the time-out."""

        def enough(subject: Subject) -> bool:
            working, static = checks.memory_evidence(self.away(subject.name))
            return working >= 2 and (static >= 2 or not subject.has_fill)

        checks.wait_for(lambda: all(enough(s) for s in self._subjects.values()), timeout_s, 0.2)

    def prove(self, downtime_ms: dict[str, float | None]) -> dict[str, Proofs]:
        """All VMs. `downtime_ms` as the gateway reported it; None for a landing that was held."""
        # Everything that time stamps decide comes first: copying a disk pauses its guest.
        proofs = {
            name: prove_logs(
                subject,
                self.home(name),
                self.away(name),
                downtime_ms.get(name),
                self._differing.get(name),
            )
            for name, subject in self._subjects.items()
        }
        for name, subject in self._subjects.items():
            if subject.has_disk:
                proofs[name].disk = prove_disk(subject, partial(self._logs, name), self._work)
        return proofs

    def _logs(self, name: str) -> tuple[list[Chunk], list[Chunk]]:
        return self.home(name), self.away(name)


def prove_disk(
    subject: Subject, logs: Callable[[], tuple[list[Chunk], list[Chunk]]], work: Path
) -> Verdict:
    image = work / f"{subject.name}.img"
    acks: list[int] = []

    def read_acknowledgements() -> None:  # of the moment at which the guest stood still
        time.sleep(0.1)  # the logs are polled
        acks.extend(checks.acknowledged(*logs()))

    try:
        checks.copy_paused_disk(subject.away_qmp, image, read_acknowledgements)
        return checks.disk(image, acks, subject.base_sha256, work)
    except Exception as error:  # a proof that cannot be made has failed
        return Verdict([f"{type(error).__name__}: {error}"])
    finally:
        image.unlink(missing_ok=True)


def prove_logs(
    subject: Subject,
    home: list[Chunk],
    away: list[Chunk],
    downtime_ms: float | None,
    differing: int | None,
) -> Proofs:
    return Proofs(
        name=subject.name,
        runs_only_at_away=checks.runs_only_at_away(
            subject.home_qmp, subject.away_qmp, home, away, subject.home_pid
        ),
        counter=checks.counter(home, away, downtime_ms),
        memory_checksum=checks.memory_checksum(home, away, subject.has_fill),
        disk=Verdict(),
        differing_pages=differing,
    )


def _with_live_log(home: list[Chunk], away_log: Path) -> tuple[list[Chunk], list[Chunk]]:
    return home, [Chunk(0, away_log.read_bytes())]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, help="folder for copies of disks (default: a temporary one)"
    )
    arguments = parser.parse_args()
    manifest = json.loads(arguments.manifest.read_text())
    timeline = load_timeline(Path(manifest["timeline"]))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for vm in manifest["vms"]:
            subject = Subject(
                vm["name"], vm["ram_mib"], vm["has_fill"], vm["has_disk"], Path(vm["home_qmp"]),
                Path(vm["away_qmp"]), vm.get("home_pid"), vm.get("base_sha256"),
            )  # fmt: skip
            logs = timeline.get(f"{vm['name']}@home", []), timeline.get(f"{vm['name']}@away", [])
            proofs = prove_logs(subject, *logs, vm.get("downtime_ms"), vm.get("differing_pages"))
            if subject.has_disk:
                live = partial(_with_live_log, logs[0], Path(vm["away_log"]))
                proofs.disk = prove_disk(subject, live, Path(folder))
            results.append(asdict(proofs) | {"problems": proofs.problems, "passed": proofs.passed})
    json.dump(results, sys.stdout, indent=2)
    print()
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
