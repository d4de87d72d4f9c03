#!/usr/bin/env python3
"""Tests of the journal reader and of the overlap detection, without QEMU."""

from __future__ import annotations

import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from journal_reader import (  # noqa: E402
    AWAY,
    HOME,
    Entry,
    JournalReader,
    crc32c,
    last_state,
    parse_records,
)
from kill_each_state import Case  # noqa: E402
from run_states import RunStates  # noqa: E402


def record(seq: int, body: bytes) -> bytes:
    payload = struct.pack("<QQ", seq, seq - 1) + body
    length = struct.pack("<I", len(payload))
    return length + struct.pack("<I", crc32c(length + payload)) + payload


def handover(role: int, state: int, vm: int = 7) -> bytes:
    fixed = struct.pack("<BBBBBBBIIQ", 2, role, state, 2, 0, 0, 1, vm, 9, 1234)
    return fixed + struct.pack("<IIIqqI", 10_000, 0, 15_000, 1, 0, 0)


BEGIN = record(1, b"\x01EVACJNL\x01")


class JournalReading(unittest.TestCase):
    def test_crc32c(self) -> None:
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)

    def test_reads_states_and_stops_at_a_torn_end(self) -> None:
        whole = BEGIN + record(2, handover(HOME, 4)) + record(3, handover(HOME, 5))
        entries, used = parse_records(whole + record(4, handover(HOME, 6))[:-1])
        self.assertEqual(entries, [Entry(HOME, s, 7, 1234, 1) for s in ("frozen", "sealed")])
        self.assertEqual(used, len(whole))

    def test_stops_at_a_damaged_record(self) -> None:
        bad = bytearray(record(2, handover(HOME, 4)))
        bad[-1] ^= 1
        self.assertEqual(parse_records(BEGIN + bytes(bad)), ([], len(BEGIN)))

    def test_follows_and_starts_again_after_compaction(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "handover.journal"
            reader = JournalReader(path)
            self.assertEqual(reader.poll(), [])
            path.write_bytes(BEGIN + record(2, handover(AWAY, 2)))
            self.assertEqual([entry.state for entry in reader.poll()], ["armed"])
            self.assertEqual(reader.poll(), [])
            with open(path, "ab") as file:
                file.write(record(3, handover(AWAY, 5)))
            self.assertEqual([entry.state for entry in reader.poll()], ["sealed"])
            other = Path(folder) / "new"
            other.write_bytes(BEGIN + record(2, handover(AWAY, 6)))
            other.rename(path)
            self.assertEqual([entry.state for entry in reader.poll()], ["committed"])
            reader.close()
            newest = last_state(path, AWAY)
            self.assertEqual(newest.state if newest else None, "committed")
            self.assertIsNone(last_state(path, HOME))


class Overlaps(unittest.TestCase):
    def states(self) -> RunStates:
        return RunStates(Path("/nonexistent/home"), Path("/nonexistent/away"))

    def test_one_after_the_other_is_fine(self) -> None:
        states = self.states()
        states.home.sampled(1.0, "running")
        states.home.stopped(2.0)
        states.home.sampled(2.1, "paused")
        states.away.sampled(2.1, "inmigrate")
        states.away.began(2.2)
        states.away.sampled(2.3, "running")
        self.assertEqual(states.overlaps(), [])

    def test_events_show_an_overlap_between_samples(self) -> None:
        states = self.states()
        states.home.began(1.0)
        states.away.began(1.9)
        states.home.stopped(2.0)
        states.away.stopped(2.5)
        self.assertEqual(states.overlaps(), ["both ran for 100.0 ms"])

    def test_samples_show_an_overlap_without_events(self) -> None:
        states = self.states()
        for at_s in (1.0, 1.1, 1.2):
            states.home.sampled(at_s, "running")
            states.away.sampled(at_s, "running")
        states.away.gone()
        self.assertEqual(len(states.overlaps()), 1)


class Cases(unittest.TestCase):
    def test_names(self) -> None:
        self.assertEqual(Case.parse("away:sealed:18"), Case("away", "sealed", 18.0))
        self.assertEqual(Case.parse("home:frozen").name, "home:frozen")
        for bad in ("home", "there:sealed", "home:lost"):
            with self.assertRaises(ValueError):
                Case.parse(bad)


if __name__ == "__main__":
    unittest.main()
