#!/usr/bin/env python3
"""The prover against plain QEMU: guests move by `stop` and one `migrate` between two stock QEMUs,
so all must hold; then faults are planted, and the proof that they break must fail. No gateway."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]

import checks  # noqa: E402
import guests  # noqa: E402
from guests import Guest, GuestImage, GuestSpec, Qmp  # noqa: E402
from prove import Prover, Subject  # noqa: E402

WRITER = GuestSpec("writer", "writer", 256, 16, 48, 901, rate_mib=8)
IDLE = GuestSpec("idle", "idle", 256, 16, 48, 903)
DISK = GuestSpec("disk", "disk", 256, 8, 32, 902, disk_mib=512)


def start_landing(spec: GuestSpec, image: GuestImage, folder: Path, ram_file: Path) -> Guest:
    """Like the gateway's landings: RAM in a shared file, which is where faults are planted too."""
    paths = guests.GuestPaths(folder)
    command = guests.qemu_command(spec, image, paths, incoming=True)
    command[command.index("-M") + 1] += ",memory-backend=pc.ram"
    backend = f"memory-backend-file,id=pc.ram,size={spec.ram_mib}M,mem-path={ram_file},share=on"
    command += ["-object", backend, "-S"]
    process = subprocess.Popen(command, start_new_session=True)
    guests.wait_for_socket(paths.prover)
    return Guest(spec, paths, process)


class Moved:
    """One guest, moved by stock QEMU and held at away."""

    def __init__(self, spec: GuestSpec, image: GuestImage, root: Path) -> None:
        self.spec, self.root, self.ram_file = spec, root, root / "ram"
        self.home = guests.start_guest(spec, image, root / "a")
        self.away: Guest | None = None
        away_paths = guests.GuestPaths(root / "b")
        self.subject = Subject(
            spec.name, spec.ram_mib, spec.fill_mib > 0, spec.disk_mib > 0, self.home.paths.prover,
            away_paths.prover, self.home.pid, image.base_sha256 if spec.disk_mib else None,
        )  # fmt: skip
        logs = {f"{spec.name}@home": self.home.paths.serial, f"{spec.name}@away": away_paths.serial}
        self.prover = Prover([self.subject], logs, root)
        try:
            guests.wait_ready([self.home])
            time.sleep(4)  # some work, some acknowledged writes
            self.move(image)
        except BaseException:
            self.close()
            raise

    def move(self, image: GuestImage) -> None:
        self.stopped_at = time.monotonic()
        with self.home.qmp() as source:
            source.command("stop")
            (self.root / "b").mkdir()
            if self.spec.disk_mib:  # one host, shared storage: the landing opens the same image
                guests.GuestPaths(self.root / "b").disk.symlink_to(self.home.paths.disk)
            self.away = start_landing(self.spec, image, self.root / "b", self.ram_file)
            with self.away.qmp() as landing:
                landing.command("migrate-incoming", uri=f"unix:{self.root}/migrate")
            source.command("migrate-set-parameters", max_bandwidth=1 << 40)
            source.command("migrate", uri=f"unix:{self.root}/migrate")
            done = lambda: source.command("query-migrate").get("status") in (
                "completed",
                "failed",
            )  # noqa: E731
            assert checks.wait_for(done, 60)
            assert source.command("query-migrate")["status"] == "completed", source.command(
                "query-migrate"
            )

    def release(self) -> float:
        """Lets the landing run; returns the downtime in ms."""
        assert self.away
        with self.away.qmp() as landing:
            landing.command("cont")
        return (time.monotonic() - self.stopped_at) * 1000

    def close(self) -> None:
        self.prover.close()
        guests.stop_guests([guest for guest in (self.home, self.away) if guest])


def mixed(x: int) -> int:
    """splitmix64's finaliser, as in guest-work.c."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def is_working_set_page(page: bytes, seed: int, ws_pages: int) -> bool:
    """By its index, its version and the ninth word that follows from them (fill_page): small
    numbers alone are also found in the kernel's own tables."""
    index, version = struct.unpack_from("<QQ", page)
    if not (0 < index < ws_pages and 0 < version < 1000):
        return False
    key = mixed((mixed(seed) + index) % 2**64) + version
    ninth = mixed((key + 2 * 0x9E3779B97F4A7C15) % 2**64)
    return struct.unpack_from("<Q", page, 64)[0] == ninth


def plant_wrong_byte(ram_file: Path, spec: GuestSpec) -> int:
    """Flips a byte in a page of the guest's working set."""
    with open(ram_file, "r+b") as file:
        at = 0
        while page := file.read(4096):
            if is_working_set_page(page, spec.seed, spec.ws_mib * 256):
                file.seek(at + 2048)
                file.write(bytes([page[2048] ^ 1]))
                return at
            at += 4096
    raise AssertionError("no page of the working set found")


class StockMove(unittest.TestCase):
    image: GuestImage

    @classmethod
    def setUpClass(cls) -> None:
        cls.image = guests.build_image()

    def moved(self, spec: GuestSpec) -> Moved:
        folder = tempfile.TemporaryDirectory(prefix="evac-selftest-")
        self.addCleanup(folder.cleanup)
        moved = Moved(spec, self.image, Path(folder.name))
        self.addCleanup(moved.close)
        return moved

    def test_good_move_of_a_writer_then_two_running_copies(self) -> None:
        moved = self.moved(WRITER)
        self.assertTrue(moved.prover.is_held("writer"))
        self.assertEqual(moved.prover.compare_memory("writer"), [])
        downtime_ms = moved.release()
        moved.prover.wait_for_evidence()
        proofs = moved.prover.prove({"writer": downtime_ms})["writer"]
        self.assertEqual(proofs.problems, [])
        self.assertEqual(proofs.report()["differing_pages"], 0)
        # The planted fault: the source runs again.
        with moved.home.qmp() as source:
            source.command("cont")
        time.sleep(0.5)
        proofs = moved.prover.prove({"writer": downtime_ms})["writer"]
        self.assertFalse(proofs.runs_only_at_away.ok)
        self.assertFalse(proofs.passed)

    def test_one_wrong_byte_in_memory_is_found_twice(self) -> None:
        moved = self.moved(IDLE)  # a writer might rewrite the page before it looks
        at = plant_wrong_byte(moved.ram_file, IDLE)
        self.assertEqual(moved.prover.compare_memory("idle"), [at])
        downtime_ms = moved.release()
        moved.prover.wait_for_evidence()
        proofs = moved.prover.prove({"idle": downtime_ms})["idle"]
        self.assertEqual(proofs.differing_pages, 1)
        self.assertFalse(proofs.memory_checksum.ok)
        self.assertFalse(proofs.passed)

    def test_good_move_of_a_disk(self) -> None:
        moved = self.moved(DISK)
        downtime_ms = moved.release()
        moved.prover.wait_for_evidence()
        proofs = moved.prover.prove({"disk": downtime_ms})["disk"]
        self.assertEqual(proofs.problems, [])
        self.assertGreater(proofs.disk.facts["acknowledged"], 10)
        self.assertIsNone(proofs.report()["differing_pages"])


if __name__ == "__main__":
    unittest.main()
