"""The proofs must fail when they should: each is shown a good case and planted faults. No QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import unittest
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import checks  # noqa: E402
from serial_watch import Chunk, SerialWatch, lines_of, load_timeline  # noqa: E402


def beats(first: int, last: int, start_s: float) -> list[Chunk]:
    return [
        Chunk(start_s + (n - first) * 0.1, f"HB {n} {n * 100}\r\n".encode())
        for n in range(first, last + 1)
    ]


class Counter(unittest.TestCase):
    def test_continuous_stream_holds(self) -> None:
        verdict = checks.counter(beats(1, 20, 0.0), beats(21, 40, 2.4), 350)
        self.assertEqual(verdict.problems, [])
        self.assertEqual(verdict.facts["last_at_home"], 20)
        self.assertAlmostEqual(verdict.facts["silence_ms"], 500, delta=1)

    def test_line_cut_by_the_handover_is_joined(self) -> None:
        home = beats(1, 20, 0.0) + [Chunk(2.0, b"HB 2")]
        away = [Chunk(2.3, b"1 2100\r\n")] + beats(22, 40, 2.4)
        self.assertEqual(checks.counter(home, away, 350).problems, [])

    def test_jump_back_is_found(self) -> None:
        verdict = checks.counter(beats(1, 20, 0.0), beats(15, 40, 2.4), 350)
        self.assertIn("the counter went from 20 to 15", verdict.problems)

    def test_lost_beats_are_found(self) -> None:
        verdict = checks.counter(beats(1, 20, 0.0), beats(23, 40, 2.4), 350)
        self.assertIn("the counter went from 20 to 23", verdict.problems)

    def test_unreported_silence_is_found(self) -> None:
        self.assertFalse(checks.counter(beats(1, 20, 0.0), beats(21, 40, 4.0), 350).ok)
        self.assertTrue(checks.counter(beats(1, 20, 0.0), beats(21, 40, 4.0), 1500).ok)
        self.assertTrue(checks.counter(beats(1, 20, 0.0), beats(21, 40, 4.0), None).ok)

    def test_later_silence_and_no_output_are_found(self) -> None:
        late = beats(21, 30, 2.4) + beats(31, 40, 9.0)
        self.assertFalse(checks.counter(beats(1, 20, 0.0), late, 350).ok)
        self.assertFalse(checks.counter(beats(1, 20, 0.0), [], 350).ok)


class Memory(unittest.TestCase):
    GOOD = b"CHK 5 ok 00 1\r\nFIL 2 ok 00 2\r\nCHK 6 ok 00 3\r\nFIL 3 ok 00 4\r\n"

    def test_good_passes_hold(self) -> None:
        self.assertEqual(checks.memory_checksum([], [Chunk(1, self.GOOD)], True).problems, [])

    def test_bad_pass_panic_and_missing_evidence_are_found(self) -> None:
        for bad in (
            b"CHK 7 BAD 00 5\n",
            b"FIL 7 BAD 00 5\n",
            b"BADPAGE 3 phys=0\n",
            b"[ 1.0] Kernel panic - x\n",
        ):
            self.assertFalse(checks.memory_checksum([], [Chunk(1, self.GOOD + bad)], True).ok, bad)
        self.assertFalse(checks.memory_checksum([], [Chunk(1, b"CHK 5 ok 00 1\n")], False).ok)
        self.assertFalse(
            checks.memory_checksum([], [Chunk(1, self.GOOD.replace(b"FIL", b"XXX"))], True).ok
        )


class Pages(unittest.TestCase):
    def test_differences_are_counted_outside_the_vga_window(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            a, b = Path(folder, "a"), Path(folder, "b")
            data = bytearray(os.urandom(3 << 20))
            a.write_bytes(data)
            for at in (0xA0000, 0xBFFFF, 0x9F000, 0xC0000, (2 << 20) + 5):
                data[at] ^= 1
            b.write_bytes(data)
            self.assertEqual(checks.compare_dumps(a, b, 0), [0x9F000, 0xC0000, 2 << 20])
            b.write_bytes(a.read_bytes()[:-4096])
            self.assertEqual(checks.compare_dumps(a, b, 0), [(3 << 20) - 4096])
            self.assertEqual(checks.compare_dumps(a, a, 0), [])

    def test_ram_ranges_of_q35(self) -> None:
        self.assertEqual(checks.ram_ranges(256 << 20), [(0, 256 << 20)])
        self.assertEqual(checks.ram_ranges(4 << 30), [(0, 2 << 30), (4 << 30, 2 << 30)])


def record(n: int) -> bytes:
    payload = bytes([n & 255]) * (checks.RECORD_BYTES - checks.RECORD_HEADER_BYTES)
    header = (
        b"EVACREC1" + n.to_bytes(8, "little") + bytes(8) + zlib.crc32(payload).to_bytes(4, "little")
    )
    return (header + len(payload).to_bytes(4, "little")).ljust(
        checks.RECORD_HEADER_BYTES, b"\0"
    ) + payload


class Disk(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name)
        self.acks = list(range(1, 41))
        content = self.work / "content"
        content.mkdir()
        with open(content / "records.dat", "wb") as file:
            for n in self.acks:
                file.seek(n * checks.RECORD_BYTES)
                file.write(record(n))
        self.image = self.work / "disk.img"
        with open(self.image, "wb") as file:
            file.truncate(64 << 20)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(content), "-F", str(self.image)], check=True
        )

    def verdict(self, acks: list[int]) -> checks.Verdict:
        return checks.disk(self.image, acks, None, self.work)

    def damage(self, what: bytes) -> None:
        data = self.image.read_bytes()
        at = data.index(what)
        with open(self.image, "r+b") as file:
            file.seek(at + len(what))
            file.write(b"\xff" * 64)

    def test_good_image_holds(self) -> None:
        self.assertEqual(self.verdict(self.acks).problems, [])

    def test_missing_and_torn_records_are_found(self) -> None:
        self.assertFalse(self.verdict(self.acks + [41]).ok)  # acknowledged, never written
        self.damage(record(17)[:1000])
        self.assertTrue(any("record 17 " in p for p in self.verdict(self.acks).problems))

    def test_damaged_file_system_is_found(self) -> None:
        with open(self.image, "r+b") as file:  # block group descriptors
            file.seek(4096 if (self.image.stat().st_size >> 20) > 512 else 2048)
            file.write(b"\xff" * 256)
        self.assertFalse(self.verdict(self.acks).ok)

    def test_record_being_written_may_be_torn(self) -> None:
        path = self.work / "ring"
        with open(path, "wb") as file:
            for n in range(1, checks.RECORD_SLOTS + 1):
                file.seek(n % checks.RECORD_SLOTS * checks.RECORD_BYTES)
                file.write(record(n))
            last = checks.RECORD_SLOTS
            file.seek((last + 1) % checks.RECORD_SLOTS * checks.RECORD_BYTES)
            file.write(b"torn")
        self.assertEqual(checks.missing_records(path, last), [])
        with open(path, "r+b") as file:
            file.seek(5 * checks.RECORD_BYTES)
            file.write(b"torn")
        self.assertEqual(len(checks.missing_records(path, last)), 1)


class OnlyAway(unittest.TestCase):
    def test_nothing_answers(self) -> None:
        nowhere = Path("/nonexistent/qmp")
        verdict = checks.runs_only_at_away(nowhere, nowhere, [], [], None)
        self.assertFalse(verdict.ok)


class Watch(unittest.TestCase):
    def test_follows_a_log_that_grows_and_is_replaced(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            watch = SerialWatch({"vm@home": log}).start()
            try:
                log.write_bytes(b"HB 1 100\r\nHB 2")
                self.assertTrue(checks.wait_for(lambda: watch.lines("vm@home"), 5))
                with open(log, "ab") as file:
                    file.write(b" 200\r\n")
                self.assertTrue(checks.wait_for(lambda: len(watch.lines("vm@home")) == 2, 5))
                self.assertEqual(watch.lines("vm@home")[1].text, "HB 2 200")
                watch.save(Path(folder, "timeline"))
                self.assertEqual(
                    list(lines_of(load_timeline(Path(folder, "timeline"))["vm@home"])),
                    watch.lines("vm@home"),
                )
                log.unlink()
                time.sleep(0.05)
                log.write_bytes(b"HB 9 900\r\n")
                self.assertTrue(
                    checks.wait_for(
                        lambda: [x.text for x in watch.lines("vm@home")] == ["HB 9 900"], 5
                    )
                )
            finally:
                watch.stop()


if __name__ == "__main__":
    unittest.main()
